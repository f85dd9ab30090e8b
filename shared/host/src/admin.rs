//! Operation of the process by its operators: the AdminService on a Unix socket.

mod operations;
mod rpc;
mod socket;

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use api::admin::admin_service_server::AdminServiceServer;
use chassis::Config;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

pub(crate) use self::operations::Operations;
pub use self::operations::{AccountSession, AccountSessions, LogCheck, LogChecks, LogIntegrity};
use self::rpc::Admin;
use crate::host::Host;

/// Value of `--admin-socket` for no socket.
const NONE: &str = "none";

impl Host {
    /// Serves the AdminService until `stop`. Without a socket, for example because its path is too long, the
    /// process runs without the service.
    #[expect(clippy::disallowed_methods, reason = "the time is only shown to operators")]
    pub(crate) fn start_admin(
        &self,
        stop: &CancellationToken,
        background: &TaskTracker,
    ) -> anyhow::Result<()> {
        let Some(path) = self.admin_socket() else { return Ok(()) };
        let socket = match socket::bind(&path) {
            Ok(socket) => socket,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(
                    path = %path.display(), error,
                    "the AdminService has no socket; choose another path with --admin-socket"
                );
                return Ok(());
            }
        };
        let admin = Admin {
            started_at: SystemTime::now(),
            databases: self.databases().cloned().collect(),
            queues: self.queues.clone(),
            readiness: self.readiness.clone(),
            operations: self.operations.clone(),
        };
        let routes = reflection()?.add_service(AdminServiceServer::new(admin));
        background.spawn(socket::serve(socket, routes, stop.clone()));
        Ok(())
    }

    /// Returns the path of the socket.
    fn admin_socket(&self) -> Option<PathBuf> {
        let path = socket_path(&self.config, self.data_dir.path());
        (path.as_os_str() != NONE).then_some(path)
    }
}

/// Returns the path of the socket of a process with a data directory, or [`NONE`].
pub(crate) fn socket_path(config: &Config, data_dir: &Path) -> PathBuf {
    config.admin_socket.clone().unwrap_or_else(|| data_dir.join("admin.sock"))
}

/// Returns the reflection service of the socket.
fn reflection() -> anyhow::Result<Routes> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(api::ADMIN_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::default().add_service(builder().build_v1()?);
    Ok(routes.add_service(builder().build_v1alpha()?))
}
