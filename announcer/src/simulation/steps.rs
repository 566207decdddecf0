//! What happens to a cluster, at random.

use std::time::Duration;

use pnet_base::MacAddr;
use rand::RngExt as _;

use super::node::name;
use super::world::{World, address};

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only what people do on purpose: lists change, addresses get other groups, one announcer at a
    /// time is stopped and started again.
    Planned,
    /// Also: processes and hosts die, are suspended, and cannot hear each other.
    Faults,
    /// The same, and in the end two nodes still cannot hear each other, or one of them the other.
    PartlyHealed,
    /// As `Faults`, and in the end the nodes have different lists of the same candidates: streams lag.
    Disagreeing,
}

impl Kind {
    pub(super) fn loss(self) -> f64 {
        match self {
            Self::Planned => 0.0,
            Self::Faults | Self::PartlyHealed | Self::Disagreeing => 0.02,
        }
    }

    pub(super) fn lag(self) -> Duration {
        match self {
            Self::Planned => Duration::from_millis(300),
            Self::Faults | Self::PartlyHealed => Duration::from_secs(2),
            Self::Disagreeing => Duration::from_secs(60),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Nothing,
    List,
    /// Another address, which nobody has.
    Add,
    /// Another address, which a stranger has for a while.
    AddTaken,
    Stop,
    Kill,
    PowerOff,
    Start,
    Suspend,
    /// A node has much to do for a while.
    Busy,
    Cut,
    CutOneWay,
    Isolate,
    Heal,
    HealAll,
}

impl World {
    /// One step, and some time in which more or less of it comes to its end.
    pub(super) fn step(&mut self) {
        let steps: &[Step] = match self.kind {
            Kind::Planned => &[
                Step::Nothing,
                Step::List,
                Step::List,
                Step::List,
                Step::Stop,
                Step::Stop,
                Step::Add,
                Step::AddTaken,
                Step::Busy,
            ],
            Kind::Faults | Kind::PartlyHealed | Kind::Disagreeing => &[
                Step::List,
                // Nobody answers for an address of which no stream has told.
                match self.kind {
                    Kind::Disagreeing => Step::List,
                    Kind::Planned | Kind::Faults | Kind::PartlyHealed => Step::Add,
                },
                Step::Stop,
                Step::Kill,
                Step::PowerOff,
                Step::Start,
                Step::Start,
                Step::Suspend,
                Step::Busy,
                Step::Cut,
                Step::CutOneWay,
                Step::Isolate,
                Step::Heal,
                Step::HealAll,
            ],
        };
        let step = steps[self.chance.random_range(0..steps.len())];
        self.take(step);
        let most = if self.chance.random_bool(0.5) {
            50
        } else {
            1500
        };
        let pause = self.chance.random_range(0..most * 1000);
        self.run(Duration::from_micros(pause));
    }

    fn take(&mut self, step: Step) {
        let size = self.hosts.len();
        let index = self.chance.random_range(0..size);
        let other = (index + self.chance.random_range(1..size)) % size;
        match step {
            Step::Nothing => {}
            Step::List => {
                let addresses = self.lists[self.lists.len() - 1].len();
                let number = self.chance.random_range(1..=addresses);
                self.list(address(u16::try_from(number).expect("few")));
            }
            Step::Add => self.add(Duration::ZERO),
            Step::AddTaken => {
                let millis = self.chance.random_range(0..5000);
                self.add(Duration::from_millis(millis));
            }
            Step::Stop => self.stop_one(index),
            Step::Kill if self.may_fall(index) => {
                self.note(format!("kill n{index}"));
                self.end(index, true);
            }
            Step::PowerOff if self.may_fall(index) => {
                self.note(format!("power off n{index}"));
                self.end(index, false);
            }
            Step::Kill | Step::PowerOff => {}
            Step::Start => self.start(index, Duration::ZERO),
            Step::Suspend => self.suspend_one(index),
            Step::Busy => self.keep_busy(index),
            Step::Cut => {
                self.note(format!("cut n{index} n{other}"));
                self.cut.extend([(index, other), (other, index)]);
            }
            Step::CutOneWay => {
                self.note(format!("cut n{index} to n{other}"));
                self.cut.insert((index, other));
            }
            Step::Isolate => {
                self.note(format!("isolate n{index}"));
                for other in (0..size).filter(|other| *other != index) {
                    self.cut.extend([(index, other), (other, index)]);
                }
            }
            Step::Heal => {
                if let Some(pair) = self.cut.pop_first() {
                    self.note(format!("heal {pair:?}"));
                }
            }
            Step::HealAll => {
                self.note("heal".to_owned());
                self.cut.clear();
            }
        }
    }

    /// The interface of a node has this hardware address now; `None`: it is gone.
    pub(super) fn set_mac(&mut self, index: usize, mac: Option<MacAddr>) {
        self.note(format!("n{index} has {mac:?}"));
        if let Some(node) = &mut self.hosts[index].node {
            node.set_mac(mac, self.now);
        }
        self.after(index);
    }

    fn may_fall(&self, index: usize) -> bool {
        let others = self.hosts.iter().enumerate();
        self.hosts[index].node.is_some()
            && others
                .filter(|(other, host)| *other != index && host.node.is_some())
                .count()
                > 0
    }

    /// One at a time where only planned things happen.
    fn stop_one(&mut self, index: usize) {
        let is_away = |host: &super::world::Host| host.node.is_none() || host.stopping.is_some();
        let is_first = !self.hosts.iter().any(is_away);
        let runs = !is_away(&self.hosts[index]) && self.hosts[index].suspended.is_none();
        if runs && (is_first || self.kind != Kind::Planned) {
            self.note(format!("stop n{index}"));
            self.stop(index);
            // Long after it has handed everything over.
            let away = self.chance.random_range(3100..4000);
            self.start(index, Duration::from_millis(away));
        }
    }

    fn suspend_one(&mut self, index: usize) {
        if self.hosts[index].node.is_some() && self.hosts[index].suspended.is_none() {
            let millis = self.chance.random_range(1..1500);
            self.note(format!("suspend n{index} for {millis} ms"));
            self.suspend(index, Duration::from_millis(millis));
        }
    }

    fn keep_busy(&mut self, index: usize) {
        let longest = match self.kind {
            // Whoever is to stop does not wait longer.
            Kind::Planned => 400,
            Kind::Faults | Kind::PartlyHealed | Kind::Disagreeing => 2500,
        };
        let millis = self.chance.random_range(1..longest);
        let until = self.now + Duration::from_millis(millis);
        if let Some(node) = &mut self.hosts[index].node {
            node.keep_busy(until);
            self.note(format!("n{index} is busy for {millis} ms"));
        }
    }

    /// From now on nothing happens, and the network carries everything. Nodes that are away may stay
    /// away, but not all that may own an address.
    pub(super) fn calm_down(&mut self) {
        self.note("calm down".to_owned());
        self.cut.clear();
        self.loss = 0.0;
        if self.kind == Kind::PartlyHealed {
            self.take(Step::CutOneWay);
            if self.chance.random_bool(0.5) {
                let both: Vec<_> = self.cut.iter().map(|(from, to)| (*to, *from)).collect();
                self.cut.extend(both);
            }
        }
        for index in 0..self.hosts.len() {
            let all_are_back = matches!(self.kind, Kind::Planned | Kind::PartlyHealed);
            if all_are_back || self.chance.random_bool(0.7) {
                self.start(index, Duration::ZERO);
            }
        }
        self.start_candidates();
        // The last list arrives, unless streams lag; who is suspended resumes, and who was stopped is back.
        self.run(Duration::from_secs(4));
        if self.newcomers.values().any(|until| *until > self.start) {
            // What a stranger had is asked for again every ten seconds.
            self.run(Duration::from_secs(12));
        }
        self.note("quiet".to_owned());
    }

    /// Of an address whose candidates are all away one starts.
    fn start_candidates(&mut self) {
        let lists = &self.lists[self.lists.len() - 1];
        let away: Vec<usize> = lists
            .values()
            .filter_map(|list| {
                let indexes = 0..self.hosts.len();
                let mut candidates =
                    indexes.filter(|index| list.candidates.contains(&name(*index)));
                let first = candidates.clone().next()?;
                let is_away = |index: usize| self.hosts[index].node.is_none();
                candidates.all(is_away).then_some(first)
            })
            .collect();
        for index in away {
            self.start(index, Duration::ZERO);
        }
    }
}
