//! Reading everything that State is made of.

mod declared;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use pharos_lease::{Owner as LeaseOwner, Term};
use pharos_proto::v1;
use rusqlite::types::FromSqlError;
use rusqlite::{Connection, Row};

use super::facts;
use super::write::{CACHE_KIB, keep_pages};
use super::{ReadError, Writer};
use crate::api::convert::{
    AllocationExtras, FieldErrors, allocation_with_claim, claim_from_wire, pool_from_wire,
};
use crate::api::convert_reservation::reservation_from_wire;
use crate::api::convert_unavailable::unavailable_from_wire;
use crate::state::address::Address;
use crate::state::announce::NodeSet;
use crate::state::change::{Change, Edit};
use crate::state::intern::Interner;
use crate::state::model::{
    Backends, Claim, Cluster, Inventory, Node, NodeKey, OwnerKey, Placement, Revision, Tenure,
    TenureKey, Timestamp,
};
use crate::state::names::Name;
use crate::state::refusal::Rejection;
use crate::state::{Restoring, State};

/// Everything that is stored.
#[derive(Debug)]
pub struct Loaded {
    /// Of the newest decision.
    pub revision: Revision,
    /// Of the newest fact.
    pub fact_seq: u64,
    /// Of the newest decision; later ones are not earlier.
    pub last_time: Timestamp,
    /// Every row, as an edit without a before. Empty where they went into a [`State`].
    pub rows: Vec<Change>,
    /// When clusters were last heard of.
    pub seen: Vec<(Name, Timestamp)>,
    /// The names and claims that the rows have in common.
    pub interner: Interner,
}

impl Writer {
    /// Reads everything. Called once, before the first commit.
    pub async fn load(&mut self) -> Result<Loaded, ReadError> {
        let ((), loaded) = self.begin_with(|from| Ok(((), load(from)?))).await?;
        Ok(loaded)
    }

    /// Reads everything and makes the state of it, each on a thread of its own. Called instead of
    /// [`Writer::load`].
    pub async fn load_state(&mut self) -> Result<(State, Loaded), ReadError> {
        self.begin_with(load_state).await
    }

    /// Reads, and goes on from where the log ends.
    async fn begin_with<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(&Connection) -> Result<(T, Loaded), ReadError> + Send + 'static,
    ) -> Result<(T, Loaded), ReadError> {
        let loaded = self.with_connection(read).await;
        let gone = || Err(corrupt("its connection is gone"));
        let (made, loaded) = loaded.unwrap_or_else(gone)?;
        self.revision = loaded.revision;
        self.fact_seq = loaded.fact_seq;
        Ok((made, loaded))
    }
}

/// Rows that go at once from the thread that reads to the one that makes the state.
const PART: usize = 1024;

/// Parts that may be on their way.
const PARTS: usize = 8;

/// Pages that are kept while everything is read.
const READ_ONCE_KIB: i64 = 1024;

fn load_state(connection: &Connection) -> Result<(State, Loaded), ReadError> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Vec<Change>>(PARTS);
        let maker = scope.spawn(move || {
            let mut restoring = Restoring::default();
            for part in receiver {
                part.iter().for_each(|row| restoring.enter(row));
            }
            restoring
        });
        // Each page is read once.
        keep_pages(connection, READ_ONCE_KIB)?;
        let mut part = Vec::with_capacity(PART);
        // Nobody receives only after a panic, which is passed on below.
        let send = |part: Vec<Change>| drop(sender.send(part));
        let loaded = read(connection, |row| {
            part.push(row);
            if part.len() == PART {
                send(std::mem::replace(&mut part, Vec::with_capacity(PART)));
            }
        });
        send(part);
        drop(sender);
        keep_pages(connection, CACHE_KIB)?;
        let restoring = maker.join();
        let restoring = restoring.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let loaded = loaded?;
        Ok((restoring.finish(loaded.revision), loaded))
    })
}

/// Everything that a database holds.
pub(super) fn load(connection: &Connection) -> Result<Loaded, ReadError> {
    let mut rows = Vec::new();
    let loaded = read(connection, |row| rows.push(row))?;
    Ok(Loaded { rows, ..loaded })
}

/// Gives each row to `take`.
fn read(connection: &Connection, mut take: impl FnMut(Change)) -> Result<Loaded, ReadError> {
    let meta = "select revision, fact_seq, (select coalesce(max(time), 0) from change_log
        where revision = (select max(revision) from change_log)) from meta where id = 1";
    let meta: (i64, i64, i64) = connection.query_row(meta, (), |row| row.try_into())?;
    let mut names = Names::default();
    for query in LOADERS {
        let mut statement = connection.prepare(query.sql)?;
        let mut stream = statement.query(())?;
        while let Some(row) = stream.next()? {
            let read = (query.read)(row, &mut names);
            take(read.map_err(|error| error.in_table(query.table))?);
        }
    }
    let mut seen = Vec::new();
    let clusters = "select name, last_seen from cluster where last_seen > 0";
    let mut clusters = connection.prepare(clusters)?;
    let mut clusters = clusters.query(())?;
    while let Some(row) = clusters.next()? {
        seen.push((names.get(text(row, 0)?)?, Timestamp(row.get(1)?)));
    }
    Ok(Loaded {
        revision: unsigned(meta.0)?,
        fact_seq: unsigned(meta.1)?,
        last_time: Timestamp(meta.2),
        rows: Vec::new(),
        seen,
        interner: names.interner,
    })
}

/// One table: how it is read.
pub(super) struct Loader {
    pub(super) table: &'static str,
    pub(super) sql: &'static str,
    pub(super) read: fn(&Row<'_>, &mut Names) -> Result<Change, ReadError>,
}

pub(super) const LOADERS: [Loader; 14] = [
    Loader {
        table: "cluster",
        sql: "select name, uid, inventory, fence, create_time, revision from cluster",
        read: cluster,
    },
    Loader {
        table: "pool",
        sql: "select entry from pool",
        read: pool,
    },
    Loader {
        table: "advertisement",
        sql: "select entry from advertisement",
        read: declared::advertisement,
    },
    Loader {
        table: "bgp_peer",
        sql: "select entry, password from bgp_peer",
        read: declared::bgp_peer,
    },
    Loader {
        table: "bfd_profile",
        sql: "select entry from bfd_profile",
        read: declared::bfd_profile,
    },
    Loader {
        table: "quota",
        sql: "select entry from quota",
        read: declared::quota,
    },
    Loader {
        table: "address_space",
        sql: "select entry from address_space",
        read: declared::address_space,
    },
    Loader {
        table: "allocation",
        sql: "select entry, pool_cluster, held_claim from allocation order by id",
        read: allocation,
    },
    Loader {
        table: "reservation",
        sql: "select entry from reservation",
        read: reservation,
    },
    Loader {
        table: "unavailable",
        sql: "select unavailable.entry, awaited_nodes.entry from unavailable
            left join awaited_nodes on awaited_nodes.id = unavailable.awaited
            where reason <> 1",
        read: unavailable,
    },
    Loader {
        table: "node",
        sql: "select cluster, node, reported, announcer from node",
        read: node,
    },
    Loader {
        table: "backends",
        sql: "select cluster, namespace, name, entry from backends",
        read: backends,
    },
    Loader {
        table: "placement",
        sql: "select group_id, cluster, entry from placement",
        read: placement,
    },
    Loader {
        table: "tenure",
        sql: "select cluster, space, address, node, term, epoch from tenure",
        read: tenure,
    },
];

/// Names and claims seen so far: a million allocations share a few clusters, namespaces and pools,
/// and many have equal claims.
#[derive(Default)]
pub(super) struct Names {
    interner: Interner,
    /// Claims by their encoding: one that was seen need not be decoded again.
    claims: HashMap<Vec<u8>, Arc<Claim>>,
}

impl Names {
    fn get(&mut self, text: &str) -> Result<Name, ReadError> {
        let mut name = Name::parse(text).map_err(|error| corrupt(format!("name {error}")))?;
        self.interner.name(&mut name);
        Ok(name)
    }

    fn optional(&mut self, text: &str) -> Result<Option<Name>, ReadError> {
        if text.is_empty() {
            return Ok(None);
        }
        self.get(text).map(Some)
    }

    fn claim(&mut self, encoded: Vec<u8>) -> Result<Arc<Claim>, ReadError> {
        if let Some(known) = self.claims.get(&encoded) {
            return Ok(Arc::clone(known));
        }
        let wire: v1::Claim = decode(&encoded)?;
        let mut errors = FieldErrors::new();
        let claim = claim_from_wire(&mut errors, &wire);
        let mut claim = Arc::new(errors.finish(claim).map_err(of_fields)?);
        self.interner.claim(&mut claim);
        self.claims.insert(encoded, Arc::clone(&claim));
        Ok(claim)
    }
}

/// An Allocation as it is stored, with its claim as bytes: those of most are known already.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredAllocation {
    #[prost(message, optional, tag = "1")]
    owner: Option<v1::Owner>,
    #[prost(int32, tag = "2")]
    state: i32,
    #[prost(string, repeated, tag = "3")]
    addresses: Vec<String>,
    #[prost(string, tag = "4")]
    pool: String,
    #[prost(message, optional, tag = "5")]
    refusal: Option<v1::Refusal>,
    #[prost(uint64, tag = "6")]
    revision: u64,
    #[prost(message, optional, tag = "7")]
    create_time: Option<prost_types::Timestamp>,
    #[prost(bytes = "vec", optional, tag = "8")]
    claim: Option<Vec<u8>>,
    #[prost(uint64, tag = "9")]
    id: u64,
    #[prost(message, repeated, tag = "11")]
    pools: Vec<v1::PoolRef>,
    #[prost(bool, tag = "12")]
    outside_grant: bool,
}

fn cluster(row: &Row<'_>, names: &mut Names) -> Result<Change, ReadError> {
    let inventory = match row.get::<_, i64>(2)? {
        0 => Inventory::Complete,
        1 => Inventory::Expected,
        2 => Inventory::Reporting { resync: false },
        3 => Inventory::Reporting { resync: true },
        4 => Inventory::New,
        5 => Inventory::Missing,
        6 => Inventory::FirstReport { missing: false },
        7 => Inventory::FirstReport { missing: true },
        other => return Err(corrupt(format!("inventory {other}"))),
    };
    Ok(Change::Cluster(loaded(Cluster {
        name: names.get(text(row, 0)?)?,
        uid: row.get(1)?,
        inventory,
        fence: unsigned(row.get(3)?)?,
        create_time: Timestamp(row.get(4)?),
        revision: unsigned(row.get(5)?)?,
    })))
}

fn pool(row: &Row<'_>, _names: &mut Names) -> Result<Change, ReadError> {
    let wire: v1::Pool = decode(blob(row, 0)?)?;
    let mut errors = FieldErrors::new();
    let pool = pool_from_wire(&mut errors, "pool", Some(&wire));
    Ok(Change::Pool(loaded(
        errors.finish(pool).map_err(of_fields)?,
    )))
}

fn unavailable(row: &Row<'_>, names: &mut Names) -> Result<Change, ReadError> {
    let wire: v1::Unavailable = decode(blob(row, 0)?)?;
    let awaited: Option<v1::NodeSet> = optional_blob(row, 1)?.map(decode).transpose()?;
    let awaited = match awaited {
        None => None,
        Some(set) => {
            let nodes = set.nodes.iter().map(|node| names.get(node));
            Some(NodeSet::new(nodes.collect::<Result<Vec<_>, _>>()?))
        }
    };
    let row = unavailable_from_wire(&wire, awaited).map_err(of_fields)?;
    Ok(Change::Unavailable(loaded(row)))
}

fn reservation(row: &Row<'_>, _names: &mut Names) -> Result<Change, ReadError> {
    let wire: v1::Reservation = decode(blob(row, 0)?)?;
    let mut errors = FieldErrors::new();
    let reservation = reservation_from_wire(&mut errors, "reservation", Some(&wire));
    Ok(Change::Reservation(loaded(
        errors.finish(reservation).map_err(of_fields)?,
    )))
}

fn allocation(row: &Row<'_>, names: &mut Names) -> Result<Change, ReadError> {
    let stored: StoredAllocation = decode(blob(row, 0)?)?;
    let claim = stored.claim.ok_or_else(|| corrupt("no claim"))?;
    let claim = names.claim(claim)?;
    let held: Option<&[u8]> = optional_blob(row, 2)?;
    let extras = AllocationExtras {
        pool_cluster: row.get(1)?,
        held_claim: held.map(decode).transpose()?,
    };
    let wire = v1::Allocation {
        owner: stored.owner,
        state: stored.state,
        addresses: stored.addresses,
        pool: stored.pool,
        refusal: stored.refusal,
        revision: stored.revision,
        create_time: stored.create_time,
        id: stored.id,
        pools: stored.pools,
        outside_grant: stored.outside_grant,
        ..v1::Allocation::default()
    };
    let mut allocation = allocation_with_claim(&wire, claim, &extras).map_err(of_fields)?;
    names.interner.owner(&mut allocation.owner.key);
    let pools = [&mut allocation.pool, &mut allocation.second_pool];
    for pool in pools.into_iter().flatten() {
        names.interner.pool(pool);
    }
    Ok(Change::Allocation(loaded(allocation)))
}

fn node(row: &Row<'_>, names: &mut Names) -> Result<Change, ReadError> {
    let reported: Option<&[u8]> = optional_blob(row, 2)?;
    let announcer: Option<&[u8]> = optional_blob(row, 3)?;
    let said = reported.map(facts::decode_reported).transpose();
    let said = said.map_err(corrupt)?;
    Ok(Change::Node(loaded(Node {
        key: NodeKey {
            cluster: names.get(text(row, 0)?)?,
            node: names.get(text(row, 1)?)?,
        },
        removed: said == Some(None),
        reported: said.flatten(),
        announcer: announcer
            .map(facts::decode_announcer)
            .transpose()
            .map_err(corrupt)?,
    })))
}

fn backends(row: &Row<'_>, names: &mut Names) -> Result<Change, ReadError> {
    Ok(Change::Backends(loaded(Backends {
        owner: OwnerKey {
            cluster: names.get(text(row, 0)?)?,
            namespace: names.optional(text(row, 1)?)?,
            name: names.get(text(row, 2)?)?,
        },
        entry: facts::decode_backends(blob(row, 3)?).map_err(corrupt)?,
    })))
}

fn placement(row: &Row<'_>, names: &mut Names) -> Result<Change, ReadError> {
    let (nodes, announced) = facts::decode_placement(blob(row, 2)?).map_err(corrupt)?;
    Ok(Change::Placement(loaded(Placement {
        group: unsigned(row.get(0)?)?,
        cluster: names.get(text(row, 1)?)?,
        nodes,
        announced,
    })))
}

fn tenure(row: &Row<'_>, names: &mut Names) -> Result<Change, ReadError> {
    Ok(Change::Tenure(loaded(Tenure {
        key: TenureKey {
            cluster: names.get(text(row, 0)?)?,
            space: names.get(text(row, 1)?)?,
            address: address(blob(row, 2)?)?,
        },
        owner: LeaseOwner {
            node: names.get(text(row, 3)?)?,
            term: Term(unsigned(row.get(4)?)?),
        },
        epoch: unsigned(row.get(5)?)?,
    })))
}

fn text<'a>(row: &'a Row<'_>, index: usize) -> Result<&'a str, ReadError> {
    let value = row.get_ref(index)?.as_str();
    value.map_err(|error| of_value(index, error))
}

fn blob<'a>(row: &'a Row<'_>, index: usize) -> Result<&'a [u8], ReadError> {
    let value = row.get_ref(index)?.as_blob();
    value.map_err(|error| of_value(index, error))
}

fn optional_blob<'a>(row: &'a Row<'_>, index: usize) -> Result<Option<&'a [u8]>, ReadError> {
    let value = row.get_ref(index)?.as_blob_or_null();
    value.map_err(|error| of_value(index, error))
}

fn of_value(index: usize, error: FromSqlError) -> ReadError {
    corrupt(format!("column {index}: {error}"))
}

fn loaded<T>(value: T) -> Edit<T> {
    Edit {
        before: None,
        after: Some(Arc::new(value)),
    }
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, ReadError> {
    M::decode(bytes).map_err(corrupt)
}

fn of_fields(rejection: Rejection) -> ReadError {
    corrupt(rejection)
}

fn address(bytes: &[u8]) -> Result<Address, ReadError> {
    let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| corrupt("an address is not 16 bytes"))?;
    Ok(Address::from_bytes(bytes))
}

fn unsigned(number: i64) -> Result<u64, ReadError> {
    u64::try_from(number).map_err(corrupt)
}

fn corrupt(error: impl std::fmt::Display) -> ReadError {
    ReadError::Corrupt(error.to_string())
}
