//! What a batch writes, table by table. Pure: it runs no SQL.
//!
//! A row that is touched several times in a batch is written once, from its first `before` to its
//! last `after`; per table deletions come before insertions.

mod bgp;
mod limits;
mod withheld;

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use super::encoded::Encoded;
use super::holdings::Intervals;
use super::rows::{Cell, Rows};
use super::sql::Statement;
use super::{Batch, facts};
use crate::api::convert::{claim_to_wire, pool_to_wire};
use crate::api::convert_announce::advertisement_to_wire;
use crate::api::convert_history::{LogContext, change_to_wire, kind_of};
use crate::state::address::Address;
use crate::state::bgp::model::{BfdProfile, BgpKey, BgpPeer};
use crate::state::change::{Change, Edit};
use crate::state::model::{
    AddressSpace, Advertisement, AdvertisementKey, Allocation, AllocationId, Backends, Cluster,
    Inventory, Node, NodeKey, OwnerKey, Placement, Pool, PoolKey, Protocol, Quota, Reservation,
    ReservationKey, Standing, Tenure, TenureKey, Unavailable, UnavailableKey,
};
use crate::state::names::Name;

/// Format of the log that this program understands. It grows by one when rows get a meaning that
/// an older program would miss.
pub(super) const READS: i64 = 1;

/// Format that a reader must understand to replay this program's rows.
pub(super) const MIN_READER: i64 = 1;

/// Rows by statement.
#[derive(Debug, Default)]
pub(super) struct Plan {
    rows: BTreeMap<Statement, Rows>,
    /// How many fact rows are written: each takes a sequence number.
    facts: u64,
}

impl Plan {
    /// The rows of a batch. Facts are numbered after `fact_seq`.
    pub(super) fn of(batch: &Batch, fact_seq: u64) -> Self {
        let mut coalesced = Coalesced::default();
        for logged in &batch.changes {
            coalesced.add(&logged.change);
        }
        let mut plan = Self::default();
        let mut encoded = Encoded::default();
        plan.write_allocations(&coalesced.allocations, &mut encoded);
        plan.write_objects(&coalesced);
        plan.write_bgp(&coalesced);
        plan.write_reservations(&coalesced.reservations);
        plan.write_limits(&coalesced);
        plan.write_unavailable(&coalesced.unavailable);
        plan.write_facts(&coalesced, fact_seq);
        for (cluster, time) in &batch.seen {
            plan.row(
                Statement::UpdateSeen,
                &[Cell::Text(cluster), Cell::Int(time.0)],
            );
        }
        plan.write_log(batch, &mut encoded);
        plan.write_holdings(batch);
        plan
    }

    /// Sequence numbers that the plan takes.
    pub(super) fn facts(&self) -> u64 {
        self.facts
    }

    /// In the order of [`Statement`].
    pub(super) fn statements(&self) -> impl Iterator<Item = (&Statement, &Rows)> {
        self.rows.iter()
    }

    fn row(&mut self, statement: Statement, cells: &[Cell<'_>]) {
        self.rows.entry(statement).or_default().push(cells);
    }

    fn rows_of(&mut self, statement: Statement, rows: Rows) {
        if !rows.is_empty() {
            self.rows.insert(statement, rows);
        }
    }
}

/// First `before` and last `after` of everything that a batch touches.
#[derive(Default)]
struct Coalesced {
    allocations: BTreeMap<AllocationId, Edit<Allocation>>,
    pools: BTreeMap<PoolKey, Edit<Pool>>,
    advertisements: BTreeMap<AdvertisementKey, Edit<Advertisement>>,
    bgp_peers: BTreeMap<BgpKey, Edit<BgpPeer>>,
    bfd_profiles: BTreeMap<BgpKey, Edit<BfdProfile>>,
    clusters: BTreeMap<Name, Edit<Cluster>>,
    reservations: BTreeMap<ReservationKey, Edit<Reservation>>,
    quotas: BTreeMap<Name, Edit<Quota>>,
    address_spaces: BTreeMap<Name, Edit<AddressSpace>>,
    unavailable: BTreeMap<UnavailableKey, Edit<Unavailable>>,
    nodes: BTreeMap<NodeKey, Edit<Node>>,
    backends: BTreeMap<OwnerKey, Edit<Backends>>,
    placements: BTreeMap<AllocationId, Edit<Placement>>,
    tenures: BTreeMap<TenureKey, Edit<Tenure>>,
}

impl Coalesced {
    fn add(&mut self, change: &Change) {
        match change {
            Change::Allocation(edit) => merge(&mut self.allocations, edit, |it| it.id),
            Change::Pool(edit) => merge(&mut self.pools, edit, |it| it.key.clone()),
            Change::Advertisement(edit) => {
                merge(&mut self.advertisements, edit, |it| it.key.clone());
            }
            Change::BgpPeer(edit) => merge(&mut self.bgp_peers, edit, |it| it.key.clone()),
            Change::BfdProfile(edit) => {
                merge(&mut self.bfd_profiles, edit, |it| it.key.clone());
            }
            Change::Cluster(edit) => merge(&mut self.clusters, edit, |it| it.name.clone()),
            Change::Unavailable(edit) => {
                merge(&mut self.unavailable, edit, |it| it.key.clone());
            }
            Change::Reservation(edit) => {
                merge(&mut self.reservations, edit, |it| it.key.clone());
            }
            Change::Quota(edit) => merge(&mut self.quotas, edit, |it| it.name.clone()),
            Change::AddressSpace(edit) => {
                merge(&mut self.address_spaces, edit, |it| it.name.clone());
            }
            Change::Node(edit) => merge(&mut self.nodes, edit, |it| it.key.clone()),
            Change::Backends(edit) => merge(&mut self.backends, edit, |it| it.owner.clone()),
            Change::Placement(edit) => merge(&mut self.placements, edit, |it| it.group),
            Change::Tenure(edit) => merge(&mut self.tenures, edit, |it| it.key.clone()),
        }
    }
}

fn merge<K: Ord, T: Clone>(map: &mut BTreeMap<K, Edit<T>>, edit: &Edit<T>, key: impl Fn(&T) -> K) {
    map.entry(key(edit.subject()))
        .and_modify(|merged| merged.after = edit.after.clone())
        .or_insert_with(|| edit.clone());
}

// === Allocations and the tables that guard them ===

/// An address that an allocation holds: a row of `held_address`, and of `allocation_address` where
/// several may hold it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AddressRow {
    pub(super) space: Name,
    pub(super) address: [u8; 16],
    pub(super) id: AllocationId,
    pub(super) cluster: Name,
    pub(super) group_key: String,
    pub(super) backend_key: String,
}

impl AddressRow {
    /// Whether nobody else may hold it.
    pub(super) fn is_sole(&self) -> bool {
        self.group_key.starts_with('a')
    }
}

/// A row of `allocation_port`. It names its whole address row, so that it is written anew when
/// that is.
pub(super) type PortRow<'a> = (&'a AddressRow, i64, u16);

impl Plan {
    fn write_allocations<'a>(
        &mut self,
        edits: &'a BTreeMap<AllocationId, Edit<Allocation>>,
        encoded: &mut Encoded<'a>,
    ) {
        let mut freed: BTreeSet<(Name, [u8; 16])> = BTreeSet::new();
        for (id, edit) in edits {
            match (&edit.before, &edit.after) {
                (_, Some(after)) => self.upsert_allocation(after, &encoded.of(after)),
                (Some(_), None) => self.row(Statement::DeleteAllocation, &[Cell::number(*id)]),
                // Made and gone within the batch: no trace but the log.
                (None, None) => {}
            }
            let (old, new) = (
                address_rows(edit.before.as_deref()),
                address_rows(edit.after.as_deref()),
            );
            for row in old.difference(&new) {
                let cells = address_cells(row);
                if row.is_sole() {
                    // The row of an allocation that is gone keeps nobody out.
                    if edit.after.is_some() {
                        self.row(Statement::DeleteSole, &[cells[0], cells[1], cells[4]]);
                    }
                } else {
                    self.row(Statement::DeleteAddress, &cells[..3]);
                    freed.insert((row.space.clone(), row.address));
                }
            }
            for row in new.difference(&old) {
                self.insert_address(row);
            }
            let old_ports = port_rows(&old, edit.before.as_deref());
            let new_ports = port_rows(&new, edit.after.as_deref());
            for row in old_ports.difference(&new_ports) {
                self.row(Statement::DeletePort, &port_cells(row)[..4]);
            }
            for row in new_ports.difference(&old_ports) {
                self.row(Statement::InsertPort, &port_cells(row));
            }
        }
        for (space, address) in &freed {
            let cells = [Cell::Text(space), Cell::bytes(address)];
            self.row(Statement::DeleteUnheld, &cells);
        }
    }

    /// `entry`: the allocation, encoded.
    fn upsert_allocation(&mut self, allocation: &Allocation, entry: &[u8]) {
        let key = &allocation.owner.key;
        let held_claim = match &allocation.standing {
            Standing::Stale { held_claim, .. } => Some(claim_to_wire(held_claim).encode_to_vec()),
            Standing::Assigned | Standing::Pending(_) => None,
        };
        let pool = allocation.pool.as_ref();
        let cells = [
            Cell::number(allocation.id),
            Cell::Text(&key.cluster),
            Cell::Text(text_of(key.namespace.as_ref())),
            Cell::Text(&key.name),
            Cell::Text(&allocation.effective_claim().space),
            Cell::Text(pool.map_or("", |pool| &pool.name)),
            Cell::Text(text_of(pool.and_then(|pool| pool.cluster.as_ref()))),
            Cell::Int(state_code(&allocation.standing)),
            Cell::number(allocation.revision),
            Cell::bytes(entry),
            Cell::Blob(held_claim.as_deref()),
        ];
        self.row(Statement::UpsertAllocation, &cells);
    }

    fn insert_address(&mut self, row: &AddressRow) {
        let cells = address_cells(row);
        let held = [cells[0], cells[1], cells[3], cells[4], cells[5]];
        if row.is_sole() {
            self.row(Statement::InsertSole, &held);
        } else {
            self.row(Statement::InsertHeld, &held);
            self.row(Statement::InsertAddress, &cells[..3]);
        }
    }
}

/// The addresses of an allocation, each a row that guards it.
pub(super) fn address_rows(allocation: Option<&Allocation>) -> BTreeSet<AddressRow> {
    let Some(allocation) = allocation else {
        return BTreeSet::new();
    };
    let claim = allocation.effective_claim();
    let (group_key, backend_key) = if claim.sharing_key.is_empty() {
        (format!("a{}", allocation.id), String::new())
    } else {
        (format!("k{}", claim.sharing_key), claim.backend_key.clone())
    };
    let row = |address: &Address| AddressRow {
        space: claim.space.clone(),
        address: address.to_bytes(),
        id: allocation.id,
        cluster: allocation.owner.key.cluster.clone(),
        group_key: group_key.clone(),
        backend_key: backend_key.clone(),
    };
    allocation.addresses.iter().map(row).collect()
}

/// The rows of `allocation_port` that guard it: who holds an address alone has all of its ports.
pub(super) fn port_rows<'a>(
    addresses: &'a BTreeSet<AddressRow>,
    allocation: Option<&Allocation>,
) -> BTreeSet<PortRow<'a>> {
    let ports = allocation.map_or(&[][..], |allocation| &allocation.effective_claim().ports);
    let shared = addresses.iter().filter(|address| !address.is_sole());
    let rows = shared.flat_map(|address| {
        ports.iter().map(move |port| {
            // IANA protocol numbers.
            let protocol = match port.protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
                Protocol::Sctp => 132,
            };
            (address, protocol, port.number)
        })
    });
    rows.collect()
}

fn address_cells(row: &AddressRow) -> [Cell<'_>; 6] {
    [
        Cell::Text(&row.space),
        Cell::bytes(&row.address),
        Cell::number(row.id),
        Cell::Text(&row.cluster),
        Cell::Text(&row.group_key),
        Cell::Text(&row.backend_key),
    ]
}

fn port_cells<'a>((row, protocol, port): &PortRow<'a>) -> [Cell<'a>; 5] {
    [
        Cell::Text(&row.space),
        Cell::bytes(&row.address),
        Cell::Int(*protocol),
        Cell::Int(i64::from(*port)),
        Cell::number(row.id),
    ]
}

/// An absent name is '' in SQL.
fn text_of(name: Option<&Name>) -> &str {
    name.map_or("", Name::as_str)
}

// === Pools, advertisements, clusters ===

impl Plan {
    fn write_objects(&mut self, coalesced: &Coalesced) {
        for (key, edit) in &coalesced.pools {
            let cells = [
                Cell::Text(&key.space),
                Cell::Text(text_of(key.cluster.as_ref())),
                Cell::Text(&key.name),
            ];
            match (&edit.before, &edit.after) {
                (_, Some(pool)) => {
                    let entry = pool_to_wire(pool).encode_to_vec();
                    let [space, cluster, name] = cells;
                    let revision = Cell::number(pool.revision);
                    let cells = [space, cluster, name, revision, Cell::bytes(&entry)];
                    self.row(Statement::UpsertPool, &cells);
                }
                (Some(_), None) => self.row(Statement::DeletePool, &cells),
                (None, None) => {}
            }
        }
        for (key, edit) in &coalesced.advertisements {
            let cells = [
                Cell::Text(text_of(key.cluster.as_ref())),
                Cell::Text(&key.name),
            ];
            match (&edit.before, &edit.after) {
                (_, Some(advertisement)) => {
                    let entry = advertisement_to_wire(advertisement).encode_to_vec();
                    let [cluster, name] = cells;
                    let revision = Cell::number(advertisement.revision);
                    let cells = [cluster, name, revision, Cell::bytes(&entry)];
                    self.row(Statement::UpsertAdvertisement, &cells);
                }
                (Some(_), None) => self.row(Statement::DeleteAdvertisement, &cells),
                (None, None) => {}
            }
        }
        for (name, edit) in &coalesced.clusters {
            match (&edit.before, &edit.after) {
                (_, Some(cluster)) => self.upsert_cluster(cluster),
                (Some(_), None) => self.row(Statement::DeleteCluster, &[Cell::Text(name)]),
                (None, None) => {}
            }
        }
    }

    fn upsert_cluster(&mut self, cluster: &Cluster) {
        let cells = [
            Cell::Text(&cluster.name),
            Cell::Text(&cluster.uid),
            Cell::Int(inventory_code(cluster.inventory)),
            Cell::number(cluster.fence),
            Cell::Int(cluster.create_time.0),
            Cell::number(cluster.revision),
        ];
        self.row(Statement::UpsertCluster, &cells);
    }
}

/// As `allocation.state` has it.
fn state_code(standing: &Standing) -> i64 {
    match standing {
        Standing::Assigned => 1,
        Standing::Pending(_) => 2,
        Standing::Stale { .. } => 3,
    }
}

/// As `cluster.inventory` has it.
pub(super) fn inventory_code(inventory: Inventory) -> i64 {
    match inventory {
        Inventory::Complete => 0,
        Inventory::Expected => 1,
        Inventory::Reporting { resync: false } => 2,
        Inventory::Reporting { resync: true } => 3,
        Inventory::New => 4,
        Inventory::Missing => 5,
        Inventory::FirstReport { missing: false } => 6,
        Inventory::FirstReport { missing: true } => 7,
    }
}

/// Facts.
impl Plan {
    fn write_facts(&mut self, coalesced: &Coalesced, fact_seq: u64) {
        for (key, edit) in &coalesced.nodes {
            let cells = [Cell::Text(&key.cluster), Cell::Text(&key.node)];
            match (&edit.before, &edit.after) {
                (_, Some(node)) => {
                    let (reported, announcer) = facts::encode_node(node);
                    let seq = self.next_fact(fact_seq);
                    let [cluster, node] = cells;
                    let (reported, announcer) = (
                        Cell::Blob(reported.as_deref()),
                        Cell::Blob(announcer.as_deref()),
                    );
                    let cells = [cluster, node, seq, reported, announcer];
                    self.row(Statement::UpsertNode, &cells);
                }
                (Some(_), None) => self.row(Statement::DeleteNode, &cells),
                (None, None) => {}
            }
        }
        for (key, edit) in &coalesced.backends {
            let cells = [
                Cell::Text(&key.cluster),
                Cell::Text(text_of(key.namespace.as_ref())),
                Cell::Text(&key.name),
            ];
            match (&edit.before, &edit.after) {
                (_, Some(backends)) => {
                    let entry = facts::encode_backends(backends);
                    let seq = self.next_fact(fact_seq);
                    let [cluster, namespace, name] = cells;
                    let cells = [cluster, namespace, name, seq, Cell::bytes(&entry)];
                    self.row(Statement::UpsertBackends, &cells);
                }
                (Some(_), None) => self.row(Statement::DeleteBackends, &cells),
                (None, None) => {}
            }
        }
        for (group, edit) in &coalesced.placements {
            match (&edit.before, &edit.after) {
                (_, Some(placement)) => {
                    let entry = facts::encode_placement(placement);
                    let seq = self.next_fact(fact_seq);
                    let cluster = Cell::Text(&placement.cluster);
                    let cells = [Cell::number(*group), cluster, seq, Cell::bytes(&entry)];
                    self.row(Statement::UpsertPlacement, &cells);
                }
                (Some(_), None) => self.row(Statement::DeletePlacement, &[Cell::number(*group)]),
                (None, None) => {}
            }
        }
        for (key, edit) in &coalesced.tenures {
            let address = key.address.to_bytes();
            let cells = [
                Cell::Text(&key.cluster),
                Cell::Text(&key.space),
                Cell::bytes(&address),
            ];
            match (&edit.before, &edit.after) {
                (_, Some(tenure)) => {
                    let seq = self.next_fact(fact_seq);
                    let [cluster, space, address] = cells;
                    let node = Cell::Text(&tenure.owner.node);
                    let term = Cell::number(tenure.owner.term.0);
                    let epoch = Cell::number(tenure.epoch);
                    let cells = [cluster, space, address, seq, node, term, epoch];
                    self.row(Statement::UpsertTenure, &cells);
                }
                (Some(_), None) => self.row(Statement::DeleteTenure, &cells),
                (None, None) => {}
            }
        }
    }

    fn next_fact(&mut self, fact_seq: u64) -> Cell<'static> {
        self.facts += 1;
        Cell::number(fact_seq + self.facts)
    }
}

// === The log ===

/// What a row of the log is about.
pub(super) struct Subject<'a> {
    /// As `change_log.kind` has it.
    kind: i64,
    pub(super) code: i64,
    pub(super) cluster: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

impl Plan {
    fn write_log<'a>(&mut self, batch: &'a Batch, encoded: &mut Encoded<'a>) {
        for logged in &batch.changes {
            let Some(revision) = logged.revision else {
                continue;
            };
            let origin = &logged.origin;
            let context = LogContext {
                revision,
                time: batch.time,
                actor: &origin.actor,
                request_id: &origin.request_id,
            };
            let entry = if let Change::Allocation(edit) = &logged.change {
                Some(encoded.change(context, edit))
            } else {
                change_to_wire(context, &logged.change).map(|wire| wire.encode_to_vec())
            };
            let (Some(entry), Some(subject)) = (entry, subject_of(&logged.change)) else {
                continue;
            };
            let allocation = logged.change.allocation();
            let id = allocation.map_or(0, |edit| edit.subject().id);
            let cells = log_cells(context, &subject, &entry, id);
            self.row(Statement::InsertLog, &cells);
            if allocation.is_some_and(|edit| edit.after.is_none()) {
                let owner = [subject.cluster, subject.namespace, subject.name].map(Cell::Text);
                let [cluster, namespace, name] = owner;
                let [id, end] = [id, revision].map(Cell::number);
                let time = Cell::Int(batch.time.0);
                let cells = [cluster, namespace, name, id, end, time];
                self.row(Statement::InsertFormerOwner, &cells);
            }
        }
    }

    /// What goes on until its allocation ends, ends with the row of the former owner.
    fn write_holdings(&mut self, batch: &Batch) {
        let mut intervals = Intervals::default();
        for logged in &batch.changes {
            if let (Change::Allocation(edit), Some(revision)) = (&logged.change, logged.revision)
                && edit.after.is_some()
            {
                let at = (revision, batch.time);
                intervals.add(at, edit.before.as_deref(), edit.after.as_deref());
            }
        }
        let (updates, inserts) = intervals.into_rows();
        self.rows_of(Statement::UpdateHolding, updates);
        self.rows_of(Statement::InsertHolding, inserts);
    }
}

/// Address spaces and addresses held before or after a change.
pub(super) fn addresses_of(change: &Change) -> BTreeSet<(&Name, [u8; 16])> {
    let Change::Allocation(edit) = change else {
        return BTreeSet::new();
    };
    let ends = [&edit.before, &edit.after];
    let ends = ends.into_iter().flatten();
    let touched = ends.flat_map(|end| {
        let space = &end.effective_claim().space;
        let addresses = end.addresses.iter();
        addresses.map(move |address| (space, address.to_bytes()))
    });
    touched.collect()
}

fn log_cells<'a>(
    context: LogContext<'a>,
    subject: &Subject<'a>,
    entry: &'a [u8],
    allocation: AllocationId,
) -> [Cell<'a>; 12] {
    [
        Cell::number(context.revision),
        Cell::Int(context.time.0),
        Cell::Text(context.actor),
        Cell::Text(context.request_id),
        Cell::Int(subject.kind),
        Cell::Int(subject.code),
        Cell::Text(subject.cluster),
        Cell::Text(subject.namespace),
        Cell::Text(subject.name),
        Cell::Int(MIN_READER),
        Cell::bytes(entry),
        Cell::number(allocation),
    ]
}

pub(super) fn subject_of(change: &Change) -> Option<Subject<'_>> {
    let (kind, code, cluster, namespace, name) = match change {
        Change::Allocation(edit) => {
            let key = &edit.subject().owner.key;
            (
                kind_of(edit),
                1,
                key.cluster.as_str(),
                text_of(key.namespace.as_ref()),
                &key.name,
            )
        }
        Change::Pool(edit) => {
            let key = &edit.subject().key;
            (
                kind_of(edit),
                2,
                text_of(key.cluster.as_ref()),
                "",
                &key.name,
            )
        }
        Change::Advertisement(edit) => {
            let key = &edit.subject().key;
            (
                kind_of(edit),
                3,
                text_of(key.cluster.as_ref()),
                "",
                &key.name,
            )
        }
        Change::BgpPeer(edit) => {
            let key = &edit.subject().key;
            let cluster = text_of(key.cluster.as_ref());
            (kind_of(edit), 14, cluster, "", &key.name)
        }
        Change::BfdProfile(edit) => {
            let key = &edit.subject().key;
            let cluster = text_of(key.cluster.as_ref());
            (kind_of(edit), 15, cluster, "", &key.name)
        }
        Change::Cluster(edit) => {
            let name = &edit.subject().name;
            (kind_of(edit), 4, name.as_str(), "", name)
        }
        Change::Unavailable(edit) => (kind_of(edit), 11, "", "", &edit.subject().key.space),
        // Not its cluster's, but the operator's.
        Change::Reservation(edit) => (kind_of(edit), 10, "", "", &edit.subject().key.name),
        Change::Quota(edit) => {
            let quota = edit.subject();
            let cluster = quota.cluster.as_str();
            (kind_of(edit), 12, cluster, "", &quota.name)
        }
        Change::AddressSpace(edit) => (kind_of(edit), 13, "", "", &edit.subject().name),
        Change::Node(_) | Change::Backends(_) | Change::Placement(_) | Change::Tenure(_) => {
            return None;
        }
    };
    Some(Subject {
        kind: i64::from(i32::from(kind)),
        code,
        cluster,
        namespace,
        name,
    })
}
