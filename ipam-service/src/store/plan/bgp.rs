//! What a batch writes of BGP peers and BFD profiles.

use prost::Message as _;

use super::{Coalesced, Plan, text_of};
use crate::api::convert_bgp::{peer_to_wire, profile_to_wire};
use crate::state::bgp::model::{BgpKey, Password};
use crate::store::rows::Cell;
use crate::store::sql::Statement;

impl Plan {
    pub(super) fn write_bgp(&mut self, coalesced: &Coalesced) {
        for (key, edit) in &coalesced.bgp_peers {
            let [cluster, name] = cells(key);
            match (&edit.before, &edit.after) {
                (_, Some(peer)) => {
                    let entry = peer_to_wire(peer).encode_to_vec();
                    let password = peer.password.as_ref().map_or("", Password::reveal);
                    let revision = Cell::number(peer.revision);
                    let (entry, password) = (Cell::bytes(&entry), Cell::Text(password));
                    let row = [cluster, name, revision, entry, password];
                    self.row(Statement::UpsertBgpPeer, &row);
                }
                (Some(_), None) => self.row(Statement::DeleteBgpPeer, &[cluster, name]),
                (None, None) => {}
            }
        }
        for (key, edit) in &coalesced.bfd_profiles {
            let [cluster, name] = cells(key);
            match (&edit.before, &edit.after) {
                (_, Some(profile)) => {
                    let entry = profile_to_wire(profile).encode_to_vec();
                    let revision = Cell::number(profile.revision);
                    let row = [cluster, name, revision, Cell::bytes(&entry)];
                    self.row(Statement::UpsertBfdProfile, &row);
                }
                (Some(_), None) => self.row(Statement::DeleteBfdProfile, &[cluster, name]),
                (None, None) => {}
            }
        }
    }
}

fn cells(key: &BgpKey) -> [Cell<'_>; 2] {
    [
        Cell::Text(text_of(key.cluster.as_ref())),
        Cell::Text(&key.name),
    ]
}
