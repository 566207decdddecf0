//! Requests on the way from one owner to the next.
//!
//! While an address is handed over the new owner keeps the requests that it sees, and the old one
//! notes what it answers. With both lists the new owner answers exactly what the old one did not.
//! Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use pnet_base::MacAddr;

use super::question::Question;

/// Most answers that are reported per group: as many as fit into one datagram.
pub const ANSWERED_LIMIT: usize = 32;
/// An answer belongs to a held request that arrived up to this much before it: the old owner tells
/// how long ago the request came, so what the report takes on its way makes it look younger. That
/// may be long on a busy machine; a client repeats a request, from the same address, later still.
const REPORT_DELAY: Duration = Duration::from_millis(400);
/// And up to this much after it: one frame is stamped by two kernels at almost the same time.
const STAMPS_APART: Duration = Duration::from_millis(2);

/// A question that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub at: Instant,
    /// Index of the interface that it came in by.
    pub interface: u32,
    pub question: Question,
}

/// A question that was answered at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    pub at: Instant,
    pub question: Question,
}

/// A request that the old owner answered, as it tells the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    pub asker: MacAddr,
    /// Which address it asked from; see [`fold`]. `None`: an announcer of an earlier build does not say.
    pub from: Option<u32>,
    pub target: IpAddr,
    /// When, by the clock of whoever holds this value.
    pub at: Instant,
}

/// What the old owner tells the new one when it has stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Its last answers, newest first.
    pub answered: Vec<Answered>,
    /// There were more before these.
    pub truncated: bool,
    /// Addresses that nobody has ever answered for: to be asked for first.
    pub probing: BTreeSet<IpAddr>,
    /// The digest of the addresses that were answered for, with `probing`, as their former owner knew
    /// them. `None`: an announcer of an earlier build does not say.
    pub addresses: Option<u64>,
}

/// What an owner noted while it recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Oldest first.
    noted: Vec<Noted>,
    /// More were given and not noted, the newest of them then.
    dropped: Option<Instant>,
    /// Addresses that were not answered yet.
    pub probing: BTreeSet<IpAddr>,
    /// The digest of all addresses of the group.
    pub addresses: Option<u64>,
}

impl Notes {
    /// These, in any order.
    pub fn new(mut noted: Vec<Noted>, dropped: Option<Instant>) -> Self {
        noted.sort_by_key(|one| one.at);
        Self {
            noted,
            dropped,
            probing: BTreeSet::new(),
            addresses: None,
        }
    }

    /// What the new owner is told. Nothing from before an answer that is not known: all that was
    /// asked before the first that is told counts as answered.
    pub fn report(&self) -> Report {
        let is_unknown = |one: &Noted| self.dropped.is_some_and(|dropped| one.at <= dropped);
        let known = self.noted.partition_point(is_unknown);
        let report = Report::new(&self.noted[known..]);
        Report {
            truncated: report.truncated || self.dropped.is_some(),
            probing: self.probing.clone(),
            addresses: self.addresses,
            ..report
        }
    }
}

impl Report {
    /// What it noted, oldest first.
    pub fn new(noted: &[Noted]) -> Self {
        let newest = noted.iter().rev().take(ANSWERED_LIMIT);
        let answered = newest.map(|one| Answered {
            asker: one.question.asker,
            from: Some(fold(one.question.from)),
            target: one.question.target,
            at: one.at,
        });
        Self {
            answered: answered.collect(),
            truncated: noted.len() > ANSWERED_LIMIT,
            ..Self::default()
        }
    }

    /// The held requests that the old owner did not answer. Each of its answers accounts for the
    /// one that is nearest in time, except those that it gave before `holding_since`: they belong
    /// to requests that are not held. What is older than a truncated report was answered.
    pub fn unanswered(&self, held: Vec<Held>, holding_since: Instant) -> Vec<Held> {
        let mut pairs = Vec::new();
        // A request that had arrived when the holding began, and was read after that, is held too.
        let oldest = held.iter().map(|one| one.at).min();
        let begin = oldest.map_or(holding_since, |oldest| oldest.min(holding_since));
        for (index, one) in held.iter().enumerate() {
            for (answer, answered) in self.answered.iter().enumerate() {
                let late = answered.at.saturating_duration_since(one.at);
                let early = one.at.saturating_duration_since(answered.at);
                let same = answered.asker == one.question.asker
                    // Not said, it may be any: rather no answer than two.
                    && answered.from.is_none_or(|from| from == fold(one.question.from))
                    && answered.target == one.question.target
                    && answered.at + STAMPS_APART > begin;
                if same && late < REPORT_DELAY && early < STAMPS_APART {
                    pairs.push((late.max(early), index, answer));
                }
            }
        }
        pairs.sort();
        let mut accounted = BTreeSet::new();
        let mut used = BTreeSet::new();
        for (_, index, answer) in pairs {
            // One that does not say from where it was asked may be for any of these.
            let is_for_any = self.answered[answer].from.is_none();
            if !accounted.contains(&index) && (is_for_any || used.insert(answer)) {
                accounted.insert(index);
            }
        }
        let oldest = self.answered.iter().map(|answered| answered.at).min();
        let report_begins = oldest.filter(|_| self.truncated);
        let indexed = held.into_iter().enumerate();
        indexed
            .filter(|(index, one)| {
                let is_old = report_begins.is_some_and(|begin| one.at < begin);
                !is_old && !accounted.contains(index)
            })
            .map(|(_, one)| one)
            .collect()
    }
}

/// An address in 32 bits: enough to tell the addresses of one asker apart, and a report of 32
/// answers stays in one datagram.
fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            // Each is a quarter of the bits; what is cut off is in another one.
            (0..4).fold(0, |folded, part| folded ^ (bits >> (32 * part)) as u32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now as start;

    fn question(asker: u8, target: u8) -> Question {
        Question {
            asker: MacAddr(2, 0, 0, 0, 0, asker),
            from: IpAddr::from([192, 0, 2, asker]),
            target: IpAddr::from([192, 0, 2, target]),
        }
    }

    #[test]
    fn only_what_the_old_owner_did_not_answer_is_answered() {
        let start = start();
        let at = |ms| start + Duration::from_millis(ms);
        let held = |ms, asker, target| Held {
            at: at(ms),
            interface: 1,
            question: question(asker, target),
        };
        let noted = |ms, asker, target| Noted {
            at: at(ms),
            question: question(asker, target),
        };
        // The old owner answered the first and the third; the second came after it had stopped,
        // the fourth is for an address that it did not answer.
        let seen = vec![
            held(50, 1, 100),
            held(60, 1, 100),
            held(51, 2, 100),
            held(50, 1, 101),
        ];
        let told = Report::new(&[noted(39, 1, 100), noted(50, 1, 100), noted(51, 2, 100)]);
        let left = told.unanswered(seen, start);
        assert_eq!(left, [held(60, 1, 100), held(50, 1, 101)]);
    }

    #[test]
    fn a_report_that_was_slow_on_its_way_still_accounts_for_the_right_request() {
        let start = start();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let held = |ms: u64| Held {
            at: at(ms),
            interface: 1,
            question: question(1, 100),
        };
        // The request of 50 was answered; the report of it took 7 ms.
        let told = Report::new(&[Noted {
            at: at(57),
            question: question(1, 100),
        }]);
        assert_eq!(told.unanswered(vec![held(50), held(60)], start), [held(60)]);
    }

    #[test]
    fn a_report_that_was_very_slow_is_no_matter_where_requests_can_be_told_apart() {
        let start = start();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let asked_from = |last: u8| Question {
            from: IpAddr::from([198, 18, 0, last]),
            ..question(1, 100)
        };
        let held = |ms: u64, last| Held {
            at: at(ms),
            interface: 1,
            question: asked_from(last),
        };
        // Both were answered, and the report took 35 ms.
        let noted = |ms: u64, last| Noted {
            at: at(ms + 35),
            question: asked_from(last),
        };
        let told = Report::new(&[noted(50, 5), noted(60, 6)]);
        let seen = vec![held(50, 5), held(60, 6), held(70, 7)];
        assert_eq!(told.unanswered(seen, start), [held(70, 7)]);
    }

    #[test]
    fn an_answer_of_which_is_not_told_who_asked_from_where_accounts_for_all_that_may_be_it() {
        let start = start();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let held = |ms: u64, target, from: u8| Held {
            at: at(ms),
            interface: 1,
            question: Question {
                from: IpAddr::from([198, 18, 0, from]),
                ..question(1, target)
            },
        };
        // One was answered, and the report took 35 ms.
        let told = Report {
            answered: vec![Answered {
                asker: MacAddr(2, 0, 0, 0, 0, 1),
                from: None,
                target: IpAddr::from([192, 0, 2, 100]),
                at: at(85),
            }],
            ..Report::default()
        };
        let seen = vec![
            held(50, 100, 5),
            held(60, 100, 6),
            held(60, 101, 5),
            held(90, 100, 7),
        ];
        assert_eq!(
            told.unanswered(seen, start),
            [held(60, 101, 5), held(90, 100, 7)]
        );
    }

    #[test]
    fn a_request_that_had_arrived_when_the_holding_began_is_accounted_for() {
        let start = start();
        let at = |micros: u64| start + Duration::from_micros(micros);
        let held = Held {
            at: at(9_800),
            interface: 1,
            question: question(1, 100),
        };
        // The kernel of the old owner stamped it a little earlier or later.
        for noted in [9_700, 9_900, 10_100] {
            let told = Report::new(&[Noted {
                at: at(noted),
                question: question(1, 100),
            }]);
            assert_eq!(told.unanswered(vec![held], at(10_000)), [], "{noted}");
        }
    }

    #[test]
    fn addresses_of_one_asker_fold_apart() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(fold(address("192.0.2.1")), 0xc000_0201);
        let folded = ["fd09::1", "fd09::2", "fd09:1::1", "fe80::1", "::"]
            .map(address)
            .map(fold);
        for (index, one) in folded.iter().enumerate() {
            assert!(!folded[index + 1..].contains(one), "{folded:?}");
        }
    }

    #[test]
    fn one_answer_accounts_for_one_request_only() {
        let start = start();
        let one = Held {
            at: start,
            interface: 1,
            question: question(1, 100),
        };
        let told = Report {
            answered: vec![Answered {
                asker: MacAddr(2, 0, 0, 0, 0, 1),
                from: Some(u32::from_be_bytes([192, 0, 2, 1])),
                target: IpAddr::from([192, 0, 2, 100]),
                at: start,
            }],
            ..Report::default()
        };
        assert_eq!(told.unanswered(vec![one, one], start), [one]);
        assert_eq!(
            Report::default().unanswered(vec![one, one], start),
            [one, one]
        );
    }

    #[test]
    fn an_answer_from_before_the_holding_accounts_for_nothing() {
        let start = start();
        let at = |ms: u64| start + Duration::from_millis(ms);
        // A client that asks again after 3 ms: the first request came before the holding began.
        let noted = [Noted {
            at: at(1),
            question: question(1, 100),
        }];
        let held = Held {
            at: at(4),
            interface: 1,
            question: question(1, 100),
        };
        let told = Report::new(&noted);
        assert_eq!(told.unanswered(vec![held], at(2)), [held]);
        let first = Held { at: at(1), ..held };
        assert_eq!(told.unanswered(vec![first, held], at(0)), [held]);
    }

    #[test]
    fn a_report_is_bounded_and_what_is_older_than_it_was_answered() {
        let start = start();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let noted: Vec<Noted> = (0..100)
            .map(|number| Noted {
                at: at(number * 10),
                question: question(1, 100),
            })
            .collect();
        let told = Report::new(&noted);
        assert_eq!(told.answered.len(), ANSWERED_LIMIT);
        assert_eq!(told.answered[0].at, at(990));
        let held: Vec<Held> = (0..=100)
            .map(|number| Held {
                at: at(number * 10),
                interface: 1,
                question: question(1, 100),
            })
            .collect();
        let newest = held[100];
        assert_eq!(told.unanswered(held, start), [newest]);
    }
}
