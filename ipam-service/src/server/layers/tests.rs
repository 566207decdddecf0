//! Layers around a service of the test's own.

use std::convert::Infallible;

use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

use super::*;
use crate::testing::within;

const UNARY: &str = "/pharos.v1.AllocationService/Allocate";
const STREAM: &str = "/pharos.v1.AllocationService/WatchAllocations";

fn methods() -> Arc<Methods> {
    Arc::new(Methods::register(&mut Registry::default()).expect("valid descriptors"))
}

fn request(path: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::default()).expect("valid request")
}

fn header<'a, B>(response: &'a Response<B>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

#[tokio::test]
async fn a_request_id_is_echoed_and_made_where_it_is_missing() {
    let service = ServiceBuilder::new()
        .layer(ObserveLayer::new(methods()))
        .service(service_fn(|request: Request<Body>| async move {
            let admission = request.extensions().get::<Admission>().cloned();
            let mut response = Response::new(Body::default());
            let id = admission.expect("admitted").request_id.to_string();
            response
                .headers_mut()
                .insert("x-seen", id.parse().expect("header"));
            Ok::<_, Infallible>(response)
        }));
    let given = service
        .clone()
        .oneshot(request(UNARY, &[("x-request-id", "abc")]))
        .await;
    let given = given.expect("infallible");
    assert_eq!(header(&given, "x-request-id"), Some("abc"));
    assert_eq!(header(&given, "x-seen"), Some("abc"));
    let long = "x".repeat(MAX_REQUEST_ID_BYTES + 1);
    for headers in [vec![], vec![("x-request-id", long.as_str())]] {
        let made = service
            .clone()
            .oneshot(request(UNARY, &headers))
            .await
            .expect("infallible");
        let id = header(&made, "x-request-id").expect("made");
        assert!(id.len() < 40 && header(&made, "x-seen") == Some(id), "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_unary_call_ends_at_its_deadline_and_a_stream_does_not() {
    let slow = || {
        ServiceBuilder::new()
            .layer(ObserveLayer::new(methods()))
            .layer(AdmitLayer::new(methods()))
            .service(service_fn(|_: Request<Body>| async {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                Ok::<_, Infallible>(Response::new(Body::default()))
            }))
    };
    for (headers, seconds) in [
        (vec![], DEFAULT_TIMEOUT),
        (vec![("grpc-timeout", "1500m")], Duration::from_millis(1500)),
        (vec![("grpc-timeout", "99H")], MAX_TIMEOUT),
    ] {
        let before = Instant::now();
        let response = slow()
            .oneshot(request(UNARY, &headers))
            .await
            .expect("infallible");
        assert_eq!(code_of(response.headers()), Code::DeadlineExceeded);
        assert_eq!(
            before.elapsed().as_millis() / 10,
            (seconds - BEFORE_TONIC).as_millis() / 10
        );
    }
    let response = slow()
        .oneshot(request(STREAM, &[]))
        .await
        .expect("infallible");
    assert_eq!(code_of(response.headers()), Code::Ok);
}

#[tokio::test]
async fn calls_beyond_the_limit_are_shed_and_streams_are_not_counted() {
    let open = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&open);
    let service = ServiceBuilder::new()
        .layer(AdmitLayer::with_places(methods(), 1, 1))
        .service(service_fn(move |_: Request<Body>| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("never closed").forget();
                Ok::<_, Infallible>(Response::new(Body::default()))
            }
        }));
    let held = tokio::spawn(service.clone().oneshot(request(UNARY, &[])));
    let stream = tokio::spawn(service.clone().oneshot(request(STREAM, &[])));
    let held_up = async {
        while service.layer.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
    };
    within(held_up).await;
    let shed = service
        .clone()
        .oneshot(request(UNARY, &[]))
        .await
        .expect("infallible");
    assert_eq!(code_of(shed.headers()), Code::ResourceExhausted);
    let counted = &service.layer.methods.shed;
    assert_eq!((counted.of_client.get(), counted.of_server.get()), (0, 1));
    open.add_permits(3);
    for task in [held, stream] {
        let response = within(task).await.expect("no panic");
        let response = response.expect("infallible");
        assert_eq!(code_of(response.headers()), Code::Ok);
    }
    let next = service
        .clone()
        .oneshot(request(UNARY, &[]))
        .await
        .expect("infallible");
    assert_eq!(code_of(next.headers()), Code::Ok);
}

#[test]
fn timeouts_are_read_as_grpc_writes_them() {
    assert_eq!(parse_timeout("20S"), Some(Duration::from_secs(20)));
    assert_eq!(parse_timeout("1u"), Some(Duration::from_micros(1)));
    assert_eq!(
        parse_timeout("99999999H"),
        Some(Duration::from_secs(99_999_999 * 3600))
    );
    for bad in ["", "S", "123456789S", "-1S", "1s", "1", "+1S"] {
        assert_eq!(parse_timeout(bad), None, "{bad}");
    }
}

#[tokio::test]
async fn one_peer_leaves_half_of_the_places_to_the_others() {
    let open = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&open);
    let service = ServiceBuilder::new()
        .layer(AdmitLayer::with_places(methods(), 4, 2))
        .service(service_fn(move |_: Request<Body>| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("never closed").forget();
                Ok::<_, Infallible>(Response::new(Body::default()))
            }
        }));
    let call = |peer: &str, port: u16| {
        let mut request = request(UNARY, &[]);
        let remote = format!("{peer}:{port}").parse().expect("an address");
        request.extensions_mut().insert(TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(remote),
        });
        tokio::spawn(service.clone().oneshot(request))
    };
    let code = async |call: JoinHandle<Result<Response<Body>, Infallible>>| {
        let response = within(call).await.expect("no panic");
        code_of(response.expect("infallible").headers())
    };
    let waits_for = async |places: usize| {
        let taken = async {
            while service.layer.places.available_permits() != places {
                tokio::task::yield_now().await;
            }
        };
        within(taken).await;
    };
    let greedy = [call("192.0.2.1", 1), call("192.0.2.1", 2)];
    waits_for(2).await;
    assert_eq!(code(call("192.0.2.1", 3)).await, Code::ResourceExhausted);
    let counted = &service.layer.methods.shed;
    assert_eq!((counted.of_client.get(), counted.of_server.get()), (1, 0));
    let other = call("192.0.2.2", 1);
    waits_for(1).await;
    open.add_permits(3);
    for admitted in greedy.into_iter().chain([other]) {
        assert_eq!(code(admitted).await, Code::Ok);
    }
    // A place that is free again can be taken again, and nothing is kept of who left.
    assert!(service.layer.peers.lock().is_empty());
    open.add_permits(1);
    assert_eq!(code(call("192.0.2.1", 4)).await, Code::Ok);
}
