//! Whether the rows of BGP peers and BFD profiles are what the state can be loaded from.

use pharos_proto::v1;
use prost::Message as _;
use sqlx::{Row as _, SqliteConnection};

use super::Problems;
use super::entry::{Said, compare};
use crate::api::convert::FieldErrors;
use crate::api::convert_bgp::{peer_from_wire, profile_from_wire};
use crate::store::ReadError;

pub(super) async fn check(
    connection: &mut SqliteConnection,
    problems: &mut Problems,
) -> Result<(), ReadError> {
    let sql = "select cluster, name, revision, entry, password from bgp_peer order by 1, 2";
    for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
        compare("bgp_peer", &row, read_peer, problems)?;
        let password: String = row.try_get(4)?;
        let wire = v1::BgpPeer::decode(row.try_get::<&[u8], _>(3)?).unwrap_or_default();
        if !password.is_empty() && wire.password_revision == 0 {
            let name: String = row.try_get(1)?;
            problems.add(format!("bgp_peer {name}: its password is of no revision"));
        }
    }
    let sql = "select cluster, name, revision, entry from bfd_profile order by 1, 2";
    for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
        compare("bfd_profile", &row, read_profile, problems)?;
    }
    Ok(())
}

fn read_peer(entry: &[u8]) -> Result<Said<2>, String> {
    let wire = v1::BgpPeer::decode(entry).map_err(|error| error.to_string())?;
    let mut errors = FieldErrors::new();
    let peer = peer_from_wire(&mut errors, "bgp_peer", Some(&wire));
    errors.finish(peer).map_err(|error| error.to_string())?;
    Ok(([wire.cluster, wire.name], wire.revision))
}

fn read_profile(entry: &[u8]) -> Result<Said<2>, String> {
    let wire = v1::BfdProfile::decode(entry).map_err(|error| error.to_string())?;
    let mut errors = FieldErrors::new();
    let profile = profile_from_wire(&mut errors, "bfd_profile", Some(&wire));
    errors.finish(profile).map_err(|error| error.to_string())?;
    Ok(([wire.cluster, wire.name], wire.revision))
}
