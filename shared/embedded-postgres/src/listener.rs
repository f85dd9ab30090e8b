//! The TCP listener of the server for databases of environments, to which programs of tenants connect.

use std::net::SocketAddr;

/// A TCP listener for clients that authenticate by password (SCRAM-SHA-256).
#[derive(Clone, Debug)]
pub struct PublicListener {
    /// Address to listen on.
    pub address: SocketAddr,
    /// Network of the clients, in CIDR notation.
    pub clients: String,
}

impl PublicListener {
    /// Settings of a server that many tenants share: enough connections for all, and limits of temporary
    /// files and of the log, so that no tenant fills the disk.
    pub(super) const SETTINGS: [&str; 3] =
        ["max_connections=1000", "temp_file_limit=4GB", "log_min_messages=fatal"];

    /// Returns the content of `pg_hba.conf`. Connections by the socket need no password, because only root
    /// and the server's account may enter its directory. TCP connections are accepted from the clients'
    /// network, and from this machine, whose source address is that of the listener.
    pub(super) fn pg_hba(&self) -> String {
        let host = |clients: &str| format!("host all all {clients} scram-sha-256\n");
        let this_machine = format!("{}/32", self.address.ip());
        ["local all tenantry trust\n", &host(&self.clients), &host(&this_machine)].concat()
    }
}
