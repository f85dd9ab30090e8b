//! Asks a program whether it serves.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// One request may take this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// The status with which an address answers `GET` of a path, if it answers.
pub(super) async fn get_status(address: SocketAddr, path: &str) -> Option<u16> {
    // What listens everywhere is asked here.
    let here = address.ip().is_unspecified();
    let ip = if here { IpAddr::from(Ipv4Addr::LOCALHOST) } else { address.ip() };
    let address = SocketAddr::new(ip, address.port());
    timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.ok()?;
        let head = str::from_utf8(&head).ok()?;
        head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
    })
    .await
    .ok()?
}
