//! What becomes of Services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use pharos_proto::v1;
use serde_json::{Value, json};

use crate::book::{Answer, Outcome};
use crate::claim::{owner, stored};
use crate::migrate::judge::testing::{facts, service, settings};
use crate::migrate::judge::{Fate, rows, unknown_rows};
use crate::migrate::read;
use crate::plan::Link;
use crate::service::ServiceKey;
use crate::world::World;

fn world(services: Vec<Value>) -> World {
    let mut facts = facts();
    let mut services = services.into_iter();
    facts.replace("", "services", services.next().expect("a Service"));
    services.for_each(|service| facts.add("", "services", service));
    let mut world = World::new(settings());
    world.index = read::index(&facts).expect("it can be read");
    world.link = Link::Up;
    world
}

/// ipam-service answers the claim of a Service.
fn answer(world: &mut World, name: &str, state: v1::allocation::State, addresses: &[&str]) {
    let key = ServiceKey::new("default", name);
    let service = Arc::clone(world.index.service(&key).expect("it exists"));
    let claim = world
        .index
        .claim(&service, &world.settings)
        .expect("a claim");
    let (_, answer) = Answer::parse(&v1::Allocation {
        owner: Some(owner(&key, "u", "east")),
        state: state as i32,
        addresses: addresses.iter().map(ToString::to_string).collect(),
        pool: "a".to_owned(),
        refusal: Some(v1::Refusal {
            message: "pool is full".to_owned(),
            ..v1::Refusal::default()
        }),
        revision: 1,
        claim: Some(stored(&claim, &world.settings)),
        ..v1::Allocation::default()
    })
    .expect("makes sense");
    world.book.answered(Arc::new(claim), answer);
}

#[test]
fn a_service_is_judged_by_what_the_adapter_would_do_next() {
    let mut world = world(vec![
        service("same", json!({}), &["192.0.2.1"]),
        service("moves", json!({}), &["192.0.2.2"]),
        service("loses", json!({}), &["192.0.2.3"]),
        service("taken", json!({}), &["192.0.2.4"]),
        service("gains", json!({}), &[]),
        service("waits", json!({}), &[]),
        service("other", json!({ "loadBalancerClass": "x" }), &["192.0.2.6"]),
        service(
            "odd",
            json!({ "loadBalancerIP": "no address" }),
            &["192.0.2.7"],
        ),
        service("unasked", json!({}), &["192.0.2.8"]),
        service("new", json!({}), &[]),
        service("cluster", json!({ "type": "ClusterIP" }), &[]),
    ]);
    use v1::allocation::State::{Assigned, Pending};
    answer(&mut world, "same", Assigned, &["192.0.2.1"]);
    answer(&mut world, "moves", Assigned, &["192.0.2.9"]);
    answer(&mut world, "loses", Pending, &[]);
    answer(&mut world, "gains", Assigned, &["192.0.2.5"]);
    answer(&mut world, "waits", Pending, &[]);
    let key = ServiceKey::new("default", "taken");
    let taken = Arc::clone(world.index.service(&key).expect("it exists"));
    let claim = world.index.claim(&taken, &world.settings).expect("a claim");
    let why = "held by west".to_owned();
    world
        .book
        .refused(Arc::new(claim), Outcome::AdoptionRefused(why));

    let rows = rows(&world, &BTreeMap::new());
    let found: Vec<(&str, Fate, &str)> = rows
        .iter()
        .map(|row| (row.service.as_str(), row.fate, row.why.as_str()))
        .collect();
    let invalid = "invalid requested loadbalancer IPs: invalid spec.loadBalancerIP \"no address\"";
    let expected = [
        ("default/gains", Fate::Gains, ""),
        ("default/loses", Fate::Loses, "pool is full"),
        (
            "default/moves",
            Fate::Changes,
            "pool \"a\" gives another one",
        ),
        ("default/new", Fate::Waits, "asked for by the adapter"),
        ("default/odd", Fate::Unchanged, invalid),
        ("default/other", Fate::OtherClass, "loadBalancerClass: x"),
        ("default/same", Fate::Unchanged, ""),
        ("default/taken", Fate::NotHeld, "held by west"),
        (
            "default/unasked",
            Fate::NotKnown,
            "ipam-service was not asked",
        ),
        ("default/waits", Fate::Waits, "pool is full"),
    ];
    assert_eq!(found, expected);
    let after = |name: &str| {
        let mut rows = rows.iter();
        let row = rows.find(|row| row.service == format!("default/{name}"));
        row.expect("a row").after.clone()
    };
    assert_eq!(after("moves"), ["192.0.2.9"]);
    assert_eq!(after("loses"), [""; 0]);
    assert_eq!(after("taken"), ["192.0.2.4"], "its status stays");
}

#[test]
fn an_address_that_somebody_else_holds_cannot_be_taken_over() {
    let mut world = world(vec![service("web", json!({}), &["192.0.2.1"])]);
    answer(
        &mut world,
        "web",
        v1::allocation::State::Assigned,
        &["192.0.2.1"],
    );
    let address: IpAddr = "192.0.2.1".parse().expect("an address");
    let taken = |space: &str| BTreeMap::from([((space.to_owned(), address), "west".to_owned())]);
    let fate = |space| rows(&world, &taken(space)).first().expect("a row").fate;
    assert_eq!(fate("default"), Fate::NotHeld);
    assert_eq!(
        fate("lab"),
        Fate::Unchanged,
        "the same address of another space is another one"
    );
}

#[test]
fn nothing_is_known_of_services_whose_pools_are_wrong() {
    let world = world(vec![
        service("web", json!({}), &["192.0.2.1"]),
        service("other", json!({ "loadBalancerClass": "x" }), &["192.0.2.6"]),
    ]);
    let rows = unknown_rows(&world, "the pools are wrong");
    let fates: Vec<Fate> = rows.iter().map(|row| row.fate).collect();
    assert_eq!(fates, [Fate::OtherClass, Fate::NotKnown]);
}
