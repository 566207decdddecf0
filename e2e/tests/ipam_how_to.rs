//! Topology: one ipam-service for each page, and grpcurl as its reader.
//!
//! What a how-to page shows below a call is what the call prints.

use e2e::how_to::{Step, follow, steps_of};
use e2e::ipam::{Ipam, grpcurl};

#[test]
fn what_a_page_shows_below_a_call_is_what_the_call_prints() {
    if grpcurl().is_none() {
        return;
    }
    for page in [
        include_str!("../../README.md"),
        include_str!("../../docs/how-to/address-spaces.md"),
        include_str!("../../docs/how-to/client.md"),
        include_str!("../../docs/how-to/explain.md"),
        include_str!("../../docs/how-to/freed-addresses.md"),
        include_str!("../../docs/how-to/history.md"),
        include_str!("../../docs/how-to/ipam-service.md"),
        include_str!("../../docs/how-to/pools.md"),
        include_str!("../../docs/how-to/quotas.md"),
        include_str!("../../docs/how-to/reservations.md"),
        include_str!("../../docs/how-to/run-alone.md"),
        include_str!("../../docs/how-to/who-answers.md"),
    ] {
        let ipam = Ipam::start().unwrap();
        let name = page.lines().next().unwrap();
        let calls = follow(&ipam, page);
        assert!(calls.as_ref().is_ok_and(|it| *it >= 5), "{name}: {calls:?}");
    }
}

#[test]
fn a_page_that_shows_something_else_is_caught() {
    if grpcurl().is_none() {
        return;
    }
    let ipam = Ipam::start().unwrap();
    let call = "grpcurl -d '{\"name\":\"lab\"}' 127.0.0.1:7471 pharos.v1.PoolService/GetPool";
    for (shown, is_so) in [
        ("#  -> NotFound, UNKNOWN_POOL: no pool lab", true),
        ("#  -> NotFound, UNKNOWN_POOL: ...", true),
        ("#  -> NotFound, UNKNOWN_POOL: no pool web", false),
        ("#  -> NotFound, UNKNOWN_OWNER: no pool lab", false),
        ("#  -> Aborted, UNKNOWN_POOL: no pool lab", false),
        ("#  -> \"pool\":{\"name\":\"lab\"}", false),
        ("", false),
    ] {
        let followed = follow(&ipam, &format!("{call}\n{shown}\n"));
        assert_eq!(followed.is_ok(), is_so, "{shown}: {followed:?}");
    }
}

#[test]
fn a_step_is_a_call_and_the_comments_below_it() {
    let page = "grpcurl -d '{\"a\":1}' \\\n  127.0.0.1:1 pharos.v1.S/One | jq '.b'\n#  -> \"b\":2,\n#     ...\n\
                text\n# Heading\ngrpcurl 127.0.0.1:1 pharos.v1.S/Two | jq '.c'\n";
    let step = |data: Option<&str>, method: &str, shown: &str| Step {
        data: data.map(str::to_owned),
        method: method.to_owned(),
        shown: shown.to_owned(),
    };
    let expected = [
        step(Some("{\"a\":1}"), "pharos.v1.S/One", "\"b\":2, ... "),
        step(None, "pharos.v1.S/Two", ""),
    ];
    assert_eq!(steps_of(page), expected);
}
