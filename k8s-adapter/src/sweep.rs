//! What to give back when a list of Services lacks some that hold addresses. Pure.
//!
//! A deletion that was watched is certain. A Service that is merely absent from a list may be
//! absent because the list is wrong (another cluster behind the same address, a restored etcd), so
//! a large loss needs a second list that says the same.

/// Fewer than this are given back on one list's word: a handful of Services may well have been
/// deleted while the adapter was away.
const ALWAYS_PLAUSIBLE: usize = 5;

/// Whether the loss of `gone` out of `held` Services has to be seen twice to be believed: more
/// than 5, and more than 20 %.
pub fn needs_second_list(gone: usize, held: usize) -> bool {
    gone > ALWAYS_PLAUSIBLE && gone > held / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_loss_needs_a_second_list() {
        for (gone, held, expected) in [
            (0, 0, false),
            (5, 5, false),
            (6, 6, true),
            (6, 29, true),
            (6, 30, false),
            (7, 30, true),
            (200, 1000, false),
            (201, 1000, true),
            (usize::MAX, usize::MAX, true),
        ] {
            assert_eq!(needs_second_list(gone, held), expected, "{gone} of {held}");
        }
    }
}
