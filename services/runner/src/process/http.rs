//! Health check of a deployed program over HTTP/1.1.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Time in which the rest of a response is read.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// Maximum length of the rest of a response that is read, in bytes.
const DRAIN_BYTES_MAX: u64 = 64 << 10;

/// Returns true if a status code passes the health check.
pub(super) fn is_healthy(status: u16) -> bool {
    status < 500
}

/// Returns the status code of `GET path`; `None` if there is no valid response in time.
pub(super) async fn get_status(address: SocketAddr, path: &str, wait: Duration) -> Option<u16> {
    let (stream, status) = timeout(wait, request(address, path)).await.ok()??;
    // A program that gets a reset connection while it writes may end (SIGPIPE), so its response is read.
    let mut rest = stream.take(DRAIN_BYTES_MAX);
    let _ = timeout(DRAIN_TIMEOUT, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    Some(status)
}

async fn request(address: SocketAddr, path: &str) -> Option<(TcpStream, u16)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    // Closes the connection by a reset. Otherwise the program, which closes first, would keep its address in
    // use for a minute (TIME_WAIT), in which it could not listen on it again.
    stream.set_zero_linger().ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    // `HTTP/1.1 200`
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.ok()?;
    let head = str::from_utf8(&head).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((stream, status))
}
