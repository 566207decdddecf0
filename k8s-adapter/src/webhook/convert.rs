//! ConversionReviews (`apiextensions.k8s.io/v1`) of BGPPeers, for those whose CRD asks for a webhook: ours
//! does not, as the versions name their fields alike. Pure.
//!
//! What is left out stays left out, timers above all: MetalLB turns them into 0, which switches them off.

use serde::Deserialize;
use serde_json::{Value, json};

/// Where MetalLB's CRD asks.
pub const PATH: &str = "/convert";
const VERSION: &str = "apiextensions.k8s.io/v1";
const OLD: &str = "metallb.io/v1beta1";
const NEW: &str = "metallb.io/v1beta2";
/// What the old version has no field for.
const ONLY_NEW: [&str; 9] = [
    "connectTime",
    "disableMP",
    "dualStackAddressFamily",
    "dynamicASN",
    "enableGracefulRestart",
    "interface",
    "localASN",
    "passwordSecret",
    "vrf",
];

/// A question that cannot be answered, as it is none.
#[derive(Debug, thiserror::Error)]
pub enum BadConversion {
    #[error("no ConversionReview: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("apiVersion is {0:?}; only {VERSION:?} is answered")]
    Version(String),
}

/// Why an object cannot be converted.
#[derive(Debug, thiserror::Error)]
enum Unable {
    #[error("{0} is not converted here; BGPPeer is")]
    Kind(String),
    #[error("{0:?} is no version of BGPPeer")]
    Version(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    api_version: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    #[serde(rename = "desiredAPIVersion")]
    desired: String,
    objects: Vec<Value>,
}

/// The answer to a question. All objects are converted, or none.
pub fn answer(body: &[u8]) -> Result<Value, BadConversion> {
    let Envelope {
        api_version,
        request,
    } = serde_json::from_slice(body)?;
    if api_version != VERSION {
        return Err(BadConversion::Version(api_version));
    }
    let Request {
        uid,
        desired,
        objects,
    } = request;
    let converted: Result<Vec<Value>, Unable> = objects
        .into_iter()
        .map(|object| convert(object, &desired))
        .collect();
    let response = match converted {
        Ok(objects) => {
            json!({ "uid": uid, "convertedObjects": objects, "result": { "status": "Success" } })
        }
        Err(error) => {
            let message = error.to_string();
            json!({ "uid": uid, "result": { "status": "Failure", "message": message } })
        }
    };
    Ok(json!({ "apiVersion": VERSION, "kind": "ConversionReview", "response": response }))
}

fn convert(mut object: Value, desired: &str) -> Result<Value, Unable> {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (kind, found) = (text("kind"), text("apiVersion"));
    if kind != "BGPPeer" {
        return Err(Unable::Kind(kind));
    }
    match (found.as_str(), desired) {
        (OLD, OLD) | (NEW, NEW) => return Ok(object),
        (OLD, NEW) => raise(&mut object["spec"]),
        (NEW, OLD) => lower(&mut object["spec"]),
        (OLD | NEW, other) | (other, _) => return Err(Unable::Version(other.to_owned())),
    }
    object["apiVersion"] = json!(desired);
    Ok(object)
}

/// Port 0 means the usual one to the old version, and is not allowed by the new one.
fn raise(spec: &mut Value) {
    if let Some(spec) = spec.as_object_mut()
        && spec.get("peerPort") == Some(&json!(0))
    {
        spec.remove("peerPort");
    }
}

fn lower(spec: &mut Value) {
    if let Some(spec) = spec.as_object_mut() {
        for field in ONLY_NEW {
            spec.remove(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn peer(version: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": version, "kind": "BGPPeer",
            "metadata": { "name": "rack", "namespace": "metallb-system", "uid": "u", "labels": { "a": "b" } },
            "spec": spec,
        })
    }

    fn asked(desired: &str, objects: &[Value]) -> Value {
        let question = json!({
            "apiVersion": VERSION, "kind": "ConversionReview",
            "request": { "uid": "705ab4f5", "desiredAPIVersion": desired, "objects": objects },
        });
        let answer = answer(question.to_string().as_bytes()).expect("a question");
        assert_eq!(answer["response"]["uid"], json!("705ab4f5"));
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&json!(VERSION), &json!("ConversionReview"))
        );
        answer["response"].clone()
    }

    fn converted(desired: &str, object: &Value) -> Value {
        let response = asked(desired, std::slice::from_ref(object));
        assert_eq!(response["result"], json!({ "status": "Success" }));
        response["convertedObjects"][0].clone()
    }

    fn common() -> Value {
        json!({
            "myASN": 64500, "peerASN": 64501, "peerAddress": "10.9.0.1", "sourceAddress": "10.9.0.2",
            "peerPort": 1179, "holdTime": "1m30s", "keepaliveTime": "0s", "routerID": "10.9.0.3",
            "nodeSelectors": [{
                "matchLabels": { "rack": "7" },
                "matchExpressions": [{ "key": "link", "operator": "In", "values": ["fast"] }],
            }],
            "password": "secret", "bfdProfile": "quick", "ebgpMultiHop": true,
        })
    }

    #[test]
    fn what_both_versions_have_stays_as_it_is_both_ways() {
        for (from, to) in [(OLD, NEW), (NEW, OLD)] {
            assert_eq!(converted(to, &peer(from, &common())), peer(to, &common()));
            assert_eq!(
                converted(from, &peer(from, &common())),
                peer(from, &common())
            );
        }
    }

    #[test]
    fn timers_that_are_left_out_stay_left_out() {
        let spec = json!({ "myASN": 1, "peerASN": 2, "peerAddress": "10.9.0.1" });
        for (from, to) in [(OLD, NEW), (NEW, OLD)] {
            assert_eq!(converted(to, &peer(from, &spec)), peer(to, &spec));
        }
    }

    #[test]
    fn what_the_old_version_lacks_goes_and_its_port_0_is_none() {
        let mut spec = common();
        for field in ONLY_NEW {
            spec[field] = json!("x");
        }
        assert_eq!(converted(OLD, &peer(NEW, &spec)), peer(OLD, &common()));
        let mut spec = common();
        spec["peerPort"] = json!(0);
        let raised = converted(NEW, &peer(OLD, &spec));
        assert_eq!(raised["spec"].get("peerPort"), None);
        // An object without a spec is one all the same.
        let mut empty = peer(NEW, &json!({}));
        empty.as_object_mut().expect("an object").remove("spec");
        let lowered = converted(OLD, &empty);
        assert_eq!(lowered["apiVersion"], json!(OLD));
    }

    #[test]
    fn what_the_old_version_lacks_is_what_its_schema_lacks() {
        let crd = include_str!("../../crds/bgppeers.yaml");
        let crd: Value = serde_saphyr::from_str(crd).expect("YAML");
        let fields = |version: &str| -> BTreeSet<String> {
            let versions = crd["spec"]["versions"].as_array().expect("versions");
            let found = versions.iter().find(|it| it["name"] == version);
            let schema = &found.expect("it is there")["schema"]["openAPIV3Schema"];
            let spec = &schema["properties"]["spec"]["properties"];
            spec.as_object().expect("fields").keys().cloned().collect()
        };
        let (old, new) = (fields("v1beta1"), fields("v1beta2"));
        assert!(old.is_subset(&new), "{old:?}");
        let lacks: Vec<&String> = new.difference(&old).collect();
        assert_eq!(lacks, ONLY_NEW);
    }

    #[test]
    fn one_object_that_cannot_be_converted_fails_all_of_them() {
        let sound = peer(OLD, &common());
        let mut pool = sound.clone();
        pool["kind"] = json!("IPAddressPool");
        let mut unknown = sound.clone();
        unknown["apiVersion"] = json!("metallb.io/v1alpha1");
        for (desired, objects, words) in [
            (
                NEW,
                [sound.clone(), pool],
                "IPAddressPool is not converted here",
            ),
            (
                NEW,
                [sound.clone(), unknown],
                "\"metallb.io/v1alpha1\" is no version",
            ),
            (
                "metallb.io/v1",
                [sound.clone(), sound.clone()],
                "\"metallb.io/v1\" is no version",
            ),
        ] {
            let response = asked(desired, &objects);
            assert_eq!(response["result"]["status"], json!("Failure"));
            let message = response["result"]["message"].as_str().expect("words");
            assert!(message.contains(words), "{words} is not in {message}");
            assert_eq!(response.get("convertedObjects"), None);
        }
        assert_eq!(asked(NEW, &[])["convertedObjects"], json!([]));
    }

    #[test]
    fn what_is_no_question_is_told_so() {
        for (body, words) in [
            ("{", "no ConversionReview"),
            (
                r#"{"apiVersion":"apiextensions.k8s.io/v1beta1","request":{"uid":"u","desiredAPIVersion":"x","objects":[]}}"#,
                "only",
            ),
        ] {
            let error = answer(body.as_bytes()).expect_err(body).to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
