//! `ipam-service check`: is the database whole, and do its tables agree?
//!
//! State is loaded from `allocation` alone; the tables that guard it repeat parts of it. Here they
//! are compared. Reads only, in one transaction, so it can run beside a server.

mod bgp;
mod entry;
mod history;
mod limits;

use std::collections::BTreeSet;

use pharos_proto::v1;
use prost::Message as _;
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::open::NEWEST_SCHEMA;
use super::plan::{address_rows, port_rows};
use super::sql::address_holders;
use super::sqlite::{APPLICATION_ID, reader_options};
use super::{Location, ReadError};
use crate::api::convert::{AllocationExtras, FieldErrors, allocation_from_wire};
use crate::api::convert_reservation::reservation_from_wire;
use crate::state::address::Address;

/// Why a database could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("there is no database at {0}")]
    Missing(Location),
    #[error("{0} is not a database of ipam-service")]
    NotOurs(Location),
    /// Its file was looked at, its tables were not.
    #[error(
        "{0} was written by another version (schema {1}; this one knows {NEWEST_SCHEMA}): its file is \
         whole, but only its own version can compare its tables. {to_do}", to_do = what_to_do(*.1)
    )]
    OtherSchema(Location, i64),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What helps with a database of another schema.
fn what_to_do(schema: i64) -> &'static str {
    if schema > NEWEST_SCHEMA {
        "It is the newer one: a newer ipam-service wrote it, and only that one can serve it"
    } else {
        "A start, or a restore of it, brings it up to this version"
    }
}

impl From<sqlx::Error> for CheckError {
    fn from(error: sqlx::Error) -> Self {
        Self::Read(error.into())
    }
}

/// Everything that is wrong with a database, one line each; at most [`MOST_PROBLEMS`].
pub async fn check(location: &Location) -> Result<Vec<String>, CheckError> {
    let mut connection = read_only(location).await?;
    let mut transaction = connection.begin().await?;
    let mut problems = Problems::default();
    check_file(&mut transaction, &mut problems).await?;
    let schema: i64 = sqlx::query_scalar("select max(version) from _sqlx_migrations")
        .fetch_one(&mut *transaction)
        .await?;
    if schema != NEWEST_SCHEMA {
        return match problems.0.is_empty() {
            true => Err(CheckError::OtherSchema(location.clone(), schema)),
            false => Ok(problems.0),
        };
    }
    check_log(&mut transaction, &mut problems).await?;
    check_children(&mut transaction, &mut problems).await?;
    history::check(&mut transaction, &mut problems).await?;
    check_reserved(&mut transaction, &mut problems).await?;
    bgp::check(&mut transaction, &mut problems).await?;
    limits::check(&mut transaction, &mut problems).await?;
    check_unavailable(&mut transaction, &mut problems).await?;
    transaction.rollback().await?;
    Ok(problems.0)
}

/// The first thing that is wrong with a file as such, whatever is in it.
pub(super) async fn first_damage(
    connection: &mut SqliteConnection,
) -> Result<Option<String>, ReadError> {
    let mut problems = Problems::default();
    check_file(connection, &mut problems).await?;
    Ok(problems.0.into_iter().next())
}

/// A connection that changes nothing, to a database that may be in use.
pub(super) async fn read_only(location: &Location) -> Result<SqliteConnection, CheckError> {
    let Location::Sqlite(path) = location;
    if !path.is_file() {
        return Err(CheckError::Missing(location.clone()));
    }
    let not_ours = |error: sqlx::Error| match error.as_database_error() {
        Some(database) if database.code().as_deref() == Some("26") => {
            CheckError::NotOurs(location.clone())
        }
        Some(_) | None => error.into(),
    };
    let mut connection = reader_options(path).connect().await.map_err(not_ours)?;
    let application: i32 = sqlx::query("select application_id from pragma_application_id")
        .fetch_one(&mut connection)
        .await
        .map_err(not_ours)?
        .try_get(0)?;
    if application != APPLICATION_ID {
        return Err(CheckError::NotOurs(location.clone()));
    }
    Ok(connection)
}

/// Most problems that are listed: who has more needs a backup, not a list.
pub const MOST_PROBLEMS: usize = 100;

#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: String) {
        if self.0.len() < MOST_PROBLEMS {
            self.0.push(problem);
        }
    }
}

async fn check_file(
    connection: &mut SqliteConnection,
    problems: &mut Problems,
) -> Result<(), ReadError> {
    for row in sqlx::query("pragma integrity_check")
        .fetch_all(&mut *connection)
        .await?
    {
        let line: String = row.try_get(0)?;
        if line != "ok" {
            problems.add(format!("file: {line}"));
        }
    }
    for row in sqlx::query("pragma foreign_key_check")
        .fetch_all(&mut *connection)
        .await?
    {
        let (table, parent): (String, String) = (row.try_get(0)?, row.try_get(2)?);
        problems.add(format!("{table}: a row refers to no row of {parent}"));
    }
    Ok(())
}

/// The log ends at the store's revision, and has no gap after its start.
async fn check_log(
    connection: &mut SqliteConnection,
    problems: &mut Problems,
) -> Result<(), ReadError> {
    let row = sqlx::query(
        "select revision, (select count(*) from change_log where revision >= log_start),
            (select coalesce(min(revision), 1) from change_log where revision >= log_start),
            (select coalesce(max(revision), 0) from change_log where revision >= log_start)
        from meta where id = 1",
    )
    .fetch_one(connection)
    .await?;
    let (revision, count): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let (oldest, newest): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
    if count > 0 && newest != revision {
        problems.add(format!(
            "change_log ends at {newest}, the store is at {revision}"
        ));
    }
    if newest - oldest + 1 != count {
        problems.add(format!(
            "change_log has {count} rows from {oldest} to {newest}"
        ));
    }
    Ok(())
}

/// What the guarding tables must hold for one allocation, as comparable text.
type Guard = BTreeSet<String>;

async fn check_children(
    connection: &mut SqliteConnection,
    problems: &mut Problems,
) -> Result<(), ReadError> {
    let mut expected = Guard::new();
    let rows = sqlx::query(
        "select id, cluster, namespace, name, space, pool, pool_cluster, state, revision, entry,
            held_claim
        from allocation order by id",
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let id: i64 = row.try_get(0)?;
        if let Err(error) = expect_allocation(&row, &mut expected, problems) {
            problems.add(format!("allocation {id}: {error}"));
        }
    }
    let mut found = Guard::new();
    let addresses = sqlx::query(concat!(
        "select space, address, allocation_id, cluster, group_key, backend_key from ",
        address_holders!()
    ));
    for row in addresses.fetch_all(&mut *connection).await? {
        let (space, id): (String, i64) = (row.try_get(0)?, row.try_get(2)?);
        let (cluster, group): (String, String) = (row.try_get(3)?, row.try_get(4)?);
        let backends: String = row.try_get(5)?;
        let address = address_text(row.try_get(1)?)?;
        found.insert(format!(
            "address {address} in {space} by {id} of {cluster}, group {group}, backends {backends:?}"
        ));
    }
    let ports =
        sqlx::query("select space, address, protocol, port, allocation_id from allocation_port");
    for row in ports.fetch_all(&mut *connection).await? {
        let (space, id): (String, i64) = (row.try_get(0)?, row.try_get(4)?);
        let (protocol, port): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
        let address = address_text(row.try_get(1)?)?;
        found.insert(format!(
            "port {protocol}/{port} on {address} in {space} by {id}"
        ));
    }
    for missing in expected.difference(&found) {
        problems.add(format!("not guarded: {missing}"));
    }
    for extra in found.difference(&expected) {
        problems.add(format!("guarded, but not held: {extra}"));
    }
    let doubled = "select space, address from allocation_address
        join held_address using (space, address) where group_key like 'a%'";
    for row in sqlx::query(doubled).fetch_all(&mut *connection).await? {
        let (space, address): (String, String) = (row.try_get(0)?, address_text(row.try_get(1)?)?);
        problems.add(format!(
            "allocation_address: {address} in {space} is held alone, and has a row too many"
        ));
    }
    let unheld = sqlx::query(
        "select space, address from held_address where group_key not like 'a%' and not exists (
            select 1 from allocation_address holder
            where holder.space = held_address.space and holder.address = held_address.address)",
    );
    for row in unheld.fetch_all(&mut *connection).await? {
        let (space, address): (String, String) = (row.try_get(0)?, address_text(row.try_get(1)?)?);
        problems.add(format!("held_address {address} in {space} has no holder"));
    }
    Ok(())
}

/// Checks one row of `allocation`, and adds what must guard it.
fn expect_allocation(
    row: &sqlx::sqlite::SqliteRow,
    expected: &mut Guard,
    problems: &mut Problems,
) -> Result<(), ReadError> {
    let corrupt = |error: String| ReadError::Corrupt(error);
    let wire = v1::Allocation::decode(row.try_get::<&[u8], _>(9)?)
        .map_err(|error| corrupt(error.to_string()))?;
    let held: Option<&[u8]> = row.try_get(10)?;
    let held_claim = held.map(v1::Claim::decode).transpose();
    let extras = AllocationExtras {
        pool_cluster: row.try_get(6)?,
        held_claim: held_claim.map_err(|error| corrupt(error.to_string()))?,
    };
    let allocation =
        allocation_from_wire(&wire, &extras).map_err(|error| corrupt(error.to_string()))?;
    let owner = wire.owner.clone().unwrap_or_default();
    let columns: (i64, String, String, String, String, String, i64, i64) = (
        row.try_get(0)?,
        row.try_get(1)?,
        row.try_get(2)?,
        row.try_get(3)?,
        row.try_get(4)?,
        row.try_get(5)?,
        row.try_get(7)?,
        row.try_get(8)?,
    );
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let entry = (
        signed(wire.id),
        owner.cluster,
        owner.namespace,
        owner.name,
        wire.address_space,
        wire.pool,
        i64::from(wire.state),
        signed(wire.revision),
    );
    if columns != entry {
        problems.add(format!(
            "allocation {}: its columns and its entry differ",
            columns.0
        ));
    }
    let addresses = address_rows(Some(&allocation));
    for row in &addresses {
        expected.insert(format!(
            "address {} in {} by {} of {}, group {}, backends {:?}",
            Address::from_bytes(row.address),
            row.space,
            row.id,
            row.cluster,
            row.group_key,
            row.backend_key
        ));
    }
    for (row, protocol, port) in port_rows(&addresses, Some(&allocation)) {
        let address = Address::from_bytes(row.address);
        let (space, id) = (&row.space, row.id);
        expected.insert(format!(
            "port {protocol}/{port} on {address} in {space} by {id}"
        ));
    }
    Ok(())
}

/// The ranges of the reservations are the rows of `unavailable` that name them.
async fn check_reserved(
    connection: &mut SqliteConnection,
    problems: &mut Problems,
) -> Result<(), ReadError> {
    let line = |space: &str, first: String, last: String, name: &str| {
        format!("{first}-{last} in {space} by reservation {name}")
    };
    let mut expected = Guard::new();
    let rows = sqlx::query("select space, name, revision, entry from reservation");
    for row in rows.fetch_all(&mut *connection).await? {
        let (space, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let corrupt = |error: String| ReadError::Corrupt(format!("reservation {name}: {error}"));
        let wire = v1::Reservation::decode(row.try_get::<&[u8], _>(3)?)
            .map_err(|error| corrupt(error.to_string()))?;
        let mut errors = FieldErrors::new();
        let reservation = reservation_from_wire(&mut errors, "reservation", Some(&wire));
        let reservation = errors.finish(reservation);
        let reservation = reservation.map_err(|error| corrupt(error.to_string()))?;
        let revision = i64::try_from(wire.revision).unwrap_or(i64::MAX);
        if (space.as_str(), name.as_str(), row.try_get(2)?)
            != (&*wire.address_space, &*wire.name, revision)
        {
            problems.add(format!(
                "reservation {name}: its columns and its entry differ"
            ));
        }
        for range in &reservation.ranges {
            let (first, last) = (range.first().to_string(), range.last().to_string());
            expected.insert(line(&space, first, last, &name));
        }
    }
    let mut found = Guard::new();
    let rows =
        sqlx::query("select space, first, last, reservation from unavailable where reason = 1");
    for row in rows.fetch_all(&mut *connection).await? {
        let (space, name): (String, String) = (row.try_get(0)?, row.try_get(3)?);
        let (first, last) = (
            address_text(row.try_get(1)?)?,
            address_text(row.try_get(2)?)?,
        );
        found.insert(line(&space, first, last, &name));
    }
    for missing in expected.difference(&found) {
        problems.add(format!("not unavailable: {missing}"));
    }
    for extra in found.difference(&expected) {
        problems.add(format!("unavailable, but not reserved: {extra}"));
    }
    Ok(())
}

/// Columns and entries of what is unavailable agree, and each set of nodes is waited for.
async fn check_unavailable(
    connection: &mut SqliteConnection,
    problems: &mut Problems,
) -> Result<(), ReadError> {
    let rows =
        sqlx::query("select space, first, last, reason, entry from unavailable where reason <> 1");
    for row in rows.fetch_all(&mut *connection).await? {
        let (space, reason): (String, i64) = (row.try_get(0)?, row.try_get(3)?);
        let (first, last) = (
            address_text(row.try_get(1)?)?,
            address_text(row.try_get(2)?)?,
        );
        let wire = v1::Unavailable::decode(row.try_get::<&[u8], _>(4)?)
            .map_err(|error| ReadError::Corrupt(error.to_string()))?;
        // The table counts the reserved ones too.
        let entry = (
            &wire.address_space,
            &wire.address,
            i64::from(wire.reason) + 1,
        );
        if entry != (&space, &first, reason) || first != last {
            problems.add(format!(
                "unavailable {first} in {space}: its columns and its entry differ"
            ));
        }
    }
    let unused = sqlx::query(
        "select count(*) from awaited_nodes where not exists (
            select 1 from unavailable where unavailable.awaited = awaited_nodes.id)",
    );
    let unused: i64 = unused.fetch_one(&mut *connection).await?.try_get(0)?;
    if unused > 0 {
        problems.add(format!(
            "awaited_nodes has {unused} sets that nothing waits for"
        ));
    }
    Ok(())
}

fn address_text(bytes: &[u8]) -> Result<String, ReadError> {
    let bytes: [u8; 16] = bytes
        .try_into()
        .map_err(|_| ReadError::Corrupt(format!("address of {} bytes", bytes.len())))?;
    Ok(Address::from_bytes(bytes).to_string())
}
