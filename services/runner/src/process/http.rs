//! Health check of a deployed program over HTTP/1.1.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns true if a status code passes the health check.
pub(super) fn is_healthy(status: u16) -> bool {
    status < 500
}

/// Returns the status code of `GET path`; `None` if there is no valid response in time.
pub(super) async fn get_status(address: SocketAddr, path: &str) -> Option<u16> {
    timeout(REQUEST_TIMEOUT, async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        // `HTTP/1.1 200`
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.ok()?;
        let head = str::from_utf8(&head).ok()?;
        head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
    })
    .await
    .ok()?
}
