//! Topology: a server on loopback, and a client that trusts its certificate.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::super::testing::{Lists, creates, knowing, pool};
use super::super::tls::{Identity, Shown};
use super::*;

const POOLS: &str = "/validate-metallb-io-v1beta1-ipaddresspool";

struct Server {
    address: SocketAddr,
    trusted: CertificateDer<'static>,
    context: Arc<Context>,
    shutdown: Shutdown,
}

impl Server {
    async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let shown = Shown::default();
        shown.show(Identity::parse(certificate.as_bytes(), key.as_bytes()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            trusted: made.cert.der().clone(),
            context: knowing(&[], Lists::Pools(Vec::new())).await,
            shutdown: Shutdown::default(),
        };
        let acceptor = TlsAcceptor::from(Arc::new(shown.server_config().unwrap()));
        let context = Arc::clone(&server.context);
        tokio::spawn(serve(listener, acceptor, context, server.shutdown.clone()));
        server
    }

    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        let name = "localhost".try_into().unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    /// Status and body.
    async fn call(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.connect().await.unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // Who is turned away early need not listen to the end.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    fn count(&self, answer: &'static str) -> u64 {
        let labels = WebhookLabels {
            kind: "IPAddressPool",
            answer,
        };
        let requests = &self.context.metrics.webhook_requests;
        requests.get_or_create(&labels).get()
    }
}

#[tokio::test]
async fn a_question_is_answered_and_what_is_none_is_told_why() {
    let server = Server::start().await;
    let sound = creates(&pool("p", "192.0.2.0/28"));
    let (status, body) = server.call("POST", POOLS, &sound).await;
    assert_eq!(status, 200);
    assert!(body.contains(r#""allowed":true"#), "{body}");
    let (status, body) = server.call("POST", POOLS, &creates(&pool("p", "x"))).await;
    assert_eq!(status, 200);
    assert!(body.contains(r#""allowed":false"#), "{body}");
    for (method, path, body, status, words) in [
        ("POST", "/validate", &sound[..], 404, "no such webhook"),
        ("POST", "/", &[], 404, "no such webhook"),
        ("GET", POOLS, &[], 405, "posted"),
        ("POST", "/convert", b"{", 400, "no ConversionReview: EOF"),
        ("POST", POOLS, b"{", 400, "no AdmissionReview: EOF"),
        (
            "POST",
            POOLS,
            &vec![b' '; LONGEST_BODY + 1],
            413,
            "longer than",
        ),
    ] {
        let (found, text) = server.call(method, path, body).await;
        assert_eq!(found, status, "{method} {path}: {text}");
        assert!(text.contains(words), "{words} is not in {text}");
    }
    let conversion = br#"{"apiVersion":"apiextensions.k8s.io/v1","request":{"uid":"u","desiredAPIVersion":"metallb.io/v1beta2","objects":[]}}"#;
    let (status, body) = server.call("POST", "/convert", conversion).await;
    assert_eq!(status, 200);
    assert!(body.contains(r#""convertedObjects":[]"#), "{body}");
    let counts = ["allowed", "denied", "failed", "warned"].map(|answer| server.count(answer));
    assert_eq!(counts, [1, 1, 3, 0]);
}

#[tokio::test]
async fn a_crowd_of_connections_does_not_grow_and_ends_with_the_process() {
    let server = Server::start().await;
    let mut crowd = Vec::new();
    for _ in 0..CONNECTIONS {
        crowd.push(server.connect().await.unwrap());
    }
    // One more waits until another one goes.
    let mut waiting = std::pin::pin!(server.connect());
    let soon = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(soon.is_err(), "it is served beside all others");
    drop(crowd.pop());
    let mut served = waiting.await.unwrap();
    server.shutdown.stop();
    let mut nothing = Vec::new();
    let end = tokio::time::timeout(GRACE * 5, served.read_to_end(&mut nothing)).await;
    assert!(end.is_ok(), "an idle connection ends at once");
}
