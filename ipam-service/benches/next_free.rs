//! How long it takes to decide an allocation, of which the search for the next free address is a
//! part, while a /12 fills up from empty to 99 %; and at 99 % with the free addresses scattered.
//! Prints lines of `name value unit`.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use std::sync::Arc;

use ipam_service::state::address::{AddressRange, Family};
use ipam_service::state::command::{Allocate, Command, IfRefused, InUse, Release};
use ipam_service::state::model::{
    BackendsPolicy, Claim, DualStackPools, Families, Labels, Owner, OwnerKey, Pool, PoolKey, Port,
    Protocol, Timestamp,
};
use ipam_service::state::names::Name;
use ipam_service::state::{State, decide};

const RANGE: &str = "10.0.0.0/12";
const SIZE: u32 = 1 << 20;
const SAMPLES: u32 = 20_000;
const NOW: Timestamp = Timestamp(0);

fn main() {
    let mut book = Book::new();
    for percent in [0, 25, 50, 75, 90, 99] {
        book.fill_to(SIZE / 100 * percent);
        book.measure(&format!("{percent}_percent"));
    }
    // One hole in every hundred, made as full again as it was by the addresses at the end.
    let scattered = book.next / 100;
    for hole in 0..scattered {
        book.release(hole * 100 + 50);
    }
    for _ in 0..SIZE / 100 {
        book.allocate();
    }
    let holes = SIZE - book.held;
    println!("next_free.scattered_holes {holes} addresses");
    book.measure("99_percent_scattered");
}

/// A state, driven as the engine drives it.
struct Book {
    state: State,
    /// Number of the next new owner.
    next: u32,
    held: u32,
}

impl Book {
    fn new() -> Self {
        let pool = Pool {
            key: PoolKey::new(name("default"), None, name("bench")),
            addresses: vec![RANGE.to_owned()],
            ranges: vec![AddressRange::parse(RANGE).expect("a range")],
            auto_assign: true,
            avoid_buggy_ips: false,
            priority: 0,
            namespaces: Default::default(),
            namespace_selectors: Vec::new(),
            service_selectors: Vec::new(),
            labels: Labels::new(),
            protected: false,
            reuse_delay: std::time::Duration::ZERO,
            reuse_unacknowledged: ipam_service::state::REUSE_UNACKNOWLEDGED,
            revision: 0,
        };
        let mut book = Self {
            state: State::new(),
            next: 0,
            held: 0,
        };
        book.run(&Command::ApplyPool {
            pool: Box::new(pool),
            in_use: InUse::Refuse,
        });
        book
    }

    fn run(&mut self, command: &Command) {
        let changes = decide(&self.state, command, NOW).expect("granted");
        for change in &changes {
            self.state.apply(change);
        }
        while let Some(command) = self.state.follow_up() {
            self.run(&command);
        }
    }

    fn allocate(&mut self) {
        self.run(&allocate(self.next));
        self.next += 1;
        self.held += 1;
    }

    fn release(&mut self, number: u32) {
        self.run(&Command::Release(Release {
            owner: owner(number),
            allow_missing: false,
            if_revision: None,
            fence: 0,
        }));
        self.held -= 1;
    }

    fn fill_to(&mut self, held: u32) {
        while self.held < held {
            self.allocate();
        }
    }

    /// The mean over decisions that are not applied, and over decisions that are and are taken back.
    fn measure(&mut self, label: &str) {
        let commands: Vec<Command> = (0..SAMPLES).map(|n| allocate(SIZE + n)).collect();
        let start = now();
        for command in &commands {
            black_box(decide(&self.state, black_box(command), NOW)).expect("granted");
        }
        report(&format!("next_free.decide.{label}"), start.elapsed());
        let mut elapsed = Duration::ZERO;
        for command in &commands {
            let start = now();
            let changes = decide(&self.state, black_box(command), NOW).expect("granted");
            for change in &changes {
                self.state.apply(change);
            }
            elapsed += start.elapsed();
            for change in changes.iter().rev() {
                self.state.undo(change);
            }
            while self.state.follow_up().is_some() {}
        }
        report(&format!("next_free.decide_and_apply.{label}"), elapsed);
    }
}

fn report(name: &str, total: Duration) {
    let nanoseconds = total.as_secs_f64() * 1e9 / f64::from(SAMPLES);
    println!("{name} {nanoseconds:.0} ns");
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn owner(number: u32) -> Owner {
    Owner {
        key: OwnerKey {
            cluster: name("bench"),
            namespace: Some(name("default")),
            name: name(&format!("service-{number}")),
        },
        uid: String::new(),
    }
}

fn allocate(number: u32) -> Command {
    Command::Allocate(Box::new(Allocate {
        owner: owner(number),
        claim: Arc::new(Claim {
            space: name("default"),
            families: Families::One(Family::V4),
            dual_stack_pools: DualStackPools::OnePool,
            pool: None,
            reservation: None,
            addresses: Vec::new(),
            ports: vec![Port {
                protocol: Protocol::Tcp,
                number: 80,
            }],
            sharing_key: String::new(),
            backend_key: String::new(),
            labels: Labels::new(),
            namespace_labels: Labels::new(),
            backends: BackendsPolicy::Unmanaged,
        }),
        held: Vec::new(),
        if_refused: IfRefused::Fail,
        if_revision: None,
        fence: 0,
    }))
}
