//! Health check of a deployed program over HTTP/1.1. A check closes its connection after the response: a
//! program whose connection is closed earlier ends by SIGPIPE or logs errors, which hide the cause of a
//! failure in the quoted end of its log.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};

/// Time after the end of a check in which its connection stays open for a late response.
const LATE_RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest pause within a response. After it the response is taken for complete: some programs keep the
/// connection open although the request has `Connection: close`.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Maximum length of a response that is read, in bytes.
const RESPONSE_BYTES_MAX: u64 = 16 << 20;

/// Length of the beginning of a response that is parsed, in bytes: `HTTP/1.1 200`.
const HEAD_BYTES: usize = 12;

/// Returns true if a status code passes the health check.
pub(super) fn is_healthy(status: u16) -> bool {
    status < 500
}

/// Returns the status code of `GET path`; `None` if there is no valid response in time.
pub(super) async fn get_status(address: SocketAddr, path: &str, wait: Duration) -> Option<u16> {
    let path = path.to_owned();
    let (sender, status) = oneshot::channel();
    let exchange = async move {
        // Fails if the program closes the connection.
        let exchanged = timeout(wait + LATE_RESPONSE_TIMEOUT, exchange(address, &path, sender));
        let _ = exchanged.await;
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "the exchange ends after the check, with a timeout"
    )]
    tokio::spawn(exchange);
    timeout(wait, status).await.ok()?.ok()
}

/// Sends a request and reads the whole response. `status` gets its status code, unless it is not valid.
async fn exchange(
    address: SocketAddr,
    path: &str,
    status: oneshot::Sender<u16>,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    if stream.local_addr()? == address {
        // The kernel has connected the socket to itself, because nothing listens on the port yet.
        return stream.set_zero_linger();
    }
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: tenantry-health-check\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    if let Some(code) = parse_status(&head) {
        // Fails if the check has ended.
        let _ = status.send(code);
    } else {
        drop(status);
    }
    let mut rest = (&mut stream).take(RESPONSE_BYTES_MAX);
    let mut chunk = vec![0; 16 << 10];
    loop {
        match timeout(PAUSE_MAX, rest.read(&mut chunk)).await {
            Ok(Ok(0)) => break,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        }
    }
    // The program has closed the connection, so it gets no error from a reset, which ends the connection at
    // once. Otherwise the address of the program would stay in use for a minute (TIME_WAIT), in which it
    // could not listen on it after a restart.
    stream.set_zero_linger()
}

fn parse_status(head: &[u8]) -> Option<u16> {
    let head = str::from_utf8(head).ok()?;
    head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}
