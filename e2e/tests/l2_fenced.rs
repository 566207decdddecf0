//! Fenced addresses: never two that answer, whatever is cut, at the price of silence.
//!
//! Topology: `e2e::fleet`. The client reaches every node all the time, so it sees whoever answers.
//!
//! 1. The owner that ipam-service names answers, and nobody else; people can see who it is.
//! 2. A killed owner (-9) is replaced within its lease and half a second; nobody answers twice.
//! 3. A stopped owner (SIGTERM), and one that comes back, cost no answer, and never are there two.
//! 4. An owner that ipam-service cannot reach falls silent before another answers.
//! 5. Without ipam-service fenced addresses fall silent, others do not; when it is back they are
//!    answered again.
//! 6. Random cuts between nodes and ipam-service, and among nodes: never two, and one in the end.
//!    `PHAROS_PARTITIONS=200` makes so many, `PHAROS_SEED` others.

use std::net::Ipv4Addr;
use std::time::Duration;

use e2e::fleet::{CLUSTER, Fleet, SOON};
use pharos_proto::v1;
use pharos_proto::v1::advertisement::l2::Ownership;
use pharos_proto::v1::announcer_service_client::AnnouncerServiceClient;
use pharos_testbed::arp::Prober;
use pharos_testbed::wait;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 12, 100);
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// How long a lost owner may keep an address from the others, and half a second.
const TAKE_OVER: Duration = Duration::from_millis(3_500);
/// A machine that runs tests may be busy: so much later nobody complains yet.
const BUSY: Duration = Duration::from_millis(1_500);

struct Scene {
    fleet: Fleet,
    prober: Prober,
}

impl Scene {
    /// A fenced address that is answered.
    fn start() -> anyhow::Result<Option<Self>> {
        let Some(fleet) = Fleet::start(&NODES)? else {
            return Ok(None);
        };
        fleet.apply_pool("192.168.12.100-192.168.12.120")?;
        fleet.advertise_as(Ownership::Fenced, "fenced", &[], &[])?;
        fleet.allocate("web", ADDRESS)?;
        let prober = Prober::start(fleet.client()?, &[ADDRESS])?;
        prober.wait_answer(ADDRESS, Duration::ZERO, None, SOON)?;
        Ok(Some(Self { fleet, prober }))
    }

    /// The node that ipam-service names, and the epoch.
    fn named(&self) -> anyhow::Result<(String, u64)> {
        let request = v1::ListAssignmentsRequest {
            cluster: CLUSTER.to_owned(),
        };
        let listed = self.fleet.call(|channel| async {
            let mut announcers = AnnouncerServiceClient::new(channel);
            announcers.list_assignments(request).await
        })?;
        let fenced = listed.assignments.first().and_then(|it| it.fenced.clone());
        let fenced = fenced.unwrap_or_default();
        Ok((fenced.owner, fenced.epoch))
    }

    fn owner(&self) -> anyhow::Result<String> {
        Ok(self.named()?.0)
    }

    /// Whether this node alone has answered for half a second.
    fn is_alone(&self, node: &str) -> anyhow::Result<bool> {
        let mac = self.fleet.lan.host(node)?.mac;
        let now = self.prober.now();
        let since = now.saturating_sub(Duration::from_millis(500));
        let record = self.prober.record();
        let settled = now.saturating_sub(Duration::from_millis(100));
        let alone = record.answerers(ADDRESS, since, now).iter().eq(&[mac]);
        Ok(alone && record.lost(ADDRESS, since, settled).is_empty())
    }

    fn wait_alone(&self, node: &str) -> anyhow::Result<()> {
        wait::until(&format!("{node} alone answers"), SOON, || {
            self.is_alone(node).ok()?.then_some(())
        })
    }

    /// No request was answered by two, ever.
    fn check_never_two(&self) {
        let record = self.prober.record();
        let doubled = record.doubled(ADDRESS, Duration::ZERO, self.prober.now());
        assert!(doubled.is_empty(), "{}", record.timeline(ADDRESS));
    }

    fn check_nothing_lost(&self, since: Duration) {
        let record = self.prober.record();
        let until = self.prober.now() - Duration::from_millis(500);
        let lost = record.lost(ADDRESS, since, until);
        assert!(lost.is_empty(), "{}", record.timeline(ADDRESS));
    }
}

#[test]
fn the_named_owner_answers_and_one_that_is_killed_is_replaced_after_its_lease() -> anyhow::Result<()>
{
    let Some(mut scene) = Scene::start()? else {
        return Ok(());
    };
    let (owner, epoch) = scene.named()?;
    scene.wait_alone(&owner)?;
    scene
        .fleet
        .wait_metric(&owner, "pharos_announcer_lease", "1")?;
    let mac = scene.fleet.lan.host(&owner)?.mac;
    scene.fleet.announcer(&owner)?.kill()?;
    let killed = scene.prober.now();
    let answer = scene.prober.wait_answer(ADDRESS, killed, Some(mac), SOON)?;
    let gap = answer.at - killed;
    eprintln!("fenced failover after kill -9: {gap:?}");
    assert!(gap <= TAKE_OVER + BUSY, "{gap:?}");
    let (next, grown) = scene.named()?;
    assert!(next != owner && grown > epoch, "{next} {grown}");
    scene.wait_alone(&next)?;
    scene.check_never_two();
    Ok(())
}

#[test]
fn planned_moves_cost_no_answer_and_never_are_there_two() -> anyhow::Result<()> {
    let Some(mut scene) = Scene::start()? else {
        return Ok(());
    };
    let owner = scene.owner()?;
    scene.wait_alone(&owner)?;
    let before = scene.prober.now();
    let status = scene.fleet.announcer(&owner)?.terminate(SOON)?;
    assert!(status.success(), "{status}");
    let next = wait::until("another is named", SOON, || {
        scene.owner().ok().filter(|named| *named != owner)
    })?;
    scene.wait_alone(&next)?;
    // It comes back, and is the first of the list.
    scene.fleet.start_announcer(&owner)?;
    scene.wait_alone(&owner)?;
    scene.check_nothing_lost(before);
    scene.check_never_two();
    Ok(())
}

#[test]
fn an_owner_that_is_cut_off_falls_silent_before_another_answers() -> anyhow::Result<()> {
    let Some(mut scene) = Scene::start()? else {
        return Ok(());
    };
    let owner = scene.owner()?;
    scene.wait_alone(&owner)?;
    let mac = scene.fleet.lan.host(&owner)?.mac;
    scene.fleet.lan.cut("ipam", &owner)?;
    let cut = scene.prober.now();
    let answer = scene.prober.wait_answer(ADDRESS, cut, Some(mac), SOON)?;
    let gap = answer.at - cut;
    assert!(gap <= TAKE_OVER + BUSY, "{gap:?}");
    scene
        .fleet
        .wait_metric(&owner, "pharos_announcer_lease", "0")?;
    let next = scene.owner()?;
    scene.wait_alone(&next)?;
    scene.fleet.lan.heal()?;
    scene.wait_alone(&owner)?;
    scene.check_never_two();
    Ok(())
}

#[test]
fn without_ipam_service_fenced_addresses_fall_silent_until_it_is_back() -> anyhow::Result<()> {
    let Some(mut scene) = Scene::start()? else {
        return Ok(());
    };
    let owner = scene.owner()?;
    scene.wait_alone(&owner)?;
    // A moment is no reason.
    let before = scene.prober.now();
    scene.fleet.kill_ipam()?;
    scene.fleet.start_ipam()?;
    scene.wait_alone(&owner)?;
    scene.check_nothing_lost(before);
    scene.fleet.kill_ipam()?;
    wait::until("nobody answers", SOON, || {
        let since = scene.prober.now().checked_sub(Duration::from_millis(500))?;
        let record = scene.prober.record();
        let answerers = record.answerers(ADDRESS, since, scene.prober.now());
        answerers.is_empty().then_some(())
    })?;
    scene.fleet.start_ipam()?;
    scene.wait_alone(&owner)?;
    scene.check_never_two();
    Ok(())
}

/// The finalizer of splitmix64, over a counter.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % bound
    }
}

fn number(variable: &str, usual: u64) -> u64 {
    let said = std::env::var(variable).ok();
    said.map_or(usual, |text| text.parse().expect(variable))
}

#[test]
fn random_partitions_never_make_two_owners() -> anyhow::Result<()> {
    let Some(mut scene) = Scene::start()? else {
        return Ok(());
    };
    let (partitions, seed) = (number("PHAROS_PARTITIONS", 12), number("PHAROS_SEED", 1));
    eprintln!("PHAROS_PARTITIONS={partitions} PHAROS_SEED={seed}");
    let mut chance = Chance(seed);
    let links = [
        ("ipam", "n1"),
        ("ipam", "n2"),
        ("ipam", "n3"),
        ("n1", "n2"),
        ("n1", "n3"),
        ("n2", "n3"),
    ];
    let mut owners = std::collections::BTreeSet::new();
    for _ in 0..partitions {
        for (a, b) in links {
            if chance.below(2) == 0 {
                scene.fleet.lan.cut(a, b)?;
            }
        }
        let until = scene.prober.now() + Duration::from_millis(500 + chance.below(5_000));
        wait::until("the partition lasts", SOON, || {
            (scene.prober.now() >= until).then_some(())
        })?;
        scene.check_never_two();
        scene.fleet.lan.heal()?;
        let until = scene.prober.now() + Duration::from_millis(chance.below(1_500));
        wait::until("it is whole for a while", SOON, || {
            (scene.prober.now() >= until).then_some(())
        })?;
        owners.insert(scene.owner()?);
    }
    let alone = wait::until("the named owner answers alone", SOON, || {
        let owner = scene.owner().ok()?;
        scene.is_alone(&owner).ok()?.then_some(())
    });
    if let Err(error) = alone {
        let named = scene.named()?;
        anyhow::bail!(
            "{error}: {named:?}\n{}",
            scene.prober.record().timeline(ADDRESS)
        );
    }
    scene.check_never_two();
    assert!(owners.len() > 1, "the owner never changed: {owners:?}");
    Ok(())
}
