//! What is explained is what then happens, in random books.

use proptest::prelude::*;

use super::naive::Naive;
use super::random::{OWNERS, some_claim, some_pool, some_space};
use crate::state::address::Family;
use crate::state::command::{Command, InUse};
use crate::state::model::*;
use crate::state::testing::*;
use crate::state::{Explanation, State, explain_request, explain_stored};

/// Of the other cluster it is told who it is at most, and not even that where the space hides it.
fn check_privacy(it: &Explanation, hides: bool) -> Result<(), TestCaseError> {
    let own = it.outcome.owner.key.cluster.as_str();
    let other = if own == "east" { "west" } else { "east" };
    let everything = format!("{it:?}");
    for owner in OWNERS.iter().filter(|owner| owner.starts_with(other)) {
        prop_assert!(!everything.contains(owner), "{owner} in {everything}");
    }
    let key = format!("OwnerKey {{ cluster: Name({other:?})");
    for secret in [key, format!("secret of {other}")] {
        prop_assert!(!everything.contains(&secret), "{secret} in {everything}");
    }
    if hides {
        prop_assert!(!everything.contains(other), "{everything}");
    }
    Ok(())
}

/// How full a pool is said to be it is for who asks.
fn check_usage(it: &Explanation, state: &State) -> Result<(), TestCaseError> {
    let naive = Naive::of(state);
    let cluster = &it.outcome.owner.key.cluster;
    for report in &it.pools {
        let pool = state.pool(&report.key).expect("a pool");
        prop_assert_eq!(report.usage, naive.usage_for(pool, &[cluster]));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn an_explanation_tells_what_the_request_then_gets_and_changes_nothing(
        pools in proptest::collection::vec(some_pool(None), 1..5),
        own in proptest::collection::vec(some_pool(Some("east")), 0..2),
        space in proptest::option::of(some_space()),
        reserved in any::<bool>(),
        claims in proptest::collection::vec((0..OWNERS.len(), some_claim(), any::<bool>()), 1..40),
    ) {
        let mut book = Book::default();
        for pool in pools.into_iter().chain(own) {
            let pool = Box::new(pool);
            // Some overlap others.
            let _refused = book.run(Command::ApplyPool { pool, in_use: InUse::Move });
        }
        if reserved {
            book.reserve("secret of west", &["10.0.2.2-10.0.2.3"], Some("west"));
            // Of this one the name is asked for.
            book.reserve("v", &["10.0.1.2/31"], Some("west/red"));
            book.reserve("secret of east", &["2001:db8::2"], Some("east/red"));
        }
        if let Some(space) = &space {
            book.run(apply_space(space.clone(), InUse::Move)).expect("nobody holds anything");
        }
        let hides = space.is_some_and(|space| space.hide_holders);
        for (index, claim, leave) in claims {
            let owner_text = OWNERS[index];
            if leave {
                let _missing = book.run(release(owner_text));
                continue;
            }
            let before = rows(&book.state);
            let asked = allocate(owner_text, claim.clone());
            let it = explain_request(&book.state, &asked).expect("explained");
            prop_assert_eq!(&rows(&book.state), &before);
            check_privacy(&it, hides)?;
            check_usage(&it, &book.state)?;
            let known = book.state.allocation(&asked.owner.key).is_some();
            book.step(queued(owner_text, claim.clone())).expect("queued");
            let now = book.get(owner_text);
            prop_assert_eq!(&it.outcome.addresses, &now.addresses);
            prop_assert!(it.outcome.pools().eq(now.pools()));
            prop_assert_eq!(&it.outcome.standing, &now.standing);
            // The pool of a newcomer is the first that gives it something.
            if let (false, [address], Families::One(Family::V4), true) =
                (known, now.addresses.as_slice(), claim.families, claim.addresses.is_empty())
            {
                let first = it.pools.iter().find(|pool| !pool.gives.is_empty());
                let first = first.expect("one gives it");
                prop_assert_eq!(Some(&first.key), now.pool.as_ref());
                prop_assert_eq!(&first.gives, &vec![*address]);
            }
            book.settle(&mut Vec::new());
            // In a settled book a new decision about what is stored changes nothing.
            let it = explain_stored(&book.state, &asked.owner.key).expect("explained");
            let now = book.get(owner_text);
            prop_assert_eq!(&it.outcome.addresses, &now.addresses);
            prop_assert_eq!(it.waiting.is_none(), book.state.wakes_on(&now).is_empty());
            check_privacy(&it, hides)?;
        }
    }
}
