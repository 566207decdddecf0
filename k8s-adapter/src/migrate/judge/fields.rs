//! Fields of an object that are not read: what is in them would be lost.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::crd::{BgpSpec, CommunitySpec, L2Spec, PeerSpec, PoolSpec, ProfileSpec};

/// Paths of all fields of an object's spec that its type does not know. None for a spec that cannot be
/// read at all, which is told elsewhere, and for a kind that is not read.
pub(super) fn unknown(kind: &str, object: &Value) -> Vec<String> {
    let Some(spec) = object.get("spec") else {
        return Vec::new();
    };
    let read = match kind {
        "IPAddressPool" => again::<PoolSpec>(spec),
        "L2Advertisement" => again::<L2Spec>(spec),
        "BGPAdvertisement" => again::<BgpSpec>(spec),
        "Community" => again::<CommunitySpec>(spec),
        "BGPPeer" => again::<PeerSpec>(spec),
        "BFDProfile" => again::<ProfileSpec>(spec),
        _ => None,
    };
    let mut paths = Vec::new();
    if let Some(read) = read {
        compare("spec", spec, &read, &mut paths);
    }
    paths
}

/// A spec as it is after it was read.
fn again<S: DeserializeOwned + Serialize>(spec: &Value) -> Option<Value> {
    let read: S = serde_json::from_value(spec.clone()).ok()?;
    serde_json::to_value(read).ok()
}

fn compare(path: &str, there: &Value, read: &Value, paths: &mut Vec<String>) {
    match (there, read) {
        (Value::Object(there), Value::Object(read)) => {
            for (name, value) in there.iter().filter(|(_, value)| says_something(value)) {
                let path = format!("{path}.{name}");
                match read.get(name) {
                    Some(read) => compare(&path, value, read, paths),
                    None => paths.push(path),
                }
            }
        }
        (Value::Array(there), Value::Array(read)) => {
            for (index, (value, read)) in there.iter().zip(read).enumerate() {
                compare(&format!("{path}[{index}]"), value, read, paths);
            }
        }
        (_, _) => {}
    }
}

/// What is left out means the same as an empty list.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}
