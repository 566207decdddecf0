//! What operators and clusters declare, read back from its rows.

use pharos_proto::v1;
use rusqlite::Row;

use super::super::ReadError;
use super::{Names, blob, decode, loaded, of_fields};
use crate::api::convert::FieldErrors;
use crate::api::convert_address_space::address_space_from_wire;
use crate::api::convert_announce::advertisement_from_wire;
use crate::api::convert_bgp::{peer_from_wire, profile_from_wire};
use crate::api::convert_quota::quota_from_wire;
use crate::state::bgp::model::Password;
use crate::state::change::Change;

pub(super) fn advertisement(row: &Row<'_>, _names: &mut Names) -> Result<Change, ReadError> {
    let wire: v1::Advertisement = decode(blob(row, 0)?)?;
    let mut errors = FieldErrors::new();
    let advertisement = advertisement_from_wire(&mut errors, "advertisement", Some(&wire));
    Ok(Change::Advertisement(loaded(
        errors.finish(advertisement).map_err(of_fields)?,
    )))
}

pub(super) fn bgp_peer(row: &Row<'_>, _names: &mut Names) -> Result<Change, ReadError> {
    let wire: v1::BgpPeer = decode(blob(row, 0)?)?;
    let mut errors = FieldErrors::new();
    let peer = peer_from_wire(&mut errors, "bgp_peer", Some(&wire));
    let mut peer = errors.finish(peer).map_err(of_fields)?;
    let password: String = row.get(1)?;
    peer.password = (!password.is_empty()).then(|| Password::new(password));
    Ok(Change::BgpPeer(loaded(peer)))
}

pub(super) fn bfd_profile(row: &Row<'_>, _names: &mut Names) -> Result<Change, ReadError> {
    let wire: v1::BfdProfile = decode(blob(row, 0)?)?;
    let mut errors = FieldErrors::new();
    let profile = profile_from_wire(&mut errors, "bfd_profile", Some(&wire));
    Ok(Change::BfdProfile(loaded(
        errors.finish(profile).map_err(of_fields)?,
    )))
}

pub(super) fn quota(row: &Row<'_>, _names: &mut Names) -> Result<Change, ReadError> {
    let wire: v1::Quota = decode(blob(row, 0)?)?;
    let mut errors = FieldErrors::new();
    let quota = quota_from_wire(&mut errors, "quota", Some(&wire));
    Ok(Change::Quota(loaded(
        errors.finish(quota).map_err(of_fields)?,
    )))
}

pub(super) fn address_space(row: &Row<'_>, _names: &mut Names) -> Result<Change, ReadError> {
    let wire: v1::AddressSpace = decode(blob(row, 0)?)?;
    let mut errors = FieldErrors::new();
    let space = address_space_from_wire(&mut errors, "address_space", Some(&wire));
    Ok(Change::AddressSpace(loaded(
        errors.finish(space).map_err(of_fields)?,
    )))
}
