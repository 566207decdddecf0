//! What a server that is killed at random moments must keep: a load of many clients ([`load`]), what
//! they were told ([`ledger`], which judges what is left), and a disk that loses its last writes
//! ([`wal`], for the control run).

pub mod ledger;
pub mod load;
pub mod wal;
