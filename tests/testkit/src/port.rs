//! Ports that stay with a test while nothing listens on them.

use std::net::Shutdown;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};

/// A TCP port of 127.0.0.1 that nobody else gets: a bound socket that does not listen. Connections are refused
/// until a server listens on the port, which every server with `SO_REUSEADDR` can.
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

    /// Listens on the port.
    pub(crate) async fn listen(&self) -> TcpListener {
        TcpListener::bind(("127.0.0.1", self.number)).await.expect("the port is reserved")
    }
}

/// Stops listening. A child process that another thread is just starting has a copy of the socket until its
/// program begins, so that closing alone would leave the port in use for that time.
pub(crate) fn stop_listening(listener: &TcpListener) {
    SockRef::from(listener).shutdown(Shutdown::Both).expect("a listening socket can be shut down");
}

impl Default for ReservedPort {
    fn default() -> Self {
        Self::new()
    }
}
