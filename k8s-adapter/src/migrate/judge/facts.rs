//! What was read of the cluster, as the API server gave it.

use serde_json::Value;

/// The group of MetalLB's kinds.
pub(super) const METALLB: &str = "metallb.io";
/// The group of the kinds of FRR-K8s, to which MetalLB may leave BGP.
pub(super) const FRR_K8S: &str = "frrk8s.metallb.io";

/// All that was read.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Version of the API server, for example `v1.36.3`.
    pub kubernetes: String,
    /// The uid of namespace `kube-system`.
    pub cluster_uid: String,
    /// Where MetalLB's resources live.
    pub namespace: String,
    pub lists: Vec<Listed>,
}

/// A list of one kind, in all namespaces or in that of MetalLB.
#[derive(Debug, Clone)]
pub struct Listed {
    pub group: String,
    /// The version that was asked for.
    pub version: String,
    pub kind: String,
    pub plural: String,
    /// The text says why it could not be read.
    pub objects: Result<Vec<Value>, String>,
}

/// Whose pools are meant: those of MetalLB's namespace, or those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolsOf {
    Namespace,
    Elsewhere,
}

impl Facts {
    /// The objects of a kind; none if they could not be read.
    pub fn of(&self, group: &str, plural: &str) -> &[Value] {
        let list = self.list(group, plural);
        let objects = list.and_then(|list| list.objects.as_ref().ok());
        objects.map_or(&[], Vec::as_slice)
    }

    /// A list that was asked for.
    pub fn list(&self, group: &str, plural: &str) -> Option<&Listed> {
        let mut lists = self.lists.iter();
        lists.find(|list| list.group == group && list.plural == plural)
    }

    /// Those of a kind in MetalLB's namespace, or in the others.
    pub fn within<'a>(
        &'a self,
        list: &'a Listed,
        of: PoolsOf,
    ) -> impl Iterator<Item = &'a Value> + 'a {
        let objects = list.objects.as_deref().unwrap_or_default().iter();
        objects.filter(move |object| {
            let here = text(object, "/metadata/namespace") == self.namespace;
            here == (of == PoolsOf::Namespace)
        })
    }

    /// The definitions of MetalLB's kinds, and of those of FRR-K8s.
    pub(super) fn definitions(&self) -> impl Iterator<Item = &Value> {
        let all = self.of("apiextensions.k8s.io", "customresourcedefinitions");
        all.iter()
            .filter(|it| [METALLB, FRR_K8S].contains(&text(it, "/spec/group")))
    }
}

/// A text somewhere in an object; empty if there is none.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    let found = object.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default()
}

/// A list somewhere in an object; empty if there is none.
pub(super) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    let found = object.pointer(pointer).and_then(Value::as_array);
    found.map_or(&[], Vec::as_slice)
}

/// An annotation or label; empty if there is none.
pub(super) fn entry<'a>(object: &'a Value, map: &str, key: &str) -> &'a str {
    let map = object.pointer(map).and_then(Value::as_object);
    let found = map.and_then(|map| map.get(key)).and_then(Value::as_str);
    found.unwrap_or_default()
}

/// How people name an object: `IPAddressPool metallb-system/a`.
pub(super) fn named(object: &Value) -> String {
    let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
    match text(object, "/metadata/namespace") {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}
