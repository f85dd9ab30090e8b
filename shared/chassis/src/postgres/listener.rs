//! The listener of a server that programs of tenants connect to.

use std::net::SocketAddr;

/// A TCP address for clients that prove themselves by password.
#[derive(Clone, Debug)]
pub struct PublicListener {
    /// The address to listen on.
    pub address: SocketAddr,
    /// The network of its clients, in CIDR notation.
    pub clients: String,
}

impl PublicListener {
    /// Settings for many tenants: none fills the log, or the disk with temporary files.
    pub(super) const SETTINGS: [&str; 3] =
        ["max_connections=1000", "temp_file_limit=4GB", "log_min_messages=fatal"];

    /// `pg_hba.conf`. Only root and the server's account reach the socket; this machine connects from the
    /// address.
    pub(super) fn rules(&self) -> String {
        let host = |clients: &str| format!("host all all {clients} scram-sha-256\n");
        let own = format!("{}/32", self.address.ip());
        ["local all tenantry trust\n", &host(&self.clients), &host(&own)].concat()
    }
}
