//! The state held against rows that were read anew.

use super::State;
use super::change::Change;
use super::model::Unavailable;

impl State {
    /// The first thing in which the rows of a store (as edits without a before) differ from the
    /// state; `None`: they are the same.
    pub fn difference(&self, rows: &[Change]) -> Option<String> {
        if let Some(row) = rows.iter().find(|row| !self.has(row)) {
            return Some(format!("{} is not as it was", name_of(row)));
        }
        // All rows are in the state; so if there are as many, the state has no others.
        let count = |kind: usize| rows.iter().filter(|row| kind_of(row) == kind).count();
        for (kind, (name, known)) in self.counts().into_iter().enumerate() {
            let found = count(kind);
            if found != known {
                return Some(format!("{found} {name}s instead of {known}"));
            }
        }
        None
    }

    fn has(&self, row: &Change) -> bool {
        match row {
            Change::Allocation(edit) => {
                let it = edit.subject();
                self.allocation(&it.owner.key) == Some(it)
            }
            Change::Pool(edit) => self.pool(&edit.subject().key) == Some(edit.subject()),
            Change::Advertisement(edit) => {
                self.advertisement(&edit.subject().key) == Some(edit.subject())
            }
            Change::BgpPeer(edit) => self.bgp.peer(&edit.subject().key) == Some(edit.subject()),
            Change::BfdProfile(edit) => {
                self.bgp.profile(&edit.subject().key) == Some(edit.subject())
            }
            Change::Reservation(edit) => {
                self.reservation(&edit.subject().key) == Some(edit.subject())
            }
            Change::Quota(edit) => self.quota(&edit.subject().name) == Some(edit.subject()),
            Change::AddressSpace(edit) => {
                self.address_space(&edit.subject().name) == Some(edit.subject())
            }
            Change::Unavailable(edit) => {
                let row = edit.subject();
                // When it ends is no matter of the store.
                let same = |known: &Unavailable| {
                    let known = Unavailable {
                        deadline: row.deadline,
                        ..known.clone()
                    };
                    known == **row
                };
                let mut known = self.unavailable(&row.key.space, row.key.address).iter();
                known.any(|known| same(known))
            }
            Change::Cluster(edit) => self.cluster(&edit.subject().name) == Some(edit.subject()),
            Change::Node(edit) => self.node(&edit.subject().key) == Some(edit.subject()),
            Change::Backends(edit) => self.backends(&edit.subject().owner) == Some(edit.subject()),
            Change::Placement(edit) => self.placement(edit.subject().group) == Some(edit.subject()),
            Change::Tenure(edit) => self.tenure(&edit.subject().key) == Some(edit.subject()),
        }
    }

    /// By [`kind_of`]: what it is called, and how many there are.
    fn counts(&self) -> [(&'static str, usize); 14] {
        let (nodes, backends) = self.tenants.fact_counts();
        [
            ("allocation", self.by_id.len()),
            ("pool", self.pools.iter().count()),
            ("advertisement", self.advertisements.len()),
            ("cluster", self.clusters().count()),
            ("node", nodes),
            ("backend set", backends),
            ("placement", self.placements.len()),
            ("reservation", self.reservations().count()),
            ("quota", self.quotas().count()),
            ("unavailable address", self.all_unavailable().count()),
            ("address space", self.address_spaces().count()),
            ("tenure", self.tenures.len()),
            ("BGP peer", self.bgp.peers().count()),
            ("BFD profile", self.bgp.profiles().count()),
        ]
    }
}

fn kind_of(row: &Change) -> usize {
    match row {
        Change::Allocation(_) => 0,
        Change::Pool(_) => 1,
        Change::Advertisement(_) => 2,
        Change::Cluster(_) => 3,
        Change::Node(_) => 4,
        Change::Backends(_) => 5,
        Change::Placement(_) => 6,
        Change::Reservation(_) => 7,
        Change::Quota(_) => 8,
        Change::Unavailable(_) => 9,
        Change::AddressSpace(_) => 10,
        Change::Tenure(_) => 11,
        Change::BgpPeer(_) => 12,
        Change::BfdProfile(_) => 13,
    }
}

fn name_of(row: &Change) -> String {
    match row {
        Change::Allocation(edit) => format!("allocation {}", edit.subject().owner.key),
        Change::Pool(edit) => format!("pool {}", edit.subject().key),
        Change::Advertisement(edit) => format!("advertisement {}", edit.subject().key.name),
        Change::BgpPeer(edit) => format!("BGP peer {}", edit.subject().key),
        Change::BfdProfile(edit) => format!("BFD profile {}", edit.subject().key),
        Change::Reservation(edit) => format!("reservation {}", edit.subject().key.name),
        Change::Quota(edit) => format!("quota {}", edit.subject().name),
        Change::AddressSpace(edit) => format!("address space {}", edit.subject().name),
        Change::Unavailable(edit) => format!("unavailable address {}", edit.subject().key.address),
        Change::Cluster(edit) => format!("cluster {}", edit.subject().name),
        Change::Node(edit) => {
            let key = &edit.subject().key;
            format!("node {}/{}", key.cluster, key.node)
        }
        Change::Backends(edit) => format!("backends of {}", edit.subject().owner),
        Change::Placement(edit) => format!("placement {}", edit.subject().group),
        Change::Tenure(edit) => format!("tenure of {}", edit.subject().key.address),
    }
}
