//! A name server that answers as a test says, so that a name can lead elsewhere from one question to the
//! next.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::net::UdpSocket;

/// A name server; it ends with the test.
pub struct Names {
    address: SocketAddr,
    addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
}

impl Names {
    /// One that knows these addresses for every name.
    pub async fn start(addresses: &[Ipv4Addr]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        let addresses = Arc::new(Mutex::new(addresses.to_vec()));
        let known = addresses.clone();
        tokio::task::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                let known = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let _ = socket.send_to(&answer(&question[..length], &known), from).await;
            }
        });
        Self { address, addresses }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it knows these.
    pub fn lead_to(&self, addresses: &[Ipv4Addr]) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses.to_vec();
    }
}

/// The answer to a question (RFC 1035, 4): for the type A the addresses, for every other nothing.
fn answer(question: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    const HEADER: usize = 12;
    let mut end = HEADER;
    while question.get(end).is_some_and(|it| *it != 0) {
        end += usize::from(question[end]) + 1;
    }
    // The end of the name, its type and its class.
    end += 5;
    let Some(asked) = question.get(..end) else { return vec![] };
    let is_a = asked[end - 4..end - 2] == [0, 1];
    let addresses = if is_a { addresses } else { &[] };
    let count = u8::try_from(addresses.len()).unwrap_or(u8::MAX);
    let mut text = vec![asked[0], asked[1], 0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0];
    text.extend_from_slice(&asked[HEADER..]);
    for address in addresses {
        // The name of the question, type A, class IN, no time to live, four bytes.
        text.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        text.extend_from_slice(&address.octets());
    }
    text
}
