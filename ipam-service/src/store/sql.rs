//! Every statement that a batch may run.

/// The allocation that a row of `held_address` names as the only holder, if it is there: a select in
/// parentheses.
macro_rules! sole_holder {
    () => {
        "(select 1 from allocation
            where allocation.id = cast(substr(held_address.group_key, 2) as integer))"
    };
}
pub(super) use sole_holder;

/// Who holds which address, alone or with others: a table in parentheses.
macro_rules! address_holders {
    () => {
        concat!(
            "(select space, address, cast(substr(group_key, 2) as integer) as allocation_id,
                cluster, group_key, backend_key
            from held_address where group_key like 'a%' and exists ",
            $crate::store::sql::sole_holder!(),
            " union all
            select space, address, allocation_id, cluster, group_key, backend_key
            from allocation_address join held_address using (space, address))"
        )
    };
}
pub(super) use address_holders;

/// Intervals, and where they ended with their allocation the row `gone` that says when: a join.
/// (Found by the index that is named, if any is.)
macro_rules! intervals {
    ($($index:literal)?) => {
        concat!(
            "holding ",
            $("indexed by ", $index,)?
            " left join former_owner gone on holding.end_revision = 0
                and gone.cluster = holding.cluster and gone.namespace = holding.namespace
                and gone.name = holding.name and gone.allocation_id = holding.allocation_id"
        )
    };
}
pub(super) use intervals;

/// In the order in which they run: what is taken away first, and what others refer to before what
/// refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Statement {
    DeletePort,
    DeleteAddress,
    /// Of an allocation that goes on.
    DeleteSole,
    /// Shared addresses that lost a holder, if it was the last.
    DeleteUnheld,
    DeleteAllocation,
    UpsertAllocation,
    InsertSole,
    InsertHeld,
    InsertAddress,
    InsertPort,
    DeletePool,
    UpsertPool,
    DeleteAdvertisement,
    UpsertAdvertisement,
    DeleteCluster,
    UpsertCluster,
    /// When clusters were last heard of.
    UpdateSeen,
    DeleteUnavailable,
    DeleteBgpPeer,
    UpsertBgpPeer,
    DeleteBfdProfile,
    UpsertBfdProfile,
    DeleteReservation,
    UpsertReservation,
    InsertReserved,
    DeleteQuota,
    UpsertQuota,
    DeleteAddressSpace,
    UpsertAddressSpace,
    InsertAwaited,
    InsertUnavailable,
    /// Sets of nodes that a row no longer waits for, if it was the last.
    DeleteAwaited,
    DeleteNode,
    UpsertNode,
    DeleteBackends,
    UpsertBackends,
    DeletePlacement,
    UpsertPlacement,
    DeleteTenure,
    UpsertTenure,
    InsertLog,
    InsertFormerOwner,
    /// Before `InsertHolding`: an interval may end and another of the same name begin in one batch.
    UpdateHolding,
    InsertHolding,
}

impl Statement {
    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: &[Self] = &[
        Self::DeletePort,
        Self::DeleteAddress,
        Self::DeleteSole,
        Self::DeleteUnheld,
        Self::DeleteAllocation,
        Self::UpsertAllocation,
        Self::InsertSole,
        Self::InsertHeld,
        Self::InsertAddress,
        Self::InsertPort,
        Self::DeletePool,
        Self::UpsertPool,
        Self::DeleteAdvertisement,
        Self::UpsertAdvertisement,
        Self::DeleteCluster,
        Self::UpsertCluster,
        Self::UpdateSeen,
        Self::DeleteUnavailable,
        Self::DeleteBgpPeer,
        Self::UpsertBgpPeer,
        Self::DeleteBfdProfile,
        Self::UpsertBfdProfile,
        Self::DeleteReservation,
        Self::UpsertReservation,
        Self::InsertReserved,
        Self::DeleteQuota,
        Self::UpsertQuota,
        Self::DeleteAddressSpace,
        Self::UpsertAddressSpace,
        Self::InsertAwaited,
        Self::InsertUnavailable,
        Self::DeleteAwaited,
        Self::DeleteNode,
        Self::UpsertNode,
        Self::DeleteBackends,
        Self::UpsertBackends,
        Self::DeletePlacement,
        Self::UpsertPlacement,
        Self::DeleteTenure,
        Self::UpsertTenure,
        Self::InsertLog,
        Self::InsertFormerOwner,
        Self::UpdateHolding,
        Self::InsertHolding,
    ];

    /// For SQLite. Its parameters are the cells of one row of [`super::rows::Rows`].
    pub(super) fn sqlite(self) -> &'static str {
        match self {
            Self::DeletePort => DELETE_PORT,
            Self::DeleteAddress => DELETE_ADDRESS,
            Self::DeleteSole => DELETE_SOLE,
            Self::DeleteUnheld => DELETE_UNHELD,
            Self::DeleteAllocation => DELETE_ALLOCATION,
            Self::UpsertAllocation => UPSERT_ALLOCATION,
            Self::InsertSole => INSERT_SOLE,
            Self::InsertHeld => INSERT_HELD,
            Self::InsertAddress => INSERT_ADDRESS,
            Self::InsertPort => INSERT_PORT,
            Self::DeletePool => DELETE_POOL,
            Self::UpsertPool => UPSERT_POOL,
            Self::DeleteAdvertisement => DELETE_ADVERTISEMENT,
            Self::UpsertAdvertisement => UPSERT_ADVERTISEMENT,
            Self::DeleteCluster => DELETE_CLUSTER,
            Self::UpsertCluster => UPSERT_CLUSTER,
            Self::UpdateSeen => UPDATE_SEEN,
            Self::DeleteUnavailable => DELETE_UNAVAILABLE,
            Self::DeleteBgpPeer => DELETE_BGP_PEER,
            Self::UpsertBgpPeer => UPSERT_BGP_PEER,
            Self::DeleteBfdProfile => DELETE_BFD_PROFILE,
            Self::UpsertBfdProfile => UPSERT_BFD_PROFILE,
            Self::DeleteReservation => DELETE_RESERVATION,
            Self::UpsertReservation => UPSERT_RESERVATION,
            Self::InsertReserved => INSERT_RESERVED,
            Self::DeleteQuota => DELETE_QUOTA,
            Self::UpsertQuota => UPSERT_QUOTA,
            Self::DeleteAddressSpace => DELETE_ADDRESS_SPACE,
            Self::UpsertAddressSpace => UPSERT_ADDRESS_SPACE,
            Self::InsertAwaited => INSERT_AWAITED,
            Self::InsertUnavailable => INSERT_UNAVAILABLE,
            Self::DeleteAwaited => DELETE_AWAITED,
            Self::DeleteNode => DELETE_NODE,
            Self::UpsertNode => UPSERT_NODE,
            Self::DeleteBackends => DELETE_BACKENDS,
            Self::UpsertBackends => UPSERT_BACKENDS,
            Self::DeletePlacement => DELETE_PLACEMENT,
            Self::UpsertPlacement => UPSERT_PLACEMENT,
            Self::DeleteTenure => DELETE_TENURE,
            Self::UpsertTenure => UPSERT_TENURE,
            Self::InsertLog => INSERT_LOG,
            Self::InsertFormerOwner => INSERT_FORMER_OWNER,
            Self::UpdateHolding => UPDATE_HOLDING,
            Self::InsertHolding => INSERT_HOLDING,
        }
    }
}

const DELETE_PORT: &str = "
delete from allocation_port where space = ?1 and address = ?2 and protocol = ?3 and port = ?4";

const DELETE_ADDRESS: &str = "
delete from allocation_address where space = ?1 and address = ?2 and allocation_id = ?3";

const DELETE_SOLE: &str = "
delete from held_address where space = ?1 and address = ?2 and group_key = ?3";

const DELETE_UNHELD: &str = "
delete from held_address where space = ?1 and address = ?2
and not exists (
    select 1 from allocation_address holder
    where holder.space = held_address.space and holder.address = held_address.address)";

const DELETE_ALLOCATION: &str = "
delete from allocation where id = ?1";

const UPSERT_ALLOCATION: &str = "
insert into allocation (id, cluster, namespace, name, space, pool, pool_cluster, state, revision,
    entry, held_claim)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
on conflict (id) do update set space = excluded.space, pool = excluded.pool,
    pool_cluster = excluded.pool_cluster, state = excluded.state, revision = excluded.revision,
    entry = excluded.entry, held_claim = excluded.held_claim";

/// What becomes of a row of `held_address` that is there: whoever held the address alone has given it back,
/// or no column may be null.
macro_rules! take_over {
    () => {
        concat!(
            "on conflict (space, address) do update set
                cluster = iif(held_address.group_key like 'a%' and not exists ",
            $crate::store::sql::sole_holder!(),
            ", excluded.cluster, null),
                group_key = excluded.group_key, backend_key = excluded.backend_key"
        )
    };
}

/// Fails where anybody else holds the address.
const INSERT_SOLE: &str = concat!(
    "insert into held_address (space, address, cluster, group_key, backend_key)
    values (?1, ?2, ?3, ?4, ?5) ",
    take_over!()
);

/// Fails where others than those of the group hold the address.
const INSERT_HELD: &str = concat!(
    "insert into held_address (space, address, cluster, group_key, backend_key)
    values (?1, ?2, ?3, ?4, ?5) ",
    take_over!(),
    " where (held_address.cluster, held_address.group_key, held_address.backend_key)
        <> (excluded.cluster, excluded.group_key, excluded.backend_key)"
);

const INSERT_ADDRESS: &str = "
insert into allocation_address (space, address, allocation_id)
values (?1, ?2, ?3)";

const INSERT_PORT: &str = "
insert into allocation_port (space, address, protocol, port, allocation_id)
values (?1, ?2, ?3, ?4, ?5)";

const DELETE_POOL: &str = "
delete from pool where space = ?1 and cluster = ?2 and name = ?3";

const UPSERT_POOL: &str = "
insert into pool (space, cluster, name, revision, entry)
values (?1, ?2, ?3, ?4, ?5)
on conflict (space, cluster, name) do update set revision = excluded.revision,
    entry = excluded.entry";

const DELETE_ADVERTISEMENT: &str = "
delete from advertisement where cluster = ?1 and name = ?2";

const UPSERT_ADVERTISEMENT: &str = "
insert into advertisement (cluster, name, revision, entry)
values (?1, ?2, ?3, ?4)
on conflict (cluster, name) do update set revision = excluded.revision, entry = excluded.entry";

const DELETE_CLUSTER: &str = "
delete from cluster where name = ?1";

const UPSERT_CLUSTER: &str = "
insert into cluster (name, uid, inventory, fence, create_time, revision)
values (?1, ?2, ?3, ?4, ?5, ?6)
on conflict (name) do update set uid = excluded.uid, inventory = excluded.inventory,
    fence = excluded.fence, create_time = excluded.create_time, revision = excluded.revision";

const UPDATE_SEEN: &str = "
update cluster set last_seen = ?2 where name = ?1";

const DELETE_UNAVAILABLE: &str = "
delete from unavailable where space = ?1 and first = ?2 and reason = ?3";

const DELETE_BGP_PEER: &str = "
delete from bgp_peer where cluster = ?1 and name = ?2";

const UPSERT_BGP_PEER: &str = "
insert into bgp_peer (cluster, name, revision, entry, password)
values (?1, ?2, ?3, ?4, ?5)
on conflict (cluster, name) do update set revision = excluded.revision, entry = excluded.entry,
    password = excluded.password";

const DELETE_BFD_PROFILE: &str = "
delete from bfd_profile where cluster = ?1 and name = ?2";

const UPSERT_BFD_PROFILE: &str = "
insert into bfd_profile (cluster, name, revision, entry)
values (?1, ?2, ?3, ?4)
on conflict (cluster, name) do update set revision = excluded.revision, entry = excluded.entry";

const DELETE_RESERVATION: &str = "
delete from reservation where space = ?1 and name = ?2";

const UPSERT_RESERVATION: &str = "
insert into reservation (space, name, revision, entry)
values (?1, ?2, ?3, ?4)
on conflict (space, name) do update set revision = excluded.revision, entry = excluded.entry";

const INSERT_RESERVED: &str = "
insert into unavailable (space, first, last, reason, reservation)
values (?1, ?2, ?3, ?4, ?5)";

const DELETE_QUOTA: &str = "
delete from quota where name = ?1";

const UPSERT_QUOTA: &str = "
insert into quota (name, revision, entry)
values (?1, ?2, ?3)
on conflict (name) do update set revision = excluded.revision, entry = excluded.entry";

const DELETE_ADDRESS_SPACE: &str = "
delete from address_space where name = ?1";

const UPSERT_ADDRESS_SPACE: &str = "
insert into address_space (name, revision, entry)
values (?1, ?2, ?3)
on conflict (name) do update set revision = excluded.revision, entry = excluded.entry";

const INSERT_AWAITED: &str = "
insert into awaited_nodes (id, entry) values (?1, ?2)
on conflict (id) do nothing";

const INSERT_UNAVAILABLE: &str = "
insert into unavailable (space, first, last, reason, awaited, entry)
values (?1, ?2, ?2, ?3, ?4, ?5)";

const DELETE_AWAITED: &str = "
delete from awaited_nodes where id = ?1
and not exists (select 1 from unavailable where unavailable.awaited = awaited_nodes.id)";

const DELETE_NODE: &str = "
delete from node where cluster = ?1 and node = ?2";

const UPSERT_NODE: &str = "
insert into node (cluster, node, seq, reported, announcer)
values (?1, ?2, ?3, ?4, ?5)
on conflict (cluster, node) do update set seq = excluded.seq, reported = excluded.reported,
    announcer = excluded.announcer";

const DELETE_BACKENDS: &str = "
delete from backends where cluster = ?1 and namespace = ?2 and name = ?3";

const UPSERT_BACKENDS: &str = "
insert into backends (cluster, namespace, name, seq, entry)
values (?1, ?2, ?3, ?4, ?5)
on conflict (cluster, namespace, name) do update set seq = excluded.seq, entry = excluded.entry";

const DELETE_PLACEMENT: &str = "
delete from placement where group_id = ?1";

const UPSERT_PLACEMENT: &str = "
insert into placement (group_id, cluster, seq, entry)
values (?1, ?2, ?3, ?4)
on conflict (group_id) do update set cluster = excluded.cluster, seq = excluded.seq,
    entry = excluded.entry";

const DELETE_TENURE: &str = "
delete from tenure where cluster = ?1 and space = ?2 and address = ?3";

const UPSERT_TENURE: &str = "
insert into tenure (cluster, space, address, seq, node, term, epoch)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7)
on conflict (cluster, space, address) do update set seq = excluded.seq, node = excluded.node,
    term = excluded.term, epoch = excluded.epoch";

const INSERT_LOG: &str = "
insert into change_log (revision, time, actor, request_id, kind, subject, cluster, namespace,
    name, min_reader, entry, allocation_id)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

const INSERT_FORMER_OWNER: &str = "
insert into former_owner (cluster, namespace, name, allocation_id, end_revision, end_time)
values (?1, ?2, ?3, ?4, ?5, ?6)";

/// Of the intervals with one name the newest goes on, if any.
const UPDATE_HOLDING: &str = "
update holding set uid = ?4, end_revision = ?5, end_time = ?6
where holding.id = (
    select past.id from holding past
    where past.space = ?1 and past.address = ?2 and past.allocation_id = ?3
        and past.end_revision = 0
    order by past.id desc limit 1)";

const INSERT_HOLDING: &str = "
insert into holding (space, address, allocation_id, cluster, namespace, name, uid, pool,
    start_revision, start_time, end_revision, end_time)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
