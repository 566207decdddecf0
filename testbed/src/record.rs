//! Who answered which request when, and the questions that tests ask of it. What a request is, and
//! how its answers are told from those of another, is up to the prober.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use pnet_base::MacAddr;

use crate::wait;

/// Time between two requests for one address: the resolution of every figure.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// Answers of an old owner up to this long after the first of a new one count as overlap.
const OVERLAP_WITHIN: Duration = Duration::from_secs(1);

/// Requests without an answer in a row that a timeline tells apart from the answers around them.
const UNANSWERED_IN_A_ROW: usize = 10;

/// An answer to a request of the prober.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Since the start of the recording.
    pub at: Duration,
    pub address: IpAddr,
    pub mac: MacAddr,
    /// Which round of requests it answers, counted from 0.
    pub round: usize,
}

/// What was asked, and who answered.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// In order of arrival.
    pub answers: Vec<Answer>,
    /// When each round of requests, one for each address, went out.
    pub asked: Vec<Duration>,
}

/// Who asks, and writes down who answers.
pub trait Recorder {
    /// Position of this moment on the recording's clock.
    fn now(&self) -> Duration;
    /// What was asked and answered so far.
    fn record(&self) -> Record;

    /// Waits for an answer like this, and gives the first.
    fn wait_for_answer(
        &self,
        what: &str,
        deadline: Duration,
        is_wanted: impl Fn(&Answer) -> bool,
    ) -> anyhow::Result<Answer> {
        wait::until(what, deadline, || {
            self.record().answers.into_iter().find(&is_wanted)
        })
    }
}

/// A request for one address, with all its answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub asked: Duration,
    /// When it was answered, and by whom.
    pub answers: Vec<(Duration, MacAddr)>,
}

/// A time during which two nodes answered for one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    pub address: IpAddr,
    pub old: MacAddr,
    pub new: MacAddr,
    /// First answer of the new one.
    pub from: Duration,
    /// Last answer of the old one.
    pub to: Duration,
}

impl Record {
    /// Answers for one address.
    pub fn of(&self, address: impl Into<IpAddr>) -> impl Iterator<Item = &Answer> {
        let address = address.into();
        self.answers
            .iter()
            .filter(move |answer| answer.address == address)
    }

    /// The requests for an address that were asked between two moments, with all their answers.
    pub fn requests(
        &self,
        address: impl Into<IpAddr>,
        from: Duration,
        to: Duration,
    ) -> Vec<Request> {
        let first = self.asked.partition_point(|at| *at < from);
        let end = self.asked.partition_point(|at| *at <= to).max(first);
        let asked = self.asked[first..end].iter();
        let mut requests: Vec<Request> = asked
            .map(|asked| Request {
                asked: *asked,
                answers: Vec::new(),
            })
            .collect();
        for answer in self.of(address) {
            let index = answer.round.checked_sub(first);
            if let Some(request) = index.and_then(|index| requests.get_mut(index)) {
                request.answers.push((answer.at, answer.mac));
            }
        }
        requests
    }

    /// When those requests were asked, of that time, that nobody has answered.
    pub fn lost(&self, address: impl Into<IpAddr>, from: Duration, to: Duration) -> Vec<Duration> {
        let requests = self.requests(address, from, to).into_iter();
        requests
            .filter(|request| request.answers.is_empty())
            .map(|request| request.asked)
            .collect()
    }

    /// The requests of that time that were answered more than once, by one node or by several.
    pub fn doubled(
        &self,
        address: impl Into<IpAddr>,
        from: Duration,
        to: Duration,
    ) -> Vec<Request> {
        let mut requests = self.requests(address, from, to);
        requests.retain(|request| request.answers.len() > 1);
        requests
    }

    /// Who answered the request for an address that went out with a round.
    pub fn answered_by(&self, address: impl Into<IpAddr>, round: usize) -> Vec<MacAddr> {
        self.of(address)
            .filter(|answer| answer.round == round)
            .map(|answer| answer.mac)
            .collect()
    }

    /// All that answered for an address between two moments.
    pub fn answerers(
        &self,
        address: impl Into<IpAddr>,
        from: Duration,
        to: Duration,
    ) -> BTreeSet<MacAddr> {
        self.of(address)
            .filter(|answer| answer.at >= from && answer.at <= to)
            .map(|answer| answer.mac)
            .collect()
    }

    /// The longest time without an answer between two moments, their edges included.
    pub fn longest_gap(
        &self,
        address: impl Into<IpAddr>,
        from: Duration,
        to: Duration,
    ) -> Duration {
        longest_pause(self.of(address).map(|answer| answer.at), from, to)
    }

    /// The longest time in which the prober itself asked nothing, because the machine was busy. A
    /// gap of that length says nothing about those who answer.
    pub fn longest_unasked(&self, from: Duration, to: Duration) -> Duration {
        longest_pause(self.asked.iter().copied(), from, to)
    }

    /// For people: who answered from when to when, how often, and what lay between.
    pub fn timeline(&self, address: impl Into<IpAddr>) -> String {
        let mut text = String::new();
        let mut answers = self.of(address).peekable();
        while let Some(first) = answers.next() {
            let (mut last, mut count) = (first, 1);
            while let Some(next) = answers.next_if(|next| {
                next.mac == first.mac && next.round <= last.round + UNANSWERED_IN_A_ROW
            }) {
                last = next;
                count += 1;
            }
            let line = format!(
                "{:?} to {:?}: {} ({count} answers)\n",
                first.at, last.at, first.mac
            );
            text.push_str(&line);
        }
        text
    }

    /// Times during which an old owner still answered after a new one had begun. An orderly
    /// hand-over has none, however slow the answers are: the old one stops before the new one starts.
    pub fn overlaps(&self, address: impl Into<IpAddr>) -> Vec<Overlap> {
        let answers: Vec<&Answer> = self.of(address).collect();
        let mut overlaps = Vec::new();
        for (index, pair) in answers.windows(2).enumerate() {
            let (old, new) = (pair[0], pair[1]);
            if old.mac == new.mac {
                continue;
            }
            let last = answers[index + 2..]
                .iter()
                .take_while(|answer| answer.at <= new.at + OVERLAP_WITHIN)
                .filter(|answer| answer.mac == old.mac)
                .last();
            if let Some(last) = last {
                overlaps.push(Overlap {
                    address: old.address,
                    old: old.mac,
                    new: new.mac,
                    from: new.at,
                    to: last.at,
                });
            }
        }
        overlaps
    }
}

fn longest_pause(times: impl Iterator<Item = Duration>, from: Duration, to: Duration) -> Duration {
    let inside = times.filter(|at| *at >= from && *at <= to);
    let mut last = from;
    let mut longest = Duration::ZERO;
    for at in inside.chain([to]) {
        longest = longest.max(at.saturating_sub(last));
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn mac(node: u8) -> MacAddr {
        MacAddr::new(2, 0, 0, 0, 0, node)
    }

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    /// Requests every 10 ms; the answers are (time, node), each to the request just before it.
    fn record(answers: &[(u64, u8)]) -> Record {
        let rounds = answers.iter().map(|(at, node)| (at / 10, *at, *node));
        record_of(40, &rounds.collect::<Vec<_>>())
    }

    /// So many requests, one every 10 ms; the answers are (round, time, node).
    fn record_of(asked: u64, answers: &[(u64, u64, u8)]) -> Record {
        let answers = answers.iter().map(|(round, at, node)| Answer {
            at: ms(*at),
            address: ADDRESS.into(),
            mac: mac(*node),
            round: usize::try_from(*round).unwrap(),
        });
        Record {
            answers: answers.collect(),
            asked: (0..asked).map(|round| ms(round * 10)).collect(),
        }
    }

    #[test]
    fn one_lost_and_one_doubled_request_do_not_cancel_out() {
        let record = record_of(4, &[(0, 1, 1), (1, 11, 1), (1, 12, 2), (3, 31, 2)]);
        assert_eq!(record.lost(ADDRESS, ms(0), ms(100)), [ms(20)]);
        let doubled = record.doubled(ADDRESS, ms(0), ms(100));
        assert_eq!(doubled.len(), 1);
        assert_eq!(doubled[0].asked, ms(10));
        assert_eq!(doubled[0].answers, [(ms(11), mac(1)), (ms(12), mac(2))]);
        assert_eq!(record.answered_by(ADDRESS, 1), [mac(1), mac(2)]);
        assert!(record.answered_by(ADDRESS, 2).is_empty());
    }

    #[test]
    fn a_late_answer_counts_for_the_request_that_it_belongs_to() {
        let record = record_of(10, &[(0, 1, 1), (2, 21, 2), (1, 95, 2)]);
        assert!(record.lost(ADDRESS, ms(0), ms(20)).is_empty());
        assert_eq!(record.lost(ADDRESS, ms(0), ms(30)), [ms(30)]);
        assert_eq!(record.doubled(ADDRESS, ms(0), ms(100)), []);
    }

    #[test]
    fn only_requests_of_the_time_asked_for_count() {
        let record = record_of(4, &[(0, 1, 1), (0, 2, 1)]);
        assert_eq!(record.requests(ADDRESS, ms(1), ms(20)).len(), 2);
        assert_eq!(record.doubled(ADDRESS, ms(1), ms(100)), []);
        assert_eq!(record.doubled(ADDRESS, ms(0), ms(0)).len(), 1);
        assert!(record.lost(ADDRESS, ms(50), ms(10)).is_empty());
    }

    #[test]
    fn a_hand_over_in_order_is_no_overlap() {
        let record = record(&[(10, 1), (20, 1), (30, 2), (40, 2)]);
        assert_eq!(record.overlaps(ADDRESS), []);
    }

    #[test]
    fn an_old_owner_that_answers_on_is_an_overlap_up_to_its_last_answer() {
        let record = record(&[(10, 1), (20, 2), (21, 1), (30, 2), (31, 1), (40, 2)]);
        let overlaps = record.overlaps(ADDRESS);
        assert_eq!(overlaps[0].from, ms(20));
        assert_eq!(overlaps[0].to, ms(31));
    }

    #[test]
    fn an_owner_that_returns_much_later_is_no_overlap() {
        let record = record(&[(10, 1), (20, 2), (3000, 1)]);
        assert_eq!(record.overlaps(ADDRESS), []);
    }

    #[test]
    fn the_longest_gap_counts_the_edges() {
        let record = record(&[(10, 1), (20, 1), (70, 2)]);
        let gap = |from, to| record.longest_gap(ADDRESS, ms(from), ms(to));
        assert_eq!(gap(10, 80), ms(50));
        assert_eq!(gap(10, 200), ms(130));
        assert_eq!(gap(300, 400), ms(100));
    }

    #[test]
    fn a_pause_of_the_prober_is_told_apart_and_a_timeline_names_the_gap() {
        let mut record = record(&[(10, 1), (20, 1), (70, 2), (300, 2)]);
        record.asked = vec![ms(10), ms(70)];
        assert_eq!(record.longest_unasked(ms(10), ms(80)), ms(60));
        let timeline = record.timeline(ADDRESS);
        let lines: Vec<&str> = timeline.lines().collect();
        assert_eq!(lines.len(), 3, "{timeline}");
        assert_eq!(lines[0], "10ms to 20ms: 02:00:00:00:00:01 (2 answers)");
    }
}
