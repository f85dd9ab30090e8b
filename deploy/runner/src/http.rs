//! Asks a freshly started process whether it serves.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// One request may take this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// The status with which an address answers `GET /`, if it answers.
pub(crate) async fn get_status(address: SocketAddr) -> Option<u16> {
    timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.ok()?;
        let head = str::from_utf8(&head).ok()?;
        head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
    })
    .await
    .ok()?
}
