//! What a batch writes of the limits that the operator sets.

use prost::Message as _;

use super::{Coalesced, Plan};
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
    }
}
