//! The driver, against an API server of a few lines.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use pharos_process::Readiness;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use super::object::StatusKind;
use super::picture::tests::{announcement, answerer, picture, service};
use super::*;
use crate::claim::Settings;
use crate::client::Ipam;
use crate::kubernetes::Clients;
use crate::metrics::Metrics;
use crate::watches::SILENCE;

/// Far more than what is waited for here.
const SOON: Duration = Duration::from_secs(30);

/// What an API server is asked to write, and when it answers.
struct Api {
    asked: mpsc::UnboundedSender<(Method, String, Value)>,
    /// An answer for each.
    answers: Semaphore,
    /// Answer to what names this node; the others are taken.
    refuses: Mutex<Option<(String, StatusCode)>>,
    objects: Mutex<BTreeMap<String, Value>>,
}

async fn answer(State(api): State<Arc<Api>>, method: Method, uri: Uri, body: String) -> Response {
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    let _ = api
        .asked
        .send((method.clone(), uri.path().to_owned(), body.clone()));
    api.answers.acquire().await.expect("open").forget();
    let refuses = api.refuses.lock().expect("no panic").clone();
    if let Some((node, code)) = refuses
        && body.to_string().contains(&format!("\"{node}\""))
    {
        let status = json!({
            "kind": "Status", "status": "Failure", "code": code.as_u16(), "message": "not today",
        });
        return (code, status.to_string()).into_response();
    }
    let mut objects = api.objects.lock().expect("no panic");
    let number = objects.len() + 10;
    let name = format!("l2-{number}");
    let object = match method {
        Method::POST => json!({
            "metadata": {
                "name": name, "uid": name, "resourceVersion": number.to_string(),
                "labels": body["metadata"]["labels"],
            },
        }),
        _ => {
            let name = uri.path().rsplit('/').nth(1).unwrap_or_default();
            let mut object = objects.get(name).cloned().unwrap_or_default();
            object["status"] = body["status"].clone();
            object
        }
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    objects.insert(name.to_owned(), object.clone());
    let code = if method == Method::POST {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    (code, object.to_string()).into_response()
}

/// A replica that writes, for which two Services have addresses that a node answers for each.
async fn stage() -> (
    Arc<Context>,
    Arc<Api>,
    mpsc::UnboundedReceiver<(Method, String, Value)>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (asked, questions) = mpsc::unbounded_channel();
    let api = Arc::new(Api {
        asked,
        answers: Semaphore::new(0),
        refuses: Mutex::new(None),
        objects: Mutex::default(),
    });
    let router = Router::new().fallback(answer).with_state(Arc::clone(&api));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let settings = Settings {
        cluster: "east".to_owned(),
        lb_class: None,
        address_space: "default".to_owned(),
        ignore_exclude_lb: false,
    };
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let ipam = format!("http://{nobody}").parse().expect("a URL");
    let kube = format!("http://{address}").parse().expect("a URL");
    let context = Arc::new(Context::new(
        World::new(settings.clone()),
        Clients::new(kube::Config::new(kube), SILENCE).expect("clients"),
        Ipam::new(ipam, settings),
        "metallb-system".to_owned(),
        None,
        Readiness::default(),
        Metrics::register(&mut Registry::default()),
    ));
    context.leadership.hold(Instant::now() + SOON * 10);
    let mut world = context.world();
    world.index.replace_services(vec![
        service("a", &["192.0.2.1"]),
        service("b", &["192.0.2.2"]),
    ]);
    world.index.replace_statuses(StatusKind::L2, Vec::new());
    world.announced = Some(picture(vec![
        announcement("192.0.2.1", vec![answerer("n1", &["eth0"], false)]),
        announcement("192.0.2.2", vec![answerer("n1", &["eth0"], false)]),
    ]));
    drop(world);
    (context, api, questions)
}

fn node_of(body: &Value) -> &str {
    body["metadata"]["labels"]["metallb.io/node"]
        .as_str()
        .unwrap_or_default()
}

fn service_of(body: &Value) -> &str {
    let labels = &body["metadata"]["labels"];
    labels["metallb.io/service-name"]
        .as_str()
        .unwrap_or_default()
}

/// The next status object that is to be made: the Service, and the node that answers for it.
async fn made(
    questions: &mut mpsc::UnboundedReceiver<(Method, String, Value)>,
) -> (String, String) {
    let next = async {
        loop {
            let (method, path, body) = questions.recv().await.expect("asked");
            if method == Method::POST && path.ends_with("/servicel2statuses") {
                return (service_of(&body).to_owned(), node_of(&body).to_owned());
            }
        }
    };
    tokio::time::timeout(SOON, next).await.expect("soon")
}

#[tokio::test]
async fn what_is_heard_while_a_write_takes_its_time_is_what_is_written_next() {
    let (context, api, mut questions) = stage().await;
    let writer = Arc::clone(&context);
    let writes = tokio::spawn(async move { write(&writer).await });
    let (first, _) = made(&mut questions).await;
    // The API server takes its time, and the other Service goes to another node meanwhile.
    let (other, address) = match first.as_str() {
        "a" => ("b", "192.0.2.2"),
        _ => ("a", "192.0.2.1"),
    };
    let moved = announcement(address, vec![answerer("n2", &["eth0"], false)]);
    if let Some(picture) = &mut context.world().announced {
        picture.note(&pharos_proto::v1::WatchAnnouncementsResponse {
            announcements: vec![moved],
            ..Default::default()
        });
    }
    context.status.notify_one();
    // A change is looked at after that.
    tokio::time::sleep(PAUSE).await;
    api.answers.add_permits(1000);
    assert_eq!(
        made(&mut questions).await,
        (other.to_owned(), "n2".to_owned())
    );
    writes.abort();
}

#[tokio::test]
async fn what_is_refused_keeps_no_other_waiting_and_is_tried_ever_less_often() {
    let (context, api, mut questions) = stage().await;
    if let Some(picture) = &mut context.world().announced {
        picture.note(&pharos_proto::v1::WatchAnnouncementsResponse {
            announcements: vec![announcement(
                "192.0.2.2",
                vec![answerer("n2", &["eth0"], false)],
            )],
            ..Default::default()
        });
    }
    *api.refuses.lock().expect("no panic") = Some(("n2".to_owned(), StatusCode::FORBIDDEN));
    api.answers.add_permits(1000);
    let writer = Arc::clone(&context);
    let writes = tokio::spawn(async move { write(&writer).await });
    let mut tries = Vec::new();
    let mut others = 0;
    while tries.len() < 3 {
        match made(&mut questions).await.0.as_str() {
            "b" => tries.push(Instant::now()),
            _ => others += 1,
        }
    }
    assert_eq!(others, 1, "the other one is written, once");
    let waits = [tries[1] - tries[0], tries[2] - tries[1]];
    assert!(
        waits[0] >= pace::REST * 2 && waits[1] >= pace::REST * 4,
        "{waits:?}"
    );
    writes.abort();
}
