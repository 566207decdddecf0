//! What is said of which cluster.

mod output;
mod remarks;
mod services;
