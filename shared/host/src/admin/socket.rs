//! The Unix socket of the AdminService. Its mode is 0600, so that only the user of the process and root can
//! connect.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

/// A socket, which is removed with the value.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

/// Binds the socket. A socket that a killed process has left is replaced.
pub(super) fn bind(path: &Path) -> anyhow::Result<Socket> {
    match UnixStream::connect(path) {
        Ok(_) => anyhow::bail!("another process serves {}", path.display()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_) => {}
    }
    // Bound in a directory of its own, so that it has its mode before anybody can find it.
    let folder = path.parent().context("the path has no directory")?;
    let private = folder.join(format!(".admin-{}", std::process::id()));
    let _ = fs::remove_dir_all(&private);
    fs::create_dir(&private).with_context(|| format!("cannot write to {}", folder.display()))?;
    let bound = (|| {
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700))?;
        let new = private.join("socket");
        let listener = UnixListener::bind(&new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        fs::rename(&new, path)?;
        io::Result::Ok(listener)
    })();
    let _ = fs::remove_dir_all(&private);
    let listener = bound.with_context(|| format!("cannot listen on {}", path.display()))?;
    ensure!(path.exists(), "{} does not exist", path.display());
    Ok(Socket { listener, path: path.to_owned() })
}

/// Serves until `stop`.
pub(super) async fn serve(socket: Socket, routes: Routes, stop: CancellationToken) {
    let Socket { listener, path } = socket;
    let connections = futures::stream::poll_fn(move |context| {
        listener.poll_accept(context).map(|accepted| Some(accepted.map(|it| it.0)))
    });
    let server = Server::builder().add_routes(routes);
    let served = server.serve_with_incoming_shutdown(connections, stop.cancelled()).await;
    let _ = fs::remove_file(path);
    if let Err(error) = served {
        tracing::warn!(%error, "the socket of the AdminService has failed");
    }
}
