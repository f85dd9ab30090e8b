//! The chaos run: three replicas of each service on three machines (network namespaces), a NATS cluster with
//! a node on each, one PostgreSQL and a gateway, under load, while faults come and go. Usage:
//! `cargo xtask chaos [SECONDS] [SEED]`; `cargo xtask scale` measures 1, 2 and 3 replicas of each service.

mod cluster;
mod control_group;
mod disk;
mod fault;
mod health;
mod network;
mod program;
mod run;
mod sandbox;
mod scale;
mod seats;
mod tenants;

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};

/// Duration of a run in seconds, without an argument.
const SECONDS: u64 = 900;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, folder, rest @ ..] = &arguments[..] else { return start(&arguments) };
    if first != sandbox::INSIDE {
        return start(&arguments);
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = PathBuf::from(folder);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let is_passed = runtime.block_on(async {
        sandbox::prepare(&folder, &network::hosts(network::MACHINES))?;
        network::create()?;
        match rest {
            [name, rest @ ..] if name == "run" => {
                let number = |position: usize| rest.get(position).map(|it| it.parse::<u64>());
                let seconds = number(0).transpose().context("SECONDS is a number")?;
                let seed = number(1).transpose().context("SEED is a number")?;
                let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
                run::run(&folder, seconds.unwrap_or(SECONDS), seed).await
            }
            [name] if name == "scale" => scale::run(&folder).await,
            _ => bail!("usage: chaos run [SECONDS] [SEED], or chaos scale"),
        }
    })?;
    Ok(if is_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts the run in a sandbox.
fn start(arguments: &[String]) -> Result<ExitCode> {
    let status = sandbox::enter(arguments)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints a line.
pub(crate) fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
