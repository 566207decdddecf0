//! What ipam-service does not take is told here, with object and field; what it takes in another form
//! is given so.

use serde_json::{Value, json};

use super::site::{Site, accepted, errors, refused, warnings};
use super::{one_pool, pool_errors};

fn pool(spec: Value) -> Value {
    json!({ "pools": { "p": spec } })
}

fn with_priority(priority: i64) -> Value {
    json!({ "addresses": ["192.0.2.0/28"], "serviceAllocation": { "priority": priority } })
}

#[test]
fn a_priority_counts_as_far_as_it_can() {
    for (declared, counts) in [
        (i64::MIN, 0),
        (-1, 0),
        (0, 0),
        (1, 1),
        (2_147_483_647, i32::MAX),
        (3_000_000_000, i32::MAX),
        (i64::MAX, i32::MAX),
    ] {
        let pool = one_pool(with_priority(declared)).expect("accepted");
        assert_eq!(pool.allocation_priority, counts, "{declared}");
    }
    assert_eq!(warnings(&pool(with_priority(-1))), [""; 0]);
    let told = "IPAddressPool \"p\": spec.serviceAllocation.priority: counts as 2147483647";
    assert_eq!(warnings(&pool(with_priority(3_000_000_000))), [told]);
}

#[test]
fn ranges_are_given_as_ipam_service_reads_them() {
    let wide = format!("192.0.2.1{0}-{0}192.0.2.9", " ".repeat(100));
    for (declared, given) in [
        ("192.0.2.1 - 192.0.2.9", "192.0.2.1-192.0.2.9"),
        (&wide, "192.0.2.1-192.0.2.9"),
        // Go has one form for both.
        ("::ffff:192.0.2.1-::ffff:192.0.2.9", "192.0.2.1-192.0.2.9"),
        ("::ffff:192.0.2.1-192.0.2.9", "192.0.2.1-192.0.2.9"),
        ("2001:DB8::1-2001:db8::9", "2001:db8::1-2001:db8::9"),
        (" 192.0.2.5/30 ", "192.0.2.5/30"),
    ] {
        let pool = one_pool(json!({ "addresses": [declared] })).expect("accepted");
        assert_eq!(pool.addresses, [given], "{declared:?}");
    }
    // It is the same address by either name.
    let both = ["192.0.2.0/24", "::ffff:192.0.2.1-::ffff:192.0.2.9"];
    let overlap = pool_errors(&[("p", json!({ "addresses": both }))]);
    assert_eq!(overlap.len(), 2, "{overlap:?}");
}

#[test]
fn ranges_around_all_of_ipv4_are_refused() {
    for text in ["::/0", "::/80", "::fffe:0:1/95", "::1-2001:db8::1"] {
        let site = pool(json!({ "addresses": ["198.51.100.0/24", text] }));
        let object = "IPAddressPool \"p\": spec.addresses[1]: ";
        let errors: Vec<String> = errors(&site)
            .into_iter()
            .filter(|error| error.contains("the IPv4-mapped addresses"))
            .collect();
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        assert!(errors[0].starts_with(object), "{}", errors[0]);
    }
    accepted(&pool(
        json!({ "addresses": ["2001:db8::/32", "0.0.0.0/0"] }),
    ));
}

#[test]
fn a_pool_has_at_most_a_thousand_ranges() {
    let site = |count: u32| {
        let addresses: Vec<String> = (0..count)
            .map(|number| format!("{}/32", std::net::Ipv4Addr::from_bits(0x0a00_0000 + number)))
            .collect();
        pool(json!({ "addresses": addresses }))
    };
    accepted(&site(1000));
    let beginning = "IPAddressPool \"p\": spec.addresses: ";
    refused(&site(1001), beginning, "at most 1000 ranges are allowed");
}

#[test]
fn an_l2_advertisement_has_at_most_a_thousand_of_each() {
    let texts = |count: usize| (0..count).map(|it| format!("n{it}")).collect::<Vec<_>>();
    let selectors = |count| {
        let labels = texts(count).into_iter();
        let labels = labels.map(|value| json!({ "matchLabels": { "rack": value } }));
        labels.collect::<Vec<_>>()
    };
    let preferences = |count| {
        let each = selectors(count).into_iter();
        let each = each.map(|it| json!({ "weight": 1, "preference": it }));
        each.collect::<Vec<_>>()
    };
    for (field, of) in [
        (
            "ipAddressPools",
            &(|count| json!(texts(count))) as &dyn Fn(usize) -> Value,
        ),
        ("interfaces", &|count| json!(texts(count))),
        ("ipAddressPoolSelectors", &|count| json!(selectors(count))),
        ("nodeSelectors", &|count| json!(selectors(count))),
        ("serviceSelectors", &|count| json!(selectors(count))),
        ("preferredNodeSelectors", &|count| json!(preferences(count))),
    ] {
        let site = |count| json!({ "l2": { "ad": { field: of(count) } } });
        accepted(&site(1000));
        let beginning = format!("L2Advertisement \"ad\": spec.{field}: ");
        refused(&site(1001), &beginning, "at most 1000 are allowed");
    }
}

#[test]
fn names_are_names() {
    let long = "x".repeat(254);
    for (name, words) in [
        ("", "must not be empty"),
        (&long, "is 254 bytes long; at most 253 are allowed"),
        ("a\nb", "contains a control character"),
    ] {
        for field in ["ipAddressPools", "interfaces"] {
            let site = json!({ "l2": { "ad": { field: ["good", name] } } });
            let beginning = format!("L2Advertisement \"ad\": spec.{field}[1]: ");
            refused(&site, &beginning, words);
        }
        let who = json!({ "namespaces": ["good", name] });
        let site = pool(json!({ "addresses": ["192.0.2.0/28"], "serviceAllocation": who }));
        let beginning = "IPAddressPool \"p\": spec.serviceAllocation.namespaces[1]: ";
        refused(&site, beginning, words);
    }
}

#[test]
fn an_interface_that_is_given_twice_counts_once() {
    let site = json!({ "l2": { "ad": { "interfaces": ["eth0", "eth1", "eth0"] } } });
    accepted(&site);
    let told = "L2Advertisement \"ad\": spec.interfaces[2]: is given twice, and counts once";
    assert_eq!(warnings(&site), [told]);
    let configuration = Site::of(&site).examine();
    let ad = &configuration.l2().expect("accepted")[0];
    let Some(pharos_proto::v1::advertisement::Protocol::L2(l2)) = &ad.protocol else {
        panic!("no layer 2");
    };
    assert_eq!(l2.interfaces, ["eth0", "eth1"]);
}

#[test]
fn lists_of_any_length_are_read_in_time_and_refused_once() {
    let many: Vec<String> = (0..200_000).map(|number| format!("p{number}")).collect();
    for field in ["peers", "ipAddressPools"] {
        let site = json!({ "bgp": { "ad": { field: many } } });
        let told = errors(&site);
        let expected = format!("BGPAdvertisement \"ad\": spec.{field}: at most 1000 are allowed");
        assert_eq!(told, [expected]);
    }
}

#[test]
fn what_repeats_itself_without_end_is_read_in_time() {
    let alias = json!({ "name": "a", "value": "1:1" });
    let site = json!({ "communities": { "c": { "communities": vec![alias; 50_000] } } });
    assert_eq!(errors(&site).len(), 50_000);
    let expression = |number| json!({ "key": format!("k{number}"), "operator": "Exists" });
    let many: Vec<Value> = (0..50_000).map(expression).collect();
    let preference = json!({ "weight": 1, "preference": { "matchExpressions": many } });
    let told = errors(&json!({ "l2": { "ad": { "preferredNodeSelectors": [preference] } } }));
    let field = "spec.preferredNodeSelectors[0].preference.matchExpressions";
    let expected = format!("L2Advertisement \"ad\": {field}: at most 1000 are allowed");
    assert_eq!(told, [expected]);
}
