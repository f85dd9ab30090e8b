//! Connection to the engine.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::engine_error;

/// Timeout of a request, in seconds. Builds and pulls have their own.
const TIMEOUT_S: u64 = 60;

/// Connects to an engine at a Unix socket. Fails if it does not answer.
pub(super) async fn connect(socket: &Path) -> Result<bollard::Docker> {
    let path = socket.to_str().context("the path of the engine's socket must be UTF-8")?;
    ensure!(socket.exists(), "there is no container engine at {path}");
    let client = bollard::Docker::connect_with_unix(path, TIMEOUT_S, bollard::API_DEFAULT_VERSION)
        .map_err(engine_error)?;
    let negotiated = client.negotiate_version().await.map_err(engine_error);
    negotiated.with_context(|| format!("the container engine at {path} cannot be used"))
}

/// Facts about an engine.
pub(super) struct EngineInfo {
    /// Name and version, for operators.
    pub(super) name: String,
    /// Version of control groups.
    pub(super) cgroups: &'static str,
    /// False if its storage driver cannot limit the size of a container. The first container shows whether it
    /// can.
    pub(super) may_limit_disk: bool,
}

/// Storage drivers that can limit the size of a container.
const QUOTA_DRIVERS: [&str; 2] = ["btrfs", "zfs"];

impl EngineInfo {
    pub(super) async fn of(client: &bollard::Docker) -> Result<Self> {
        let info = client.info().await.map_err(engine_error)?;
        let version = client.version().await.map_err(engine_error)?;
        let components = version.components.unwrap_or_default();
        let is_podman = components.iter().any(|it| it.name.starts_with("Podman"));
        let product = if is_podman { "Podman" } else { "Docker" };
        let driver = info.driver.unwrap_or_default();
        // overlay2 limits it on XFS only.
        let status = info.driver_status.unwrap_or_default();
        let is_xfs = status.iter().any(|it| it.iter().any(|it| it == "xfs"));
        let is_v2 = info.cgroup_version.is_some_and(|it| it.to_string() == "2");
        Ok(Self {
            name: format!("{product} {}", version.version.unwrap_or_default()),
            may_limit_disk: is_xfs || QUOTA_DRIVERS.contains(&&*driver),
            cgroups: if is_v2 { "cgroup v2" } else { "cgroup v1" },
        })
    }
}
