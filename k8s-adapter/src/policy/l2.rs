//! `L2Advertisement`.

use pharos_proto::v1;

use super::findings::Problems;
use super::{Declared, limits, own, selector};
use crate::claim::Settings;
use crate::crd::L2Spec;

pub(super) fn convert(
    declared: &Declared<L2Spec>,
    spec: &L2Spec,
    settings: &Settings,
    problems: &mut Problems<'_>,
) -> v1::Advertisement {
    problems.no_repetition("spec.ipAddressPools", &spec.pools);
    check_limits(spec, problems);
    let l2 = v1::advertisement::L2 {
        interfaces: problems.once("spec.interfaces", &spec.interfaces),
        preferred_nodes: preferred_nodes(spec, problems),
        ownership: v1::advertisement::l2::Ownership::Available as i32,
    };
    let mut advertisement = v1::Advertisement {
        name: declared.name.clone(),
        cluster: settings.cluster.clone(),
        pools: spec.pools.clone(),
        pool_selectors: selector::convert_all(
            "spec.ipAddressPoolSelectors",
            &spec.pool_selectors,
            problems,
        ),
        node_selectors: selector::convert_all("spec.nodeSelectors", &spec.node_selectors, problems),
        service_selectors: selector::convert_all(
            "spec.serviceSelectors",
            &spec.service_selectors,
            problems,
        ),
        address_space: settings.address_space.clone(),
        protocol: Some(v1::advertisement::Protocol::L2(l2)),
        revision: 0,
    };
    own::advertisement(&mut advertisement, &declared.annotations, problems);
    advertisement
}

fn check_limits(spec: &L2Spec, problems: &mut Problems<'_>) {
    for (field, names) in [
        ("spec.ipAddressPools", &spec.pools),
        ("spec.interfaces", &spec.interfaces),
    ] {
        limits::check_parts(field, names, problems);
        limits::check_names(field, names, problems);
    }
    for (field, selectors) in [
        ("spec.ipAddressPoolSelectors", &spec.pool_selectors),
        ("spec.nodeSelectors", &spec.node_selectors),
        ("spec.serviceSelectors", &spec.service_selectors),
    ] {
        limits::check_parts(field, selectors, problems);
    }
    let preferences = &spec.preferred_node_selectors;
    limits::check_parts("spec.preferredNodeSelectors", preferences, problems);
}

fn preferred_nodes(
    spec: &L2Spec,
    problems: &mut Problems<'_>,
) -> Vec<v1::advertisement::PreferredNodes> {
    let entries = spec.preferred_node_selectors.iter().enumerate();
    entries
        .map(|(index, preferred)| {
            let field = format!("spec.preferredNodeSelectors[{index}]");
            let weight = u32::try_from(preferred.weight)
                .ok()
                .filter(|weight| (1..=100).contains(weight));
            if weight.is_none() {
                problems.add(format!("{field}.weight"), "must be from 1 to 100");
            }
            let field = format!("{field}.preference");
            v1::advertisement::PreferredNodes {
                weight: weight.unwrap_or_default(),
                selector: Some(selector::convert_once(
                    &field,
                    &preferred.preference,
                    problems,
                )),
            }
        })
        .collect()
}
