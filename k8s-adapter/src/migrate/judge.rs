//! What would become of a cluster that MetalLB serves now. Pure: from what was read, and from what
//! ipam-service answered, to a report. It asks nobody anything.

pub mod backup;
mod carry;
mod facts;
mod fields;
mod metallb;
mod report;
mod services;
mod table;
mod versions;
mod yaml;

pub use carry::remarks;
pub use facts::{Facts, Listed, PoolsOf};
pub use metallb::MetalLb;
pub use report::{AddressBook, Remark, Report, Weight};
pub use services::{Fate, Row, rows, unknown_rows};
pub use table::text;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
