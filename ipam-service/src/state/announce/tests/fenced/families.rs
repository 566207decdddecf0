//! Nodes that can answer for one family only.

use super::*;

/// Ready, and able to answer these families.
fn able(ipv4: bool, ipv6: bool) -> Option<Standing> {
    let names = |able: bool| able.then(|| "eth0".to_owned()).into_iter().collect();
    Some(Standing {
        readiness: Readiness::Ready,
        interfaces: names(ipv4),
        interfaces6: names(ipv6),
    })
}

impl World {
    /// The owner of each address, by address: IPv4 first.
    fn owners(&self) -> Vec<String> {
        let tenures = self.state.tenures();
        let mut owners: Vec<_> = tenures
            .map(|it| (it.key.address, it.owner.node.to_string()))
            .collect();
        owners.sort_by_key(|(address, _)| address.to_ip());
        owners.into_iter().map(|(_, owner)| owner).collect()
    }
}

#[test]
fn a_node_is_wanted_for_an_address_whose_family_it_can_answer() {
    let (mut world, [first, second, third]) = World::fenced();
    world.hold("east", "web", held(&[ADDRESS, "2001:db8::1"]));
    // Nobody can answer both.
    world.leases_of(&first, &[1], able(false, true));
    let only = std::slice::from_ref(&first);
    assert_eq!(world.owners(), only, "of IPv6 alone");
    world.leases_of(&second, &[2], able(true, false));
    assert_eq!(world.owners(), [second.clone(), first.clone()]);
    // One can.
    world.leases_of(&third, &[3], able(true, true));
    let next = |world: &World| world.assigned().fenced.clone().and_then(|it| it.next);
    assert_eq!(next(&world), Some(name(&third)));
    // The first one, too.
    world.leases_of(&first, &[1], able(true, true));
    assert_eq!(next(&world), Some(name(&first)));
}

#[test]
fn a_node_that_can_answer_one_family_is_not_named_for_the_other() {
    for (address, ipv6) in [(ADDRESS, false), ("2001:db8::1", true)] {
        let (mut world, [first, second, _]) = World::fenced();
        world.hold("east", "web", held(&[address]));
        world.leases_of(&first, &[1], able(ipv6, !ipv6));
        assert_eq!(world.owners(), Vec::<String>::new(), "{address}");
        world.leases_of(&second, &[2], able(!ipv6, ipv6));
        let only = std::slice::from_ref(&second);
        assert_eq!(world.owners(), only, "{address}");
    }
}
