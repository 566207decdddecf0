//! What an adapter may do, what it does, and as whom: its ServiceAccount's own token, the permissions of
//! `deploy/k8s-adapter-rbac.yaml`, and the audit log of the API server.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{ADAPTER_USER, Stage, repository};

/// One permission, or one use of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    pub group: String,
    /// With its subresource.
    pub resource: String,
    pub verb: String,
    /// The only object that it is about; none: whichever.
    pub name: Option<String>,
}

/// The audit log of an API server: each request of an adapter, and whether it was granted.
#[derive(Debug)]
pub struct Audit {
    directory: TempDir,
}

impl Audit {
    /// A log that no API server has written yet.
    pub fn new() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("pharos-audit-").tempdir()?;
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{ "level": "Metadata", "users": [ADAPTER_USER] }, { "level": "None" }],
        });
        std::fs::write(directory.path().join("policy.yaml"), policy.to_string())?;
        Ok(Self { directory })
    }

    /// What makes kube-apiserver write it, each request before its answer.
    pub fn flags(&self) -> Vec<String> {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        vec![
            format!("--audit-policy-file={}", path("policy.yaml")),
            format!("--audit-log-path={}", path("log")),
            "--audit-log-mode=blocking-strict".to_owned(),
        ]
    }

    /// What the adapter has asked for so far: what was granted, and what was not.
    pub fn requests(&self) -> anyhow::Result<(BTreeSet<Grant>, BTreeSet<Grant>)> {
        let text = std::fs::read_to_string(self.directory.path().join("log"))?;
        let (mut granted, mut refused) = (BTreeSet::new(), BTreeSet::new());
        for line in text.lines() {
            // The last line may be one that is being written.
            let Ok(event) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let decision = &event["annotations"]["authorization.k8s.io/decision"];
            let request = request(&event);
            if decision == "allow" {
                granted.insert(request);
            } else {
                refused.insert(request);
            }
        }
        Ok((granted, refused))
    }
}

fn request(event: &Value) -> Grant {
    let object = &event["objectRef"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = match object["subresource"].as_str() {
        Some(sub) => format!("{}/{sub}", text(&object["resource"])),
        None if object.is_null() => text(&event["requestURI"]),
        None => text(&object["resource"]),
    };
    Grant {
        group: text(&object["apiGroup"]),
        resource,
        verb: text(&event["verb"]),
        name: object["name"].as_str().map(str::to_owned),
    }
}

/// Every permission in the manifest, one by one.
pub fn grants() -> anyhow::Result<BTreeSet<Grant>> {
    let text = std::fs::read_to_string(manifest())?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let mut grants = BTreeSet::new();
    for object in objects {
        for rule in object["rules"].as_array().into_iter().flatten() {
            grants.extend(of_rule(rule).context("a rule lacks something")?);
        }
    }
    Ok(grants)
}

fn of_rule(rule: &Value) -> Option<Vec<Grant>> {
    let texts = |field: &str| -> Option<Vec<String>> {
        let all = rule.get(field)?.as_array()?.iter();
        all.map(|it| it.as_str().map(str::to_owned)).collect()
    };
    let names: Vec<Option<String>> = match texts("resourceNames") {
        Some(names) => names.into_iter().map(Some).collect(),
        None => vec![None],
    };
    let mut grants = Vec::new();
    for group in &texts("apiGroups")? {
        for resource in &texts("resources")? {
            for verb in &texts("verbs")? {
                grants.extend(names.iter().map(|name| Grant {
                    group: group.clone(),
                    resource: resource.clone(),
                    verb: verb.clone(),
                    name: name.clone(),
                }));
            }
        }
    }
    Some(grants)
}

/// Permissions that no request has used.
pub fn unused<'a>(grants: &'a BTreeSet<Grant>, used: &BTreeSet<Grant>) -> Vec<&'a Grant> {
    let is_used = |grant: &Grant| used.iter().any(|request| grant.covers(request));
    grants.iter().filter(|grant| !is_used(grant)).collect()
}

/// Requests that no permission covers: somebody else granted them.
pub fn uncovered<'a>(grants: &BTreeSet<Grant>, used: &'a BTreeSet<Grant>) -> Vec<&'a Grant> {
    let is_covered = |request: &Grant| grants.iter().any(|grant| grant.covers(request));
    used.iter().filter(|request| !is_covered(request)).collect()
}

impl Grant {
    fn covers(&self, request: &Self) -> bool {
        (&self.group, &self.resource, &self.verb)
            == (&request.group, &request.resource, &request.verb)
            && (self.name.is_none() || self.name == request.name)
    }
}

fn manifest() -> PathBuf {
    repository().join("deploy/k8s-adapter-rbac.yaml")
}

impl Stage {
    /// Starts an adapter as its ServiceAccount, with a token of it as pods have one, and waits until it is
    /// ready.
    pub fn start_adapter_with_token(
        &mut self,
        cluster: &str,
        flags: &[&str],
    ) -> anyhow::Result<()> {
        let token = ["create", "token", "k8s-adapter", "-n", "metallb-system"];
        let token = self.kubectl(cluster, &token)?;
        let kube = &self.cluster(cluster)?.kube;
        let text = std::fs::read_to_string(kube.kubeconfig_of(ADAPTER_USER))?;
        let mut config: Value = serde_json::from_str(&text)?;
        config["users"][0]["user"]["token"] = json!(token.trim());
        let kubeconfig = self.directory.path().join("account.kubeconfig");
        std::fs::write(&kubeconfig, config.to_string())?;
        self.launch_adapter(cluster, cluster, &kubeconfig, flags)?;
        self.wait_adapter(cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(resource: &str, verb: &str, name: Option<&str>) -> Grant {
        Grant {
            group: String::new(),
            resource: resource.to_owned(),
            verb: verb.to_owned(),
            name: name.map(str::to_owned),
        }
    }

    #[test]
    fn what_is_granted_and_not_used_is_found_and_the_other_way_round() {
        let rule = json!({
            "apiGroups": [""], "resources": ["leases"], "resourceNames": ["ours"],
            "verbs": ["get", "patch"],
        });
        let mut grants = BTreeSet::from_iter(of_rule(&rule).expect("a rule"));
        grants.insert(grant("services", "list", None));
        let used = BTreeSet::from([
            grant("leases", "get", Some("ours")),
            grant("leases", "patch", Some("another")),
            grant("services", "list", Some("web")),
            grant("services/status", "patch", Some("web")),
        ]);
        assert_eq!(
            unused(&grants, &used),
            [&grant("leases", "patch", Some("ours"))]
        );
        assert_eq!(
            uncovered(&grants, &used),
            [
                &grant("leases", "patch", Some("another")),
                &grant("services/status", "patch", Some("web")),
            ]
        );
    }
}
