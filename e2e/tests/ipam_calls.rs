//! Topology: one ipam-service; grpcurl as its client.
//!
//! 1. The calls of the manual work to the letter, against a fresh server.
//! 2. Reflection and health answer; a request id comes back.

use e2e::ipam::{Ipam, claim, grpcurl};
use pharos_proto::v1;
use serde_json::json;

const POOL: &str =
    r#"{"pool":{"name":"default-pool","addresses":["192.168.12.100-192.168.12.120"]}}"#;
const CLAIM: &str = r#"{"owner":{"cluster":"east","namespace":"default","name":"web"},"ports":[{"protocol":"TCP","port":80}]}"#;
const OWNER: &str = r#"{"owner":{"cluster":"east","namespace":"default","name":"web"}}"#;

#[test]
fn the_calls_of_the_manual_work_to_the_letter() {
    if grpcurl().is_none() {
        return;
    }
    let ipam = Ipam::start().unwrap();
    let call = |data, method: &str| ipam.grpcurl(data, &format!("pharos.v1.{method}")).unwrap();

    let pool = call(Some(POOL), "PoolService/ApplyPool");
    assert_eq!(pool["pool"]["name"], "default-pool");
    assert_eq!(pool["pool"]["usage"]["ipv4"]["free"], "21");

    let answer = call(Some(CLAIM), "AllocationService/Allocate");
    let allocation = &answer["allocation"];
    let owner = json!({"cluster": "east", "namespace": "default", "name": "web"});
    assert_eq!(allocation["owner"], owner);
    assert_eq!(allocation["state"], "ASSIGNED");
    assert_eq!(allocation["addresses"], json!(["192.168.12.100"]));
    assert_eq!(allocation["pool"], "default-pool");
    assert!(allocation["revision"].is_string(), "{allocation}");
    assert_eq!(
        allocation["claim"]["ports"],
        json!([{"protocol": "TCP", "port": 80}])
    );

    let list = call(None, "AllocationService/ListAllocations");
    assert_eq!(&list["allocations"][0], allocation);

    let released = call(Some(OWNER), "AllocationService/Release");
    assert_eq!(&released["released"], allocation);
    let list = call(None, "AllocationService/ListAllocations");
    assert_eq!(list.get("allocations"), None);

    let address = r#"{"address":"192.168.12.100"}"#;
    let history = call(Some(address), "HistoryService/ListChanges");
    let changes = history["changes"].as_array().unwrap();
    let kinds: Vec<&str> = changes
        .iter()
        .filter_map(|change| change["type"].as_str())
        .collect();
    assert_eq!(kinds, ["DELETED", "CREATED"]);
    assert_eq!(changes[1]["allocation"]["after"]["owner"], owner);
}

#[test]
fn reflection_and_health_answer() {
    if grpcurl().is_none() {
        return;
    }
    let ipam = Ipam::start().unwrap();
    let health = ipam.grpcurl(None, "grpc.health.v1.Health/Check").unwrap();
    assert_eq!(health["status"], "SERVING");
    let one = r#"{"service":"pharos.v1.AllocationService"}"#;
    let health = ipam
        .grpcurl(Some(one), "grpc.health.v1.Health/Check")
        .unwrap();
    assert_eq!(health["status"], "SERVING");
    let info = ipam
        .grpcurl(None, "pharos.v1.StatusService/GetServerInfo")
        .unwrap();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert!(info["storeId"].as_str().unwrap().len() > 30, "{info}");
}

/// What older clients ask; the messages are those of v1.
#[tokio::test(flavor = "multi_thread")]
async fn the_old_reflection_answers_too() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Request {
        #[prost(string, tag = "7")]
        list_services: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Answer {
        #[prost(message, optional, tag = "6")]
        services: Option<Services>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Services {
        #[prost(message, repeated, tag = "1")]
        service: Vec<Service>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct Service {
        #[prost(string, tag = "1")]
        name: String,
    }
    let ipam = Ipam::start().unwrap();
    let mut client = tonic::client::Grpc::new(ipam.channel().unwrap());
    client.ready().await.unwrap();
    let request = Request {
        list_services: "*".to_owned(),
    };
    let path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
    let answers = client
        .streaming(
            tonic::Request::new(tokio_stream::once(request)),
            path.parse().unwrap(),
            tonic_prost::ProstCodec::<Request, Answer>::default(),
        )
        .await;
    let answer = answers
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .expect("an answer");
    let services = answer.services.expect("a list").service;
    let names: Vec<&str> = services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert!(names.contains(&"pharos.v1.AllocationService"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_comes_back_and_is_in_the_history() {
    let ipam = Ipam::start().unwrap();
    ipam.apply_pool("pool", &["192.0.2.1-192.0.2.9"])
        .await
        .unwrap();
    let mut client = ipam.allocations().unwrap();
    let header = |response: &tonic::metadata::MetadataMap| {
        response
            .get("x-request-id")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };

    let mut request = tonic::Request::new(claim("east/default/a"));
    request
        .metadata_mut()
        .insert("x-request-id", "from-header".parse().unwrap());
    let answer = client.allocate(request).await.unwrap();
    assert_eq!(header(answer.metadata()), "from-header");

    let mut message = claim("east/default/b");
    message.request_id = "from-field".to_owned();
    let mut request = tonic::Request::new(message);
    request
        .metadata_mut()
        .insert("x-request-id", "from-header".parse().unwrap());
    let answer = client.allocate(request).await.unwrap();
    assert_eq!(header(answer.metadata()), "from-field");

    let mut bad = claim("east/default/c");
    bad.ports.clear();
    bad.pool = "none".to_owned();
    bad.request_id = "of-an-error".to_owned();
    let status = client.allocate(bad).await.unwrap_err();
    assert_eq!(header(status.metadata()), "of-an-error");

    let made = client.allocate(claim("east/default/d")).await.unwrap();
    assert!(!header(made.metadata()).is_empty());

    let newest = v1::ListChangesRequest {
        page_size: 3,
        ..v1::ListChangesRequest::default()
    };
    let changes = ipam.history().unwrap().list_changes(newest).await.unwrap();
    let changes = changes.into_inner().changes;
    let ids: Vec<&str> = changes
        .iter()
        .map(|change| change.request_id.as_str())
        .collect();
    assert_eq!(ids[1..], ["from-field", "from-header"]);
    assert_eq!(changes[0].actor, "anonymous@127.0.0.1");
}
