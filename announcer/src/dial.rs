//! A connection to ipam-service, by the addresses that its name has, or had.

use tonic::transport::{Channel, Endpoint};

use crate::config;
use crate::names::{LookupError, Names};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("its name has no address that can be dialled")]
    NoAddress,
}

/// Of several addresses of a name the first that accepts, beginning at any.
pub async fn dial(names: &Names, server: &Endpoint) -> Result<Channel, DialError> {
    let host = server.uri().host().unwrap_or_default();
    let mut addresses = names.resolve(host).await?;
    let first = rand::random_range(0..addresses.len());
    addresses.rotate_left(first);
    let mut outcome = Err(DialError::NoAddress);
    for address in addresses {
        outcome = match config::at(server, address) {
            Ok(endpoint) => endpoint.connect().await.map_err(DialError::Connect),
            Err(_) => Err(DialError::NoAddress),
        };
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}
