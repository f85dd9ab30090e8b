//! TCP proxies: one in front of PostgreSQL that adds latency, and a gateway of the suite.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};

/// Delay of each chunk of data in one direction.
const LATENCY: Duration = Duration::from_millis(2);

/// Starts a proxy that forwards an unused TCP port to a Unix socket with [`LATENCY`]; returns the port.
pub(crate) async fn slow_link(socket: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("an unused port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    tokio::task::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = UnixStream::connect(&socket).await else { return };
            let _ = client.set_nodelay(true);
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            tokio::task::spawn(forward(client_in, server_out));
            tokio::task::spawn(forward(server_in, client_out));
        }
    });
    port
}

/// Starts a proxy at all addresses of this machine, as a gateway of the suite has them; returns its port. A
/// suite without TLS listens at a loopback address only.
pub async fn start_gateway(suite: SocketAddr) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("an unused port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    tokio::task::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::task::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(suite).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    port
}

async fn forward(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        tokio::time::sleep(LATENCY).await;
        to.write_all(&buffer[..length]).await?;
    }
}
