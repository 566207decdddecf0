//! What a server that is killed at random moments must keep: a load of many clients ([`load`]), what
//! they were told ([`ledger`], which judges what is left), the moments of the kills ([`kills`]), and
//! the log that a kill leaves ([`wal`], which for the control run loses its last writes).

pub mod kills;
pub mod ledger;
pub mod load;
pub mod wal;
