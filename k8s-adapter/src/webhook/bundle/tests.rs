//! Bundles of several replicas, and of others.

use super::super::certificate::Made;
use super::*;

const NOW: i64 = 1_800_000_000;
const LIFE: i64 = 3000;

fn made(replica: &str, at: i64) -> CertificateDer<'static> {
    let names = BTreeSet::from(["a".to_owned()]);
    Made::new(replica, &names, at, LIFE).unwrap().der
}

/// Of another controller.
fn foreign() -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["metallb".to_owned()]).unwrap();
    made.cert.der().clone()
}

fn text(certificates: &[&CertificateDer<'static>]) -> String {
    certificates.iter().map(|it| pem(it)).collect()
}

fn merged(
    found: &[&CertificateDer<'static>],
    replica: &str,
    wanted: &[&CertificateDer<'static>],
) -> Option<String> {
    let wanted = Wanted {
        replica,
        certificates: wanted.to_vec(),
    };
    merge(text(found).as_bytes(), &wanted, NOW)
}

#[test]
fn a_bundle_is_what_all_living_replicas_show_and_what_others_put_there() {
    let (one, two, metallb) = (made("one", NOW), made("two", NOW), foreign());
    let bundle = merged(&[], "one", &[&one]).unwrap();
    assert_eq!(bundle, text(&[&one]));
    let both = merged(&[&metallb, &one], "two", &[&two]).unwrap();
    assert_eq!(both, text(&[&metallb, &one, &two]));
    // Neither has anything more to say to that.
    let found = [&metallb, &one, &two];
    assert_eq!(merged(&found, "one", &[&one]), None);
    assert_eq!(merged(&found, "two", &[&two]), None);
    // What is there twice goes, and so does what is no certificate.
    let wanted = Wanted {
        replica: "one",
        certificates: vec![&one],
    };
    assert_eq!(merge(b"nonsense\n", &wanted, NOW), Some(text(&[&one])));
    assert_eq!(merged(&[&one, &one], "one", &[&one]), Some(text(&[&one])));
}

#[test]
fn what_was_replaced_or_ended_goes() {
    let (old, new, two) = (made("one", NOW - 9), made("one", NOW), made("two", NOW));
    let ended = made("three", NOW - LIFE);
    let both = [&old, &new];
    let bundle = merged(&[&old, &ended, &two], "one", &both).unwrap();
    assert_eq!(bundle, text(&[&old, &two, &new]));
    let bundle = merged(&[&old, &two, &new], "one", &[&new]).unwrap();
    assert_eq!(bundle, text(&[&two, &new]));
    // One that ended is not taken out of what others put there: their clock may be another one.
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.not_after = rcgen::date_time_ymd(2000, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let past = parameters.self_signed(&key).unwrap().der().clone();
    assert_eq!(merged(&[&past, &new], "one", &[&new]), None);
}

#[test]
fn of_many_those_go_that_were_there_longest_and_who_lives_comes_back_to_stay() {
    let metallb = foreign();
    // The oldest certificate is one of a replica that lives, and others were left behind by one that
    // starts over and over.
    let lives = made("lives", NOW - 1000);
    let left: Vec<_> = (0..MOST + 4)
        .map(|it| made(&format!("r{it}"), NOW))
        .collect();
    let parse = |text: &str| -> Vec<CertificateDer<'static>> {
        let all = CertificateDer::pem_slice_iter(text.as_bytes());
        all.collect::<Result<_, _>>().unwrap()
    };
    let mut bundle = vec![metallb.clone(), lives.clone()];
    let mut lost = 0;
    for (number, next) in left.iter().enumerate() {
        let replica = format!("r{number}");
        let found: Vec<_> = bundle.iter().collect();
        bundle = parse(&merged(&found, &replica, &[next]).unwrap());
        if !bundle.contains(&lives) {
            lost += 1;
            let found: Vec<_> = bundle.iter().collect();
            bundle = parse(&merged(&found, "lives", &[&lives]).unwrap());
        }
        assert!(bundle.len() <= MOST + 1, "{}", bundle.len());
    }
    assert_eq!(lost, 1, "each starting replica puts it out");
    assert_eq!(
        bundle[0], metallb,
        "what others put there is not ours to count"
    );
    assert!(bundle.contains(&lives) && bundle.contains(left.last().unwrap()));
    assert!(!bundle.contains(&left[0]));
}

fn configuration(webhooks: Value) -> ValidatingWebhookConfiguration {
    let value = json!({
        "metadata": { "name": "metallb-webhook-configuration", "resourceVersion": "7" },
        "webhooks": webhooks,
    });
    serde_json::from_value(value).unwrap()
}

fn entry(name: &str, client: Value) -> Value {
    json!({
        "name": name, "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"],
    })
}

#[test]
fn entries_that_ask_somebody_else_are_left_alone() {
    let pools = "/validate-metallb-io-v1beta1-ipaddresspool";
    let service =
        json!({ "name": "metallb-webhook-service", "namespace": "metallb-system", "path": pools });
    let configuration = configuration(json!([
        entry("service", json!({ "service": service })),
        entry(
            "url",
            json!({ "url": format!("https://[::1]:9443{pools}") })
        ),
        entry("other", json!({ "url": "https://example.com/validate" })),
        entry(
            "root",
            json!({ "service": { "name": "x", "namespace": "y" } })
        ),
    ]));
    let expected = ["::1", "metallb-webhook-service.metallb-system.svc"];
    assert_eq!(Vec::from_iter(names(&configuration)), expected);
    let own = made("one", NOW);
    let wanted = Wanted {
        replica: "one",
        certificates: vec![&own],
    };
    let patch = patch(&configuration, &wanted, NOW).unwrap();
    let bundle = STANDARD.encode(text(&[&own]));
    let changed = |name: &str| json!({ "name": name, "clientConfig": { "caBundle": bundle } });
    let expected = json!({
        "metadata": { "resourceVersion": "7" },
        "webhooks": [changed("service"), changed("url")],
    });
    assert_eq!(patch, expected);
}

#[test]
fn a_configuration_that_trusts_us_is_not_written() {
    let own = made("one", NOW);
    let client = json!({
        "url": "https://127.0.0.1:9443/validate-metallb-io-v1beta2-bgppeer",
        "caBundle": STANDARD.encode(text(&[&own])),
    });
    let configuration = configuration(json!([entry("peers", client)]));
    let wanted = |certificates| Wanted {
        replica: "one",
        certificates,
    };
    assert_eq!(patch(&configuration, &wanted(vec![&own]), NOW), None);
    let next = made("one", NOW + 1);
    assert!(patch(&configuration, &wanted(vec![&own, &next]), NOW).is_some());
}
