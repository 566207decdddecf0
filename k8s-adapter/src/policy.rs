//! From custom resources to what they mean, with every check that can be made without the address
//! book. Pure. [`examine`] judges everything that there is; [`admission`] one change.
//!
//! One bad object refuses its whole set, as in MetalLB: half a configuration would move addresses.
//! Sets are the pools, the layer 2 advertisements, and everything about BGP.

pub mod admission;
mod bgp;
mod community;
mod conflicts;
mod findings;
mod l2;
pub mod label;
mod limits;
mod messages;
mod objects;
mod own;
mod peer;
mod pool;
mod profile;
mod references;
mod selector;
mod timers;

use pharos_proto::v1;

use crate::claim::Settings;

pub use bgp::{Advertisement, Bgp};
pub use community::Community;
pub use findings::{Finding, Severity};
pub use messages::Passwords;
pub use objects::{Declared, Known, Object, Objects, ResourceKind, Subject};
pub use peer::{Authentication, Endpoint, LONGEST_PASSWORD, Peer, RemoteAs};
pub use profile::Profile;
pub use timers::Timers;

use findings::Problems;

/// What all objects amount to.
#[derive(Debug, Clone)]
pub struct Configuration {
    pools: Vec<v1::Pool>,
    l2: Vec<v1::Advertisement>,
    bgp: Bgp,
    findings: Vec<Finding>,
}

impl Configuration {
    /// The pools of the cluster, or everything that is wrong with them.
    pub fn pools(&self) -> Result<&[v1::Pool], Vec<&Finding>> {
        self.sound(&self.pools[..], |kind| kind == ResourceKind::Pool)
    }

    /// The layer 2 advertisements of the cluster, or everything that is wrong with them.
    pub fn l2(&self) -> Result<&[v1::Advertisement], Vec<&Finding>> {
        self.sound(&self.l2[..], |kind| kind == ResourceKind::L2Advertisement)
    }

    /// What the cluster says by BGP and to whom, or everything that is wrong with it.
    pub fn bgp(&self) -> Result<&Bgp, Vec<&Finding>> {
        self.sound(&self.bgp, ResourceKind::is_bgp)
    }

    /// Everything that is to be said, by object and field.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    fn sound<T>(&self, it: T, is_part: impl Fn(ResourceKind) -> bool) -> Result<T, Vec<&Finding>> {
        let errors: Vec<&Finding> = self
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error && is_part(finding.object.kind))
            .collect();
        if errors.is_empty() {
            Ok(it)
        } else {
            Err(errors)
        }
    }
}

/// Reads everything that is declared.
pub fn examine(objects: &Objects<'_>, settings: &Settings) -> Configuration {
    let mut findings = Vec::new();
    let said = &mut findings;
    let pools = read(
        &objects.pools,
        ResourceKind::Pool,
        said,
        |declared, spec, problems| pool::parse(declared, spec, settings, problems),
    );
    pool::check_overlaps(&pools, said);
    let l2 = read(
        &objects.l2,
        ResourceKind::L2Advertisement,
        said,
        |declared, spec, problems| l2::convert(declared, spec, settings, problems),
    );
    let bgp = read_bgp(objects, settings, said);
    conflicts::find(&pools, &bgp, objects.nodes.as_deref(), said);
    references::find(objects, &pools, &bgp, said);
    findings.sort();
    Configuration {
        pools: pools.into_iter().map(|pool| pool.message).collect(),
        l2,
        bgp,
        findings,
    }
}

fn read_bgp(objects: &Objects<'_>, settings: &Settings, findings: &mut Vec<Finding>) -> Bgp {
    let aliases = community::aliases(&objects.communities, findings);
    let kind = ResourceKind::BgpAdvertisement;
    let advertisements = read(&objects.bgp, kind, findings, |declared, spec, problems| {
        bgp::parse((declared, spec), &aliases, settings, problems)
    });
    let profiles = read(
        &objects.profiles,
        ResourceKind::Profile,
        findings,
        profile::parse,
    );
    let peers = read(&objects.peers, ResourceKind::Peer, findings, peer::parse);
    Bgp {
        peers: peers.into_iter().flatten().collect(),
        profiles,
        advertisements,
    }
}

/// Each object of a kind that can be read.
fn read<'a, S, T>(
    known: &Known<'a, S>,
    kind: ResourceKind,
    findings: &mut Vec<Finding>,
    parse: impl Fn(&'a Declared<S>, &'a S, &mut Problems<'_>) -> T,
) -> Vec<T> {
    let mut parsed = Vec::new();
    for declared in known.iter() {
        let mut problems = Problems::new(kind, &declared.name, findings);
        match &declared.spec {
            Ok(spec) => parsed.push(parse(declared, spec, &mut problems)),
            Err(message) => problems.add("", message),
        }
    }
    parsed
}

#[cfg(test)]
mod tests;
