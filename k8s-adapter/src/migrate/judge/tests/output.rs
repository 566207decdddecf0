//! What people get: the table, the exit code, the backup.

use serde_json::{Value, json};

use crate::migrate::judge::testing::{config_map, facts, named};
use crate::migrate::judge::{AddressBook, Fate, Remark, Report, Row, Weight, backup, text};

fn report(services: Vec<Row>, remarks: Vec<Remark>) -> Report {
    Report {
        cluster: "east".to_owned(),
        namespace: "metallb-system".to_owned(),
        kubernetes: "v1.36.3".to_owned(),
        metallb: "v0.15.2".to_owned(),
        bgp_mode: "native".to_owned(),
        address_book: AddressBook {
            url: "http://127.0.0.1:7471/".to_owned(),
            version: "0.1.0".to_owned(),
            unknown: String::new(),
        },
        applied: false,
        backup: None,
        services,
        remarks,
    }
}

fn line(service: &str, before: &[&str], after: &[&str], fate: Fate, why: &str) -> Row {
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    Row {
        service: service.to_owned(),
        before: texts(before),
        after: texts(after),
        pool: "a".to_owned(),
        fate,
        why: why.to_owned(),
    }
}

#[test]
fn people_read_an_aligned_table() {
    let rows = vec![
        line(
            "default/web",
            &["192.0.2.1"],
            &["192.0.2.1"],
            Fate::Unchanged,
            "",
        ),
        line(
            "shop/mail",
            &["192.0.2.100", "2001:db8::1"],
            &[],
            Fate::Loses,
            "pool is full",
        ),
    ];
    let remark = Remark {
        weight: Weight::Blocks,
        object: "ConfigMap metallb-system/bgpextras".to_owned(),
        message: "is not read".to_owned(),
    };
    let expected = "\
cluster       east
namespace     metallb-system
Kubernetes    v1.36.3
MetalLB       v0.15.2, BGP mode native
ipam-service  0.1.0 at http://127.0.0.1:7471/

SERVICE      BEFORE                   AFTER      POOL
default/web  192.0.2.1                192.0.2.1  a     unchanged
shop/mail    192.0.2.100,2001:db8::1  -          a     LOSES ITS ADDRESS: pool is full

To be cured first:
- ConfigMap metallb-system/bgpextras: is not read

1 of 2 Services are unchanged. Not to be migrated yet: 1 of 2 Services would not keep what they have, and 1 of the \
remarks must be cured first.
";
    assert_eq!(text(&report(rows, vec![remark])), expected);
}

#[test]
fn only_what_nobody_would_notice_lets_a_migration_go_on() {
    let of = |fate| report(vec![line("default/web", &[], &[], fate, "")], Vec::new());
    for fate in [Fate::Unchanged, Fate::Gains, Fate::Waits, Fate::OtherClass] {
        assert_eq!(of(fate).obstacle(), None, "{fate:?}");
    }
    for fate in [Fate::Changes, Fate::Loses, Fate::NotHeld, Fate::NotKnown] {
        let why = of(fate).obstacle().expect("an obstacle");
        assert!(why.contains("1 of 1 Services"), "{fate:?}: {why}");
    }
    let remark = |weight| Remark {
        weight,
        object: String::new(),
        message: String::new(),
    };
    assert_eq!(
        report(Vec::new(), vec![remark(Weight::Attention)]).obstacle(),
        None
    );
    assert!(
        report(Vec::new(), vec![remark(Weight::Blocks)])
            .obstacle()
            .is_some()
    );
}

#[test]
fn a_backup_has_what_was_declared_and_nothing_that_the_api_server_said() {
    let mut facts = facts();
    let mut map = config_map(
        "metallb-excludel2",
        "excludel2.yaml",
        "line one\nline two\n",
    );
    map["metadata"]["annotations"] = json!({
        "kubectl.kubernetes.io/last-applied-configuration": "{}", "kept": "yes",
    });
    facts.add("", "configmaps", map);
    facts.add(
        "",
        "configmaps",
        config_map("kube-root-ca.crt", "ca.crt", "x"),
    );
    let told = named("ServiceL2Status", "metallb-system", "l2-1");
    facts.know(
        "metallb.io",
        "servicel2statuses",
        "ServiceL2Status",
        vec![told],
    );
    let file = backup::file(&facts, "east", "then");
    assert!(file.contains("#   default/web 192.0.2.1\n"), "{file}");
    let documents: Vec<Value> = file
        .split("---\n")
        .skip(1)
        .map(|text| serde_saphyr::from_str(text).expect("it is YAML"))
        .collect();
    let names: Vec<&str> = documents
        .iter()
        .map(|it| it["metadata"]["name"].as_str().expect("a name"))
        .collect();
    let expected = [
        "ipaddresspools.metallb.io",
        "l2advertisements.metallb.io",
        "bgpadvertisements.metallb.io",
        "bgppeers.metallb.io",
        "a",
        "all",
        "metallb-excludel2",
    ];
    assert_eq!(names, expected);
    assert_eq!(backup::count(&facts), expected.len());
    for document in &documents {
        assert!(document.get("status").is_none(), "{document}");
        assert!(document["metadata"].get("uid").is_none(), "{document}");
    }
    let map = &documents[6];
    assert_eq!(map["data"]["excludel2.yaml"], "line one\nline two\n");
    assert_eq!(map["metadata"]["annotations"], json!({ "kept": "yes" }));
    assert_eq!(
        documents[4]["spec"],
        json!({ "addresses": ["192.0.2.0/28"] })
    );
}
