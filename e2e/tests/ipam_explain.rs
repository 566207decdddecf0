//! Topology: one ipam-service; grpcurl as its client, as a person would ask.
//!
//! 1. A claim that waits: why, each pool with the rule that refused, behind whom, until when.
//! 2. A request that is not made: what it would get, and that nothing changed.
//! 3. An address that somebody else holds.
//! 4. A question that cannot be answered says which field is wrong.
//! 5. IPv4 and IPv6 from two pools for a claim that allows it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use e2e::ipam::{Ipam, grpcurl};
use serde_json::{Value, json};

struct Person {
    ipam: Ipam,
}

impl Person {
    /// With two pools of one address and one that is for nobody here.
    fn with_small_pools() -> Option<Self> {
        grpcurl()?;
        let person = Self {
            ipam: Ipam::start().unwrap(),
        };
        for pool in [
            json!({"name": "front", "addresses": ["192.0.2.10/32"], "allocationPriority": 1}),
            json!({"name": "gold", "addresses": ["192.0.2.20/32"],
                "serviceSelectors": [{"matchLabels": {"tier": "gold"}}]}),
            json!({"name": "back", "addresses": ["192.0.2.30/32"]}),
            json!({"name": "spare", "addresses": ["192.0.2.40/32"], "autoAssign": false}),
        ] {
            person.call("PoolService/ApplyPool", &json!({ "pool": pool }));
        }
        Some(person)
    }

    fn call(&self, method: &str, data: &Value) -> Value {
        let method = format!("pharos.v1.{method}");
        self.ipam.grpcurl(Some(&data.to_string()), &method).unwrap()
    }

    fn take(&self, owner: &str, more: Value) -> Value {
        let answer = self.call("AllocationService/Allocate", &request(owner, more));
        answer["allocation"].clone()
    }

    fn explain(&self, question: &Value) -> (Value, Vec<String>) {
        let answer = self.call("AllocationService/ExplainAllocation", question);
        let summary = answer["summary"].as_array().unwrap();
        let text = summary.iter().map(|line| line.as_str().unwrap().to_owned());
        let text = text.collect();
        (answer, text)
    }
}

fn owner(text: &str) -> Value {
    let parts: Vec<&str> = text.split('/').collect();
    json!({"cluster": parts[0], "namespace": parts[1], "name": parts[2]})
}

fn request(owner_text: &str, more: Value) -> Value {
    let mut request = json!({
        "owner": owner(owner_text),
        "ports": [{"protocol": "TCP", "port": 80}],
    });
    for (key, value) in more.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

#[test]
fn a_person_reads_why_a_service_has_no_address_and_what_would_help() {
    let Some(person) = Person::with_small_pools() else {
        return;
    };
    person.take("east/default/a", json!({}));
    person.take("west/default/b", json!({}));
    person.take("west/default/first", json!({"ifRefused": "QUEUE"}));
    person.take("east/default/web", json!({"ifRefused": "QUEUE"}));
    let (answer, text) = person.explain(&json!({"owner": owner("east/default/web")}));
    assert!(
        text[0].starts_with("east/default/web holds nothing and waits since 20"),
        "{text:#?}"
    );
    assert!(
        text[0].ends_with("no available IPs in pool \"front\" (IPv4)."),
        "{text:#?}"
    );
    assert_eq!(
        text[1..],
        [
            "1. Pool \"front\" refuses (NO_FREE_ADDRESS): no available IPs in pool \"front\" (IPv4) \
             [0 of 1 IPv4 addresses are free; held by east 1].",
            "2. Pool \"gold\" refuses (POOL_NOT_FOR_OWNER): the labels {} match no service selector \
             of [(tier=gold)] [1 of 1 IPv4 addresses are free].",
            "3. Pool \"back\" refuses (NO_FREE_ADDRESS): no available IPs in pool \"back\" (IPv4) \
             [0 of 1 IPv4 addresses are free; held by west 1].",
            "Pool \"spare\" is not tried: auto_assign is false, and the claim does not name the \
             pool.",
            "One older claim waits for the same and goes first: cluster west.",
            "It is decided again as soon as an address comes free in a pool that is open to the \
             claim, or such a pool is added or edited.",
        ],
        "{text:#?}"
    );
    // The same for programs.
    let reasons: Vec<&Value> = answer["pools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pool| &pool["obstacles"][0]["reason"])
        .collect();
    assert_eq!(
        reasons,
        [
            "NO_FREE_ADDRESS",
            "POOL_NOT_FOR_OWNER",
            "NO_FREE_ADDRESS",
            "POOL_NOT_AUTOMATIC"
        ]
    );
    assert_eq!(answer["stored"]["state"], "PENDING");
    assert_eq!(answer["waiting"]["olderClaims"], 1);
    assert_eq!(answer["waiting"]["first"], json!({"cluster": "west"}));
    assert_eq!(
        answer["pools"][2]["heldBy"],
        json!([{"cluster": "west", "addresses": "1"}])
    );
    // What it says is true: the next free address goes to the older one, then it is its turn.
    let give_back = |who: &str| {
        person.call("AllocationService/Release", &json!({"owner": owner(who)}));
    };
    give_back("east/default/a");
    let (_, text) = person.explain(&json!({"owner": owner("east/default/web")}));
    assert!(
        text.contains(&"No older claim waits for the same.".to_owned()),
        "{text:#?}"
    );
    give_back("west/default/b");
    let (answer, text) = person.explain(&json!({"owner": owner("east/default/web")}));
    assert_eq!(
        text[0],
        "east/default/web holds 192.0.2.30 (pool \"back\"), which is what it asks for."
    );
    assert_eq!(answer.get("waiting"), None);
}

#[test]
fn a_request_is_explained_without_being_made() {
    let Some(person) = Person::with_small_pools() else {
        return;
    };
    let before = person.call("AllocationService/ListAllocations", &json!({}));
    let asked = request(
        "east/default/web",
        json!({"labels": {"tier": "gold"}, "pool": "gold"}),
    );
    let (answer, text) = person.explain(&json!({ "request": asked }));
    assert_eq!(text[0], "Nothing is stored of east/default/web.");
    assert_eq!(
        text[1],
        "This request would get 192.0.2.20 (pool \"gold\")."
    );
    assert_eq!(
        text[2],
        "1. Pool \"gold\" would give 192.0.2.20 [1 of 1 IPv4 addresses are free]."
    );
    assert_eq!(answer["outcome"]["addresses"], json!(["192.0.2.20"]));
    assert_eq!(answer["outcome"].get("revision"), None);
    let after = person.call("AllocationService/ListAllocations", &json!({}));
    assert_eq!(before, after, "nothing is stored");
    // It gets what was told.
    let got = person.take(
        "east/default/web",
        json!({"labels": {"tier": "gold"}, "pool": "gold"}),
    );
    assert_eq!(got["addresses"], answer["outcome"]["addresses"]);
}

#[test]
fn an_address_that_is_asked_for_is_told_with_its_holder_and_its_pool() {
    let Some(person) = Person::with_small_pools() else {
        return;
    };
    person.take("east/default/a", json!({"addresses": ["192.0.2.10"]}));
    let ask = |who: &str, address: &str| {
        let asked = request(who, json!({"addresses": [address]}));
        person.explain(&json!({ "request": asked })).1
    };
    let text = ask("east/default/web", "192.0.2.10");
    let expected = "192.0.2.10 lies in pool \"front\" and is held by east/default/a; refused \
                    (ADDRESS_TAKEN): address 192.0.2.10 of pool \"front\" is held by \
                    east/default/a.";
    assert!(text.contains(&expected.to_owned()), "{text:#?}");
    // Another cluster reads whose it is, and no more.
    let text = ask("west/default/web", "192.0.2.10").join("\n");
    assert!(text.contains("is held by cluster east"), "{text}");
    assert!(!text.contains("default/a"), "{text}");
    let text = ask("east/default/web", "203.0.113.1").join("\n");
    assert!(
        text.contains("203.0.113.1 lies in no pool of the cluster"),
        "{text}"
    );
}

#[test]
fn a_question_that_cannot_be_answered_says_what_is_wrong() {
    let Some(person) = Person::with_small_pools() else {
        return;
    };
    let refused = |question: Value| {
        let method = "pharos.v1.AllocationService/ExplainAllocation";
        let answer = person.ipam.grpcurl(Some(&question.to_string()), method);
        answer.expect_err("refused").to_string()
    };
    let both = json!({"owner": owner("a/b/c"), "request": request("a/b/c", json!({}))});
    for (question, code, part) in [
        (json!({}), "InvalidArgument", "owner"),
        (both, "InvalidArgument", "request"),
        (
            json!({"request": {"pool": "p"}}),
            "InvalidArgument",
            "owner",
        ),
        (
            json!({"owner": owner("east/default/nobody")}),
            "NotFound",
            "east/default/nobody",
        ),
    ] {
        let text = refused(question);
        assert!(text.contains(code) && text.contains(part), "{part}: {text}");
    }
}

#[test]
fn ipv4_and_ipv6_come_from_two_pools_for_a_claim_that_allows_it() {
    let Some(person) = Person::with_small_pools() else {
        return;
    };
    let six = json!({"name": "six", "addresses": ["2001:db8::/64"]});
    person.call("PoolService/ApplyPool", &json!({ "pool": six }));
    let both = json!({"families": ["IPV4", "IPV6"]});
    let (_, text) = person.explain(&json!({"request": request("east/default/web", both.clone())}));
    assert!(
        text[1].starts_with("This request would be refused (NO_FREE_ADDRESS)"),
        "{text:#?}"
    );
    let mut any = both;
    any["dualStackPools"] = json!("ANY_POOLS");
    let got = person.take("east/default/web", any);
    assert_eq!(got["addresses"], json!(["192.0.2.10", "2001:db8::"]));
    assert_eq!(got["pool"], "front");
    assert_eq!(got["pools"], json!([{"name": "front"}, {"name": "six"}]));
    let listed = person.call("AllocationService/ListAllocations", &json!({"pool": "six"}));
    assert_eq!(listed["allocations"].as_array().map(Vec::len), Some(1));
    let (_, text) = person.explain(&json!({"owner": owner("east/default/web")}));
    assert_eq!(
        text[0],
        "east/default/web holds 192.0.2.10 (pool \"front\") and 2001:db8:: (pool \"six\"), which is \
         what it asks for."
    );
}
