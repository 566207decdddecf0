//! What is asked of an API server.

use hyper::{Method, Uri};

/// What is asked of an API server, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub verb: &'static str,
    /// With its subresource, as in permissions: `services/status`.
    pub resource: String,
    /// Empty: all of them, or one that is being made.
    pub name: String,
    /// It asks for another page of a list than the first.
    pub goes_on: bool,
}

impl Call {
    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }

    pub(super) fn parse(method: &Method, uri: &Uri) -> Self {
        let mut path: Vec<&str> = uri.path().split('/').skip(1).collect();
        // `/api/VERSION` or `/apis/GROUP/VERSION`.
        let root = if path.first() == Some(&"apis") { 3 } else { 2 };
        path.drain(..root.min(path.len()));
        if path.first() == Some(&"namespaces") && path.len() > 2 {
            path.drain(..2);
        }
        let part = |index: usize| path.get(index).copied().unwrap_or_default();
        let has = |name: &str| {
            let mut pairs = uri.query().unwrap_or_default().split('&');
            pairs.any(|pair| pair.split_once('=').is_some_and(|(key, _)| key == name))
        };
        let verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ if has("watch") => "watch",
            _ if part(1).is_empty() => "list",
            _ => "get",
        };
        let resource = match part(2) {
            "" => part(0).to_owned(),
            sub => format!("{}/{sub}", part(0)),
        };
        Self {
            verb,
            resource,
            name: part(1).to_owned(),
            goes_on: has("continue"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_as_permissions_name_it() {
        for (method, uri, verb, resource, name, goes_on) in [
            (
                Method::GET,
                "/api/v1/services?&limit=500",
                "list",
                "services",
                "",
                false,
            ),
            (
                Method::GET,
                "/api/v1/services?limit=2&continue=a",
                "list",
                "services",
                "",
                true,
            ),
            (
                Method::GET,
                "/api/v1/namespaces?&watch=true",
                "watch",
                "namespaces",
                "",
                false,
            ),
            (
                Method::PATCH,
                "/api/v1/namespaces/default/services/web/status?",
                "patch",
                "services/status",
                "web",
                false,
            ),
            (
                Method::POST,
                "/api/v1/namespaces/default/events",
                "create",
                "events",
                "",
                false,
            ),
            (
                Method::GET,
                "/apis/coordination.k8s.io/v1/namespaces/metallb-system/leases/it",
                "get",
                "leases",
                "it",
                false,
            ),
        ] {
            let call = Call::parse(&method, &uri.parse().expect("a URI"));
            let expected = Call {
                verb,
                resource: resource.to_owned(),
                name: name.to_owned(),
                goes_on,
            };
            assert_eq!(call, expected);
        }
    }
}
