//! Whether the rows of limits are what the state can be loaded from.

use pharos_proto::v1;
use prost::Message as _;
use sqlx::SqliteConnection;

use super::Problems;
use super::entry::{Said, compare};
use crate::api::convert::FieldErrors;
use crate::api::convert_address_space::address_space_from_wire;
use crate::api::convert_quota::quota_from_wire;
use crate::store::ReadError;

pub(super) async fn check(
    connection: &mut SqliteConnection,
    problems: &mut Problems,
) -> Result<(), ReadError> {
    let rows = sqlx::query("select name, revision, entry from quota order by name");
    for row in rows.fetch_all(&mut *connection).await? {
        compare("quota", &row, read_quota, problems)?;
    }
    let rows = sqlx::query("select name, revision, entry from address_space order by name");
    for row in rows.fetch_all(&mut *connection).await? {
        compare("address_space", &row, read_address_space, problems)?;
    }
    Ok(())
}

fn read_quota(entry: &[u8]) -> Result<Said<1>, String> {
    let wire = v1::Quota::decode(entry).map_err(|error| error.to_string())?;
    let mut errors = FieldErrors::new();
    let quota = quota_from_wire(&mut errors, "quota", Some(&wire));
    errors.finish(quota).map_err(|error| error.to_string())?;
    Ok(([wire.name], wire.revision))
}

fn read_address_space(entry: &[u8]) -> Result<Said<1>, String> {
    let wire = v1::AddressSpace::decode(entry).map_err(|error| error.to_string())?;
    let mut errors = FieldErrors::new();
    let space = address_space_from_wire(&mut errors, "address_space", Some(&wire));
    errors.finish(space).map_err(|error| error.to_string())?;
    Ok(([wire.name], wire.revision))
}
