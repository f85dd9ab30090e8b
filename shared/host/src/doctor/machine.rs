//! Checks of the machine: data directory, disk space and ports.

use std::{net::SocketAddr, path::Path};

use chassis::Config;
use tokio::net::UnixStream;

use super::{Level, Report};
use crate::{DataDir, admin, data_dir, process};

/// Free part of a disk, in percent, below which it is reported.
const FREE_PERCENT_MIN: u64 = 10;

/// Free space of a disk, in bytes, below which it is reported.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// The machine, after its checks.
pub(super) struct Machine {
    pub(super) data_dir: DataDir,
    /// True if another process uses the data directory and answers at its admin socket.
    pub(super) is_running: bool,
}

/// Checks the machine. `None`: the data directory cannot be used.
pub(super) async fn check(config: &Config, report: &mut Report) -> Option<Machine> {
    let machine = match DataDir::open(config.data_dir.as_deref()) {
        Ok(data_dir) => Ok(Machine { data_dir, is_running: false }),
        Err(error) => beside_running_process(config).await.ok_or(error),
    };
    let machine = report.step("data directory", machine, |it| {
        let path = it.data_dir.path().display();
        if it.is_running { format!("{path}, used by a running process") } else { path.to_string() }
    })?;
    report_disk(machine.data_dir.path(), report);
    if !machine.is_running {
        report_port("port", process::bind(config.listen), config.listen, report);
        if let Some(address) = config.health_listen {
            report_port("health port", process::bind_health(address).await, address, report);
        }
    }
    Some(machine)
}

/// Returns the data directory of a process that runs.
async fn beside_running_process(config: &Config) -> Option<Machine> {
    let path = match &config.data_dir {
        Some(path) => path.clone(),
        None => data_dir::default().ok()?,
    };
    let socket = admin::socket_path(config, &path);
    UnixStream::connect(socket).await.ok()?;
    Some(Machine { data_dir: DataDir::open_unlocked(&path).ok()?, is_running: true })
}

fn report_port<S>(
    check: &'static str,
    socket: anyhow::Result<S>,
    address: SocketAddr,
    report: &mut Report,
) {
    report.step(check, socket, |_| address.to_string());
}

fn report_disk(path: &Path, report: &mut Report) {
    let Ok(disk) = rustix::fs::statvfs(path) else { return };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let percent = disk.f_bavail.saturating_mul(100) / disk.f_blocks.max(1);
    let text = format!("{} MiB free, {percent} %", free >> 20);
    if percent < FREE_PERCENT_MIN || free < FREE_BYTES_MIN {
        let message = format!("{text}; free some, a full disk stops all changes");
        report.add("disk", Level::Warning, message);
    } else {
        report.add("disk", Level::Ok, text);
    }
}
