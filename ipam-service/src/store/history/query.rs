//! The queries of the history. Their plans are asserted in the tests: none reads the whole log.

use sqlx::{QueryBuilder, Sqlite};

use super::{ChangeFilter, HoldingFilter, Kind, LogFilter, OwnerFilter};
use crate::state::model::Revision;
use crate::store::read::signed;
use crate::store::sql::intervals;

/// Where an interval of [`intervals`] ended, and when; 0 while it goes on.
const END_REVISION: &str = "coalesce(gone.end_revision, holding.end_revision)";
const END_TIME: &str = "coalesce(gone.end_time, holding.end_time)";

/// `first` and `end` bound the revisions.
pub(in crate::store) fn changes_query(
    filter: &ChangeFilter,
    first: i64,
    end: i64,
    limit: u32,
) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "select change_log.revision, min_reader, entry, actor, request_id from change_log",
    );
    query.push(" where revision >= ").push_bind(first);
    query.push(" and revision < ").push_bind(end);
    // Those of a page, where nothing else says which they are.
    let at_most = filter.is_found_by_allocation().then_some(limit);
    if let Some((space, address)) = &filter.address {
        let spans = |query: &mut QueryBuilder<Sqlite>| {
            query.push(format!(
                "select holding.allocation_id, start_revision,
                    case {END_REVISION} when 0 then 9223372036854775807 else {END_REVISION} end
                from {} where space = ",
                intervals!()
            ));
            query.push_bind(space).push(" and address = ");
            query.push_bind(address.to_bytes().to_vec());
            query.push(" and start_revision < ").push_bind(end);
            query.push(format!(" and ({END_REVISION} = 0 or {END_REVISION} >= "));
            query.push_bind(first).push(")");
        };
        push_decisions(&mut query, spans, (first, end), at_most);
    }
    match &filter.owner {
        None => {}
        Some(owner) if owner.namespace.is_some() => {
            let spans = |query: &mut QueryBuilder<Sqlite>| push_spans(query, owner);
            push_decisions(&mut query, spans, (first, end), at_most);
        }
        Some(owner) => {
            query.push(" and subject = 1");
            push_owner(&mut query, "change_log", owner);
        }
    }
    if !filter.cluster.is_empty() {
        query.push(" and cluster = ").push_bind(&filter.cluster);
    }
    match filter.kind {
        None => {}
        Some(Kind::Allocation) => {
            query.push(" and subject = 1");
        }
        // The first half is what the index says.
        Some(kind) => {
            query.push(format!(" and subject <> 1 and subject = {}", kind.code()));
            if !filter.name.is_empty() {
                query.push(" and name = ").push_bind(&filter.name);
            }
        }
    }
    query.push(" order by revision desc limit ");
    query.push_bind(i64::from(limit) + 1);
    query
}

/// Only the decisions about the allocations of a select, each from one revision to another, between two
/// revisions. They are together in the index, but not in order: they are sorted there, and only those
/// of a page are read. (`cross join` keeps the order of the tables.)
fn push_decisions(
    query: &mut QueryBuilder<Sqlite>,
    push_spans: impl FnOnce(&mut QueryBuilder<Sqlite>),
    (first, end): (i64, i64),
    at_most: Option<u32>,
) {
    query.push(" and subject = 1 and revision in (with span(id, first, last) as (");
    push_spans(query);
    query.push(
        ") select past.revision from span
        cross join change_log past indexed by change_log_allocation
        where past.allocation_id = span.id and past.subject = 1 and past.kind = 2
            and past.revision between max(first, ",
    );
    query.push_bind(first).push(") and min(last, ");
    query.push_bind(end - 1).push(")");
    // The first and the last, which need not be in that index.
    for edge in ["first", "last"] {
        query.push(format!(
            " union select past.revision from span
            cross join change_log past on past.revision = {edge} and past.allocation_id = span.id
            where {edge} >= "
        ));
        query.push_bind(first);
        query.push(format!(" and {edge} < ")).push_bind(end);
    }
    if let Some(limit) = at_most {
        query.push(" order by 1 desc limit ");
        query.push_bind(i64::from(limit) + 1);
    }
    query.push(")");
}

/// Intervals before the one named `end`.
pub(in crate::store) fn holdings_query(
    filter: &HoldingFilter,
    end: i64,
    limit: u32,
) -> QueryBuilder<Sqlite> {
    let by_allocation = filter
        .owner
        .as_ref()
        .filter(|owner| owner.namespace.is_some() && filter.address.is_none());
    let mut query = QueryBuilder::<Sqlite>::new(format!(
        "select id, space, address, holding.allocation_id, holding.cluster, holding.namespace,
            holding.name, uid, pool, start_revision, start_time, {END_REVISION}, {END_TIME}
        from {}",
        match by_allocation {
            Some(_) => intervals!("holding_allocation"),
            None => intervals!(),
        }
    ));
    query.push(" where id < ").push_bind(end);
    if let Some((space, address)) = &filter.address {
        query.push(" and space = ").push_bind(space);
        query
            .push(" and address = ")
            .push_bind(address.to_bytes().to_vec());
    }
    if let Some(owner) = by_allocation {
        query.push(" and holding.allocation_id in (");
        push_allocations(&mut query, owner);
        query.push(")");
    } else if let Some(owner) = &filter.owner {
        push_owner(&mut query, "holding", owner);
    }
    if !filter.uid.is_empty() {
        query.push(" and uid = ").push_bind(&filter.uid);
    }
    if let Some(time) = filter.ended_after {
        query.push(format!(" and ({END_REVISION} = 0 or {END_TIME} > "));
        query.push_bind(time.0).push(")");
    }
    query.push(" order by id desc limit ");
    query.push_bind(i64::from(limit) + 1);
    query
}

/// A select of the ids of the allocations that an owner has or had; of all owners of a namespace.
fn push_allocations(query: &mut QueryBuilder<Sqlite>, owner: &OwnerFilter) {
    query.push("select id from allocation where true");
    push_owner(query, "allocation", owner);
    query.push(" union all select allocation_id from former_owner where true");
    push_owner(query, "former_owner", owner);
}

/// The same, with the decisions that made and ended each of them. (One whose end the log does not have
/// any more has no decision in it.)
fn push_spans(query: &mut QueryBuilder<Sqlite>, owner: &OwnerFilter) {
    query.push("select id, id, 9223372036854775807 from allocation where true");
    push_owner(query, "allocation", owner);
    query.push(
        " union all select allocation_id, allocation_id, end_revision from former_owner where true",
    );
    push_owner(query, "former_owner", owner);
}

/// Only the rows of a table that are about an owner.
fn push_owner(query: &mut QueryBuilder<Sqlite>, table: &str, owner: &OwnerFilter) {
    let parts = [
        ("cluster", Some(&owner.cluster)),
        ("namespace", owner.namespace.as_ref()),
        ("name", owner.name.as_ref()),
    ];
    for (column, wanted) in parts {
        if let Some(wanted) = wanted {
            query.push(format!(" and {table}.{column} = "));
            query.push_bind(wanted);
        }
    }
}

/// After the revision `after`, up to and with `last`.
pub(in crate::store) fn log_query(
    filter: &LogFilter,
    after: Revision,
    last: Revision,
    limit: u32,
) -> QueryBuilder<Sqlite> {
    let mut query =
        QueryBuilder::<Sqlite>::new("select revision, min_reader, entry from change_log");
    query
        .push(" where revision > ")
        .push_bind(signed(after))
        .push(" and revision <= ")
        .push_bind(signed(last));
    // The unary plus keeps the planner on the log's own order.
    if filter.allocations_only || filter.owner.is_some() {
        query.push(" and +subject = 1");
    }
    if !filter.cluster.is_empty() {
        query.push(" and +cluster = ").push_bind(&filter.cluster);
    }
    if let Some(owner) = &filter.owner {
        query.push(" and +cluster = ").push_bind(&owner.cluster);
        if let Some(namespace) = &owner.namespace {
            query.push(" and +namespace = ").push_bind(namespace);
        }
        if let Some(name) = &owner.name {
            query.push(" and +name = ").push_bind(name);
        }
    }
    if let Some((space, address)) = &filter.address {
        query
            .push(
                " and exists (select 1 from holding indexed by holding_allocation
                where holding.allocation_id = change_log.allocation_id and space = ",
            )
            .push_bind(space)
            .push(" and address = ")
            .push_bind(address.to_bytes().to_vec())
            .push(
                " and change_log.revision >= start_revision
                and (end_revision = 0 or change_log.revision <= end_revision))",
            );
    }
    query
        .push(" order by revision limit ")
        .push_bind(i64::from(limit));
    query
}

/// What is in order of time without an index on it.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) enum Timeline {
    Log,
    Holdings,
}

impl Timeline {
    /// Lowest and highest key; and the first key from `?1` on, with its time. (One select with both
    /// `min` and `max` would read the whole table.)
    pub(in crate::store) fn queries(self) -> (&'static str, &'static str) {
        match self {
            Self::Log => (
                "select coalesce((select min(revision) from change_log), 1),
                    coalesce((select max(revision) from change_log), 0)",
                "select revision, time from change_log where revision >= ?1
                order by revision limit 1",
            ),
            Self::Holdings => (
                "select coalesce((select min(id) from holding), 1),
                    coalesce((select max(id) from holding), 0)",
                "select id, start_time from holding where id >= ?1 order by id limit 1",
            ),
        }
    }
}
