//! Ports that stay with a test while nothing listens on them.

use std::{net::Shutdown, ops::Deref};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};

/// A TCP port of 127.0.0.1 that nobody else gets: a bound socket that does not listen. Connections are
/// refused until a server listens on the port, which every server with `SO_REUSEADDR` can.
#[derive(Debug)]
pub struct ReservedPort {
    _bound: TcpSocket,
    number: u16,
}

impl ReservedPort {
    /// Reserves an unused port.
    pub fn new() -> Self {
        let bound = TcpSocket::new_v4().expect("a socket");
        bound.set_reuseaddr(true).expect("SO_REUSEADDR can be set");
        bound.bind(([127, 0, 0, 1], 0).into()).expect("an unused port");
        let number = bound.local_addr().expect("a bound socket has an address").port();
        Self { _bound: bound, number }
    }

    /// Number of the port.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Listens on the port until the result is dropped.
    pub async fn listen(&self) -> ReservedListener {
        let address = ("127.0.0.1", self.number);
        ReservedListener(TcpListener::bind(address).await.expect("the port is reserved"))
    }
}

/// A listening socket of a [`ReservedPort`]. A child process that another thread is just starting has a copy
/// of the socket until its program begins; closing alone would leave the port in use for that time.
#[derive(Debug)]
pub struct ReservedListener(TcpListener);

impl Deref for ReservedListener {
    type Target = TcpListener;

    fn deref(&self) -> &TcpListener {
        &self.0
    }
}

impl Drop for ReservedListener {
    fn drop(&mut self) {
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}

impl Default for ReservedPort {
    fn default() -> Self {
        Self::new()
    }
}
