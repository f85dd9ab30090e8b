//! A network between the suite and its database: every packet takes its time.

use std::{path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
};

/// How long a packet takes, one way.
const LATENCY: Duration = Duration::from_millis(2);

/// Listens on a port and passes everything to a socket, late. Answers the port.
pub(crate) async fn link(socket: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::task::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = UnixStream::connect(&socket).await else { return };
            let _ = near.set_nodelay(true);
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::task::spawn(pass(near_in, far_out));
            tokio::task::spawn(pass(far_in, near_out));
        }
    });
    port
}

async fn pass(
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
