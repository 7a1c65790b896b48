//! Taking an address to listen on, first of all that a process starts.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use thiserror::Error;
use tokio::net::TcpListener;

/// An address that cannot be listened on, and what to do about it.
#[derive(Debug, Error)]
#[error("{address} {what} ({cause}). Choose another one: {variable}={suggestion}")]
pub struct ListenError {
    address: SocketAddr,
    what: &'static str,
    variable: &'static str,
    suggestion: SocketAddr,
    // Not its source: it is told within.
    cause: io::Error,
}

/// Listens on the address, which `variable` sets.
pub async fn bind(address: SocketAddr, variable: &'static str) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|cause| {
        let what = match cause.kind() {
            ErrorKind::AddrInUse => "is taken: another process listens there",
            ErrorKind::PermissionDenied => "is not allowed: ports below 1024 need a privilege",
            ErrorKind::AddrNotAvailable => "is not an address of this machine",
            _other => "cannot be listened on",
        };
        // A port that is likely free and allowed; the kernel's choice (0) could not be bookmarked.
        let port = if address.port() < 1024 { 8080 } else { address.port().checked_add(1).unwrap_or(8080) };
        ListenError { address, what, variable, suggestion: SocketAddr::new(address.ip(), port), cause }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_said_so() {
        let first = bind("127.0.0.1:0".parse().unwrap(), "NATTER_HTTP__LISTEN").await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, "NATTER_HTTP__LISTEN").await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{address} is taken")) && error.contains("NATTER_HTTP__LISTEN=127.0.0.1:"), "{error}");
    }
}
