//! Brings a database of an older version up to what this one keeps beside it, out of the log: the
//! intervals in which addresses were held, and whose allocations are gone.

use pharos_proto::v1;
use pharos_proto::v1::change::Subject;
use prost::Message as _;
use sqlx::{Connection as _, Row as _, SqliteConnection};

use super::ReadError;
use super::holdings::Intervals;
use super::read::signed;
use super::rows::{Cell, Rows};
use super::sql::{Statement, address_holders};
use crate::api::convert::{AllocationExtras, allocation_from_wire};
use crate::state::model::{Allocation, AllocationId, Revision, Timestamp};

/// Rows of the log that are held in memory at once.
const CHUNK: usize = 1000;

/// Fills what has not been filled yet; a database that has it is left as it is. All of it or nothing, in
/// one transaction: parts of a million rows need 3 MiB of memory and about a minute without
/// optimisation, once for a database, and what is cut short begins anew.
pub(super) async fn history(connection: &mut SqliteConnection) -> Result<(), ReadError> {
    let mut transaction = connection.begin_with("begin immediate").await?;
    let filled = "select holdings_filled, owners_filled from history_meta where id = 1";
    let row = sqlx::query(filled).fetch_one(&mut *transaction).await?;
    let (has_holdings, has_owners): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if has_holdings == 0 {
        holdings(&mut transaction).await?;
    }
    if has_owners == 0 {
        owners(&mut transaction).await?;
    }
    Ok(transaction.commit().await?)
}

/// Tells each row of the log its allocation, and notes whose allocations are gone.
async fn owners(connection: &mut SqliteConnection) -> Result<(), ReadError> {
    sqlx::query("delete from former_owner")
        .execute(&mut *connection)
        .await?;
    let mut after = 0;
    loop {
        let rows = sqlx::query(
            "select revision, entry from change_log where subject = 1 and revision > ?1
            order by revision limit ?2",
        )
        .bind(after)
        .bind(i64::try_from(CHUNK).expect("a small number"))
        .fetch_all(&mut *connection)
        .await?;
        let Some(last) = rows.last() else { break };
        after = last.try_get(0)?;
        for row in rows {
            sqlx::query("update change_log set allocation_id = ?2 where revision = ?1")
                .bind(row.try_get::<i64, _>(0)?)
                .bind(signed(allocation_of(row.try_get(1)?)))
                .execute(&mut *connection)
                .await?;
        }
    }
    for statement in FORMER_OWNERS {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The allocation that a row is about. One that cannot be read is not found by its owner, and is no
/// reason not to start.
fn allocation_of(entry: &[u8]) -> AllocationId {
    let subject = v1::Change::decode(entry).ok().and_then(|wire| wire.subject);
    let Some(Subject::Allocation(edit)) = subject else {
        return 0;
    };
    edit.after.or(edit.before).map_or(0, |end| end.id)
}

/// What the log tells of, and what only an interval does.
const FORMER_OWNERS: [&str; 3] = [
    "insert into former_owner (cluster, namespace, name, allocation_id, end_revision, end_time)
    select cluster, namespace, name, allocation_id, revision, time from change_log
    where subject = 1 and kind = 3",
    "insert or ignore into former_owner (cluster, namespace, name, allocation_id)
    select cluster, namespace, name, allocation_id from holding
    where not exists (select 1 from allocation where allocation.id = holding.allocation_id)",
    "update history_meta set owners_filled = 1 where id = 1",
];

async fn holdings(connection: &mut SqliteConnection) -> Result<(), ReadError> {
    let mut after = 0;
    loop {
        let part = read_part(connection, after).await?;
        let Some(last) = part.last() else { break };
        after = i64::try_from(last.at.0).unwrap_or(i64::MAX);
        let mut intervals = Intervals::default();
        for change in &part {
            intervals.add(change.at, change.before.as_ref(), change.after.as_ref());
        }
        let (updates, inserts) = intervals.into_rows();
        run(connection, Statement::UpdateHolding, &updates).await?;
        run(connection, Statement::InsertHolding, &inserts).await?;
    }
    for statement in SETTLE {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    Ok(())
}

/// What is held by the tables of allocations goes before what the log says: an interval that the
/// log leaves open without a holder ends with the log, and a holder without one began with the
/// last change of its allocation. Neither happens in a log that is whole.
const SETTLE: [&str; 3] = [
    concat!(
        "update holding set end_revision = (select revision from meta where id = 1),
        end_time = (select coalesce(max(time), 0) from change_log
            where revision = (select max(revision) from change_log))
    where end_revision = 0 and not exists (
        select 1 from ",
        address_holders!(),
        " holder where holder.space = holding.space
            and holder.address = holding.address
            and holder.allocation_id = holding.allocation_id)"
    ),
    concat!(
        "insert into holding (space, address, allocation_id, cluster, namespace, name, uid, pool,
        start_revision, start_time, end_revision, end_time)
    select holder.space, holder.address, allocation.id, allocation.cluster, allocation.namespace,
        allocation.name, '', allocation.pool, allocation.revision,
        coalesce((select time from change_log where revision = allocation.revision), 0), 0, 0
    from ",
        address_holders!(),
        " holder join allocation on allocation.id = holder.allocation_id
    where not exists (
        select 1 from holding where holding.space = holder.space
            and holding.address = holder.address and holding.allocation_id = holder.allocation_id
            and holding.end_revision = 0)
    order by allocation.revision"
    ),
    "update history_meta set holdings_filled = 1 where id = 1",
];

/// A change of an allocation, as far as intervals go.
struct Past {
    at: (Revision, Timestamp),
    before: Option<Allocation>,
    after: Option<Allocation>,
}

async fn read_part(connection: &mut SqliteConnection, after: i64) -> Result<Vec<Past>, ReadError> {
    let rows = sqlx::query(
        "select revision, time, entry from change_log where subject = 1 and revision > ?1
        order by revision limit ?2",
    )
    .bind(after)
    .bind(i64::try_from(CHUNK).expect("a small number"))
    .fetch_all(connection)
    .await?;
    let corrupt = |revision: i64, error: String| {
        ReadError::Corrupt(format!("table change_log: revision {revision}: {error}"))
    };
    let mut part = Vec::with_capacity(rows.len());
    for row in rows {
        let revision: i64 = row.try_get(0)?;
        let wire = v1::Change::decode(row.try_get::<&[u8], _>(2)?)
            .map_err(|error| corrupt(revision, error.to_string()))?;
        let Some(Subject::Allocation(edit)) = wire.subject else {
            continue;
        };
        let holder = |end: Option<v1::Allocation>| {
            let holder = end.filter(|end| !end.addresses.is_empty()).map(holder);
            holder
                .transpose()
                .map_err(|error| corrupt(revision, error.to_string()))
        };
        part.push(Past {
            at: (wire.revision, Timestamp(row.try_get(1)?)),
            before: holder(edit.before)?,
            after: holder(edit.after)?,
        });
    }
    Ok(part)
}

/// An allocation with what it held as its only claim: the log does not have the claim under which
/// a stale one held its addresses, but it has their space.
fn holder(mut wire: v1::Allocation) -> Result<Allocation, crate::state::refusal::Rejection> {
    wire.state = v1::allocation::State::Assigned.into();
    wire.refusal = None;
    if let Some(claim) = &mut wire.claim {
        claim.address_space.clone_from(&wire.address_space);
    }
    allocation_from_wire(&wire, &AllocationExtras::default())
}

async fn run(
    connection: &mut SqliteConnection,
    statement: Statement,
    rows: &Rows,
) -> Result<(), ReadError> {
    for row in rows.iter() {
        let mut query = sqlx::query(statement.sqlite());
        for cell in row {
            query = match cell {
                Cell::Text(text) => query.bind(text),
                Cell::Int(number) => query.bind(number),
                Cell::Blob(bytes) => query.bind(bytes),
            };
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}
