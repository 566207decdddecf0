//! Whether what is kept of the past agrees with what is, and with itself.

use sqlx::{Row as _, SqliteConnection};

use super::{Problems, address_text};
use crate::store::ReadError;
use crate::store::sql::{address_holders, intervals};

pub(super) async fn check(
    connection: &mut SqliteConnection,
    problems: &mut Problems,
) -> Result<(), ReadError> {
    check_holdings(connection, problems).await?;
    check_owners(connection, problems).await
}

/// An interval goes on for everybody who holds an address, and for nobody else.
async fn check_holdings(
    connection: &mut SqliteConnection,
    problems: &mut Problems,
) -> Result<(), ReadError> {
    for (sql, goes_on) in [
        (
            concat!(
                "select space, address, allocation_id from ",
                address_holders!(),
                " except select space, address, holding.allocation_id from ",
                intervals!(),
                " where holding.end_revision = 0 and gone.end_revision is null"
            ),
            false,
        ),
        (
            concat!(
                "select space, address, holding.allocation_id from ",
                intervals!(),
                " where holding.end_revision = 0 and gone.end_revision is null
                except select space, address, allocation_id from ",
                address_holders!()
            ),
            true,
        ),
    ] {
        for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
            let (space, id): (String, i64) = (row.try_get(0)?, row.try_get(2)?);
            let address = address_text(row.try_get(1)?)?;
            problems.add(if goes_on {
                format!("holding: {address} in {space} by {id} goes on, but is not held")
            } else {
                format!("holding: none for {address} in {space} by {id}")
            });
        }
    }
    Ok(())
}

/// The history of every owner is found by its allocations.
async fn check_owners(
    connection: &mut SqliteConnection,
    problems: &mut Problems,
) -> Result<(), ReadError> {
    for (sql, what) in [
        (
            "select revision from change_log where subject = 1 and kind = 1
                and allocation_id <> revision",
            "change_log: created under another id at revision",
        ),
        (
            "select log.revision from change_log log where subject = 1 and kind = 3
                and not exists (select 1 from former_owner former
                    where former.cluster = log.cluster and former.namespace = log.namespace
                        and former.name = log.name and former.allocation_id = log.allocation_id
                        and former.end_revision = log.revision
                        and former.end_time in (log.time, 0))",
            "former_owner: none for what ended at revision",
        ),
        (
            "select allocation_id from former_owner join allocation on id = allocation_id",
            "former_owner: still there is",
        ),
        (
            "select allocation_id from holding
            except select id from allocation
            except select allocation_id from former_owner",
            "former_owner: an interval remains of",
        ),
        (
            concat!(
                "select holding.allocation_id from ",
                intervals!(),
                " where gone.end_revision = 0 or gone.end_time = 0"
            ),
            "former_owner: nobody knows when an interval ended of",
        ),
    ] {
        for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
            let number: i64 = row.try_get(0)?;
            problems.add(format!("{what} {number}"));
        }
    }
    Ok(())
}
