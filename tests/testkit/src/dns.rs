//! A DNS server with settable answers, for tests of DNS rebinding.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::net::UdpSocket;

/// A DNS server that answers every name with the same addresses; stops with the test.
pub struct Dns {
    address: SocketAddr,
    addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
}

impl Dns {
    /// Starts a server on a free port of the loopback interface.
    pub async fn start(addresses: &[Ipv4Addr]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("an unused port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let addresses = Arc::new(Mutex::new(addresses.to_vec()));
        let current = addresses.clone();
        tokio::task::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                let addresses = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let _ = socket.send_to(&response(&query[..length], &addresses), from).await;
            }
        });
        Self { address, addresses }
    }

    /// Address and port of the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the addresses of every name.
    pub fn set_addresses(&self, addresses: &[Ipv4Addr]) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses.to_vec();
    }
}

/// The response to a query (RFC 1035, section 4): the addresses for type A, no record for other types.
fn response(query: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    const HEADER: usize = 12;
    let mut end = HEADER;
    while query.get(end).is_some_and(|length| *length != 0) {
        end += usize::from(query[end]) + 1;
    }
    // The end of the name (one byte), type and class (two bytes each).
    end += 5;
    let Some(query) = query.get(..end) else { return vec![] };
    // Type A has the number 1.
    let is_a = query[end - 4..end - 2] == [0, 1];
    let addresses = if is_a { addresses } else { &[] };
    let count = u8::try_from(addresses.len()).unwrap_or(u8::MAX);
    // Id of the query, flags (response, recursion available), and the numbers of records per section.
    let mut bytes = vec![query[0], query[1], 0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0];
    bytes.extend_from_slice(&query[HEADER..]);
    for address in addresses {
        // Pointer to the queried name, type A, class IN, TTL 0, four bytes.
        bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        bytes.extend_from_slice(&address.octets());
    }
    bytes
}
