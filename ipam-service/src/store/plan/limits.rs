//! What a batch writes of the limits that the operator sets.

use prost::Message as _;

use super::{Coalesced, Plan};
use crate::api::convert_address_space::address_space_to_wire;
use crate::api::convert_quota::quota_to_wire;
use crate::store::rows::Cell;
use crate::store::sql::Statement;

impl Plan {
    pub(super) fn write_limits(&mut self, coalesced: &Coalesced) {
        for (name, edit) in &coalesced.quotas {
            match (&edit.before, &edit.after) {
                (_, Some(quota)) => {
                    let entry = quota_to_wire(quota).encode_to_vec();
                    let revision = Cell::number(quota.revision);
                    let cells = [Cell::Text(name), revision, Cell::bytes(&entry)];
                    self.row(Statement::UpsertQuota, &cells);
                }
                (Some(_), None) => self.row(Statement::DeleteQuota, &[Cell::Text(name)]),
                (None, None) => {}
            }
        }
        for (name, edit) in &coalesced.address_spaces {
            match (&edit.before, &edit.after) {
                (_, Some(space)) => {
                    let entry = address_space_to_wire(space).encode_to_vec();
                    let revision = Cell::number(space.revision);
                    let cells = [Cell::Text(name), revision, Cell::bytes(&entry)];
                    self.row(Statement::UpsertAddressSpace, &cells);
                }
                (Some(_), None) => self.row(Statement::DeleteAddressSpace, &[Cell::Text(name)]),
                (None, None) => {}
            }
        }
    }
}
