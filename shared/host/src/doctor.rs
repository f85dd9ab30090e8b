//! `doctor`: the checks of a start and of the systems that a process uses, without serving.
//!
//! A check calls what the start calls, so that a refusal of the start is an error here. Like a start,
//! `doctor` creates a missing data directory with its keys and private database server; it changes no schema,
//! sends no mail and publishes no event.

mod installation;
mod machine;
mod report;

use anyhow::ensure;
use chassis::Config;

pub use report::{Finding, Level, Report};

use crate::{Install, process};

/// Arguments of `doctor`.
#[derive(clap::Args)]
pub struct Doctor {
    #[command(flatten)]
    config: Config,
    /// Prints the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// Checks the installation of a process with these services, and prints the findings. `more` adds those of
/// parts that are no services. Fails if a finding is an error.
pub async fn run(
    arguments: Doctor,
    installs: &[Install],
    more: impl AsyncFnOnce(&Config, &mut Report),
) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Doctor { config, json } = arguments;
    let mut report = Report::default();
    let machine = machine::check(&config, &mut report).await;
    installation::check_settings(&config, &mut report);
    if let Some(machine) = machine {
        installation::check(&config, &machine, installs, &mut report).await;
        if !machine.is_running {
            more(&config, &mut report).await;
        }
    }
    let text = if json { serde_json::to_string_pretty(&report)? + "\n" } else { report.text() };
    process::print(&text)?;
    let errors = report.count(Level::Error);
    ensure!(errors == 0, "doctor found {errors} errors");
    Ok(())
}
