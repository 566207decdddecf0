//! Quotas: wire <-> domain.

use pharos_proto::v1;

use super::fields::FieldErrors;
use crate::state::QuotaUsage;
use crate::state::address::Family;
use crate::state::model::{Quota, QuotaSubject};
use crate::state::names::Name;

/// A quota; `field` is the path of the message.
pub fn quota_from_wire(
    errors: &mut FieldErrors,
    field: &str,
    wire: Option<&v1::Quota>,
) -> Option<Quota> {
    let wire = errors.required(field, wire)?;
    let at = |name: &str| format!("{field}.{name}");
    let name = errors.name(at("name"), &wire.name);
    let cluster = errors.name(at("cluster"), &wire.cluster);
    let namespace = errors.optional_name(at("namespace"), &wire.namespace);
    let subject = match (namespace?, wire.each_namespace) {
        (None, false) => Some(QuotaSubject::Cluster),
        (None, true) => Some(QuotaSubject::EachNamespace),
        (Some(namespace), false) => Some(QuotaSubject::Namespace(namespace)),
        (Some(_), true) => {
            errors.add(at("each_namespace"), "must not be set beside a namespace");
            None
        }
    };
    let space = errors.space(at("address_space"), &wire.address_space);
    let pool = errors.optional_name(at("pool"), &wire.pool);
    let family = match v1::ip_family::Value::try_from(wire.family) {
        Ok(v1::ip_family::Value::Unspecified) => Some(None),
        Ok(v1::ip_family::Value::Ipv4) => Some(Some(Family::V4)),
        Ok(v1::ip_family::Value::Ipv6) => Some(Some(Family::V6)),
        Err(_) => {
            errors.add(at("family"), format!("unknown value {}", wire.family));
            None
        }
    };
    errors.required(&at("limit"), wire.limit.as_ref());
    Some(Quota {
        name: name?,
        cluster: cluster?,
        subject: subject?,
        space: space?,
        pool: pool?,
        family: family?,
        limit: wire.limit?,
        revision: wire.revision,
    })
}

/// A quota, back to the wire, without its usage.
pub fn quota_to_wire(quota: &Quota) -> v1::Quota {
    let namespace = match &quota.subject {
        QuotaSubject::Namespace(namespace) => namespace.to_string(),
        QuotaSubject::Cluster | QuotaSubject::EachNamespace => String::new(),
    };
    let family = match quota.family {
        None => v1::ip_family::Value::Unspecified,
        Some(Family::V4) => v1::ip_family::Value::Ipv4,
        Some(Family::V6) => v1::ip_family::Value::Ipv6,
    };
    v1::Quota {
        name: quota.name.to_string(),
        cluster: quota.cluster.to_string(),
        namespace,
        each_namespace: quota.subject == QuotaSubject::EachNamespace,
        address_space: quota.space.to_string(),
        pool: quota
            .pool
            .as_ref()
            .map_or_else(String::new, Name::to_string),
        family: family.into(),
        limit: Some(quota.limit),
        usage: None,
        revision: quota.revision,
    }
}

/// How much of a quota is in use, to the wire.
pub fn quota_usage_to_wire(usage: &QuotaUsage) -> v1::quota::Usage {
    v1::quota::Usage {
        held: u32::try_from(usage.held).unwrap_or(u32::MAX),
        namespace: usage
            .namespace
            .as_ref()
            .map_or_else(String::new, Name::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::refusal::Rejection;

    fn wire() -> v1::Quota {
        v1::Quota {
            name: "q".to_owned(),
            cluster: "east".to_owned(),
            limit: Some(0),
            ..v1::Quota::default()
        }
    }

    fn read(wire: &v1::Quota) -> Result<Quota, Rejection> {
        let mut errors = FieldErrors::new();
        let quota = quota_from_wire(&mut errors, "quota", Some(wire));
        errors.finish(quota)
    }

    #[test]
    fn a_quota_survives_the_wire() {
        let full = v1::Quota {
            namespace: "red".to_owned(),
            address_space: "lab".to_owned(),
            pool: "p".to_owned(),
            family: v1::ip_family::Value::Ipv6.into(),
            limit: Some(u32::MAX),
            revision: 7,
            ..wire()
        };
        assert_eq!(quota_to_wire(&read(&full).expect("good")), full);
        let each = v1::Quota {
            each_namespace: true,
            ..wire()
        };
        let back = quota_to_wire(&read(&each).expect("good"));
        let expected = v1::Quota {
            address_space: "default".to_owned(),
            ..each
        };
        assert_eq!(back, expected);
    }

    #[test]
    fn every_bad_field_of_a_quota_is_named() {
        let bad = v1::Quota {
            name: String::new(),
            cluster: String::new(),
            namespace: "red".to_owned(),
            each_namespace: true,
            family: 9,
            limit: None,
            ..v1::Quota::default()
        };
        let Err(Rejection::Invalid(bad)) = read(&bad) else {
            panic!("all of them are bad");
        };
        let fields: Vec<&str> = bad.iter().map(|bad| bad.field.as_str()).collect();
        let expected = ["name", "cluster", "each_namespace", "family", "limit"];
        assert_eq!(fields, expected.map(|name| format!("quota.{name}")));
    }
}
