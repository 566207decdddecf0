//! What is explained is what then happens, in random books.

use proptest::prelude::*;

use super::random::{OWNERS, some_claim, some_pool};
use crate::state::address::Family;
use crate::state::command::{Command, InUse};
use crate::state::model::*;
use crate::state::testing::*;
use crate::state::{explain_request, explain_stored};

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn an_explanation_tells_what_the_request_then_gets_and_changes_nothing(
        pools in proptest::collection::vec(some_pool(None), 1..5),
        own in proptest::collection::vec(some_pool(Some("east")), 0..2),
        claims in proptest::collection::vec((0..OWNERS.len(), some_claim(), any::<bool>()), 1..40),
    ) {
        let mut book = Book::default();
        for pool in pools.into_iter().chain(own) {
            let pool = Box::new(pool);
            // Some overlap others.
            let _refused = book.run(Command::ApplyPool { pool, in_use: InUse::Move });
        }
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
        }
    }
}
