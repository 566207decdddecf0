//! Label selectors, wherever they are.

use pharos_proto::v1::advertisement::Protocol;
use serde_json::{Value, json};

use super::site::{Site, accepted, refused, warnings};

/// An L2Advertisement that prefers such nodes.
fn preferring(preference: Value) -> Value {
    let preferred = json!([{ "weight": 1, "preference": preference }]);
    json!({ "l2": { "ad": { "preferredNodeSelectors": preferred } } })
}

#[test]
fn a_preference_that_repeats_itself_counts_once() {
    let rack = |values: Value| json!({ "key": "rack", "operator": "In", "values": values });
    let at = "L2Advertisement \"ad\": spec.preferredNodeSelectors[0].preference.matchExpressions";
    let expressions = [
        rack(json!(["1", "2", "1"])),
        rack(json!(["3", "4"])),
        rack(json!(["4", "3"])),
    ];
    let site = preferring(json!({ "matchExpressions": expressions }));
    accepted(&site);
    let twice = "is given twice, and counts once";
    assert_eq!(
        warnings(&site),
        [
            format!("{at}[0].values[2]: {twice}"),
            format!("{at}[2]: {twice}"),
        ]
    );
    let configuration = Site::of(&site).examine();
    let ad = &configuration.l2().expect("accepted")[0];
    let Some(Protocol::L2(l2)) = &ad.protocol else {
        panic!("no layer 2");
    };
    let selector = l2.preferred_nodes[0].selector.as_ref().expect("a selector");
    let given = selector.match_expressions.iter().map(|it| &it.values[..]);
    assert_eq!(given.collect::<Vec<_>>(), [["1", "2"], ["3", "4"]]);
    // MetalLB looks at the lists of selectors, and refuses it there.
    for field in [
        "ipAddressPoolSelectors",
        "nodeSelectors",
        "serviceSelectors",
    ] {
        let selectors = json!([{ "matchExpressions": [rack(json!(["1", "1"]))] }]);
        let site = json!({ "l2": { "ad": { field: selectors } } });
        let beginning =
            format!("L2Advertisement \"ad\": spec.{field}[0].matchExpressions[0].values[1]: ");
        refused(&site, &beginning, "duplicate definition of values");
    }
}

#[test]
fn keys_and_values_of_labels_are_kubernetes() {
    let (longest, long) = ("x".repeat(63), "x".repeat(64));
    let prefix = [
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(61),
    ]
    .join(".");
    let name = "name part must consist of alphanumeric characters, '-', '_' or '.'";
    let dns = "prefix part must be a DNS subdomain";
    for (key, value, wrong) in [
        ("rack", "", None),
        ("Rack_1.a-b", "A-b_c.9", None),
        ("topology.kubernetes.io/zone", "eu-1", None),
        (&format!("{prefix}/{longest}"), &longest, None),
        ("", "1", Some("name part must be non-empty")),
        ("example.com/", "1", Some("name part must be non-empty")),
        ("/rack", "1", Some("prefix part must be non-empty")),
        ("a/b/c", "1", Some("a qualified name is a name")),
        (&long, "1", Some("name part must be no more than 63 bytes")),
        (
            &format!("{prefix}e/a"),
            "1",
            Some("prefix part must be no more than 253 bytes"),
        ),
        ("-rack", "1", Some(name)),
        ("rack.", "1", Some(name)),
        ("ra ck", "1", Some(name)),
        ("r\u{e4}ck", "1", Some(name)),
        ("Example.com/rack", "1", Some(dns)),
        ("example..com/rack", "1", Some(dns)),
        ("example-.com/rack", "1", Some(dns)),
        ("rack", &long, Some("must be no more than 63 bytes")),
        ("rack", "-1", Some("a label value is empty")),
        ("rack", "a b", Some("a label value is empty")),
        ("rack", "a/b", Some("a label value is empty")),
    ] {
        let labels = json!({ "matchLabels": { key: value } });
        let expression = json!({ "key": key, "operator": "In", "values": ["good", value] });
        let expressions = json!({ "matchExpressions": [expression] });
        for selector in [labels, expressions] {
            let site = json!({ "pools": { "p": {
                "addresses": ["192.0.2.0/28"],
                "serviceAllocation": { "serviceSelectors": [selector.clone()] },
            } } });
            let Some(words) = wrong else {
                accepted(&site);
                accepted(&preferring(selector));
                continue;
            };
            let at = "IPAddressPool \"p\": spec.serviceAllocation.serviceSelectors[0].match";
            refused(&site, at, words);
            let at = "L2Advertisement \"ad\": spec.preferredNodeSelectors[0].preference.match";
            refused(&preferring(selector), at, words);
        }
    }
}
