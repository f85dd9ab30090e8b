//! Benchmarks. Each measures the suite and a reference implementation in the same run, because only their
//! ratio is comparable between machines. Usage: `cargo xtask bench [NAME]`, which runs the benchmarks whose
//! names contain NAME.

mod audit_log;
mod bare_log_server;
mod bare_server;
mod check;
mod cold_checks;
mod environments;
mod grants;
mod growth;
mod hosting;
mod invitations;
mod large;
mod load;
mod local_runner;
mod logins;
mod logs;
mod mails;
mod memory;
mod metrics;
mod mutation;
mod nats;
mod noop;
mod organizations;
mod pages;
mod project_lists;
mod runner_load;
mod start;
mod suite;
mod tenant;
mod webhooks;

use std::io::Write;

use anyhow::Result;

#[tokio::main]
async fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let filter = std::env::args().nth(1).unwrap_or_default();
    print(
        "| measurement (reference) | suite | reference | ratio or value | goal |\n|---|---|---|---|---|\n",
    );
    if "start".contains(&filter) {
        start::run().await?;
    }
    if "noop".contains(&filter) {
        noop::run().await?;
    }
    if "mutation".contains(&filter) {
        mutation::run().await?;
    }
    if "check".contains(&filter) {
        check::run().await?;
    }
    if "grants".contains(&filter) {
        grants::run().await?;
    }
    if "organizations".contains(&filter) {
        organizations::run().await?;
    }
    if "project_lists".contains(&filter) {
        project_lists::run().await?;
    }
    if "hosting".contains(&filter) {
        hosting::run().await?;
    }
    if "logs".contains(&filter) {
        logs::run().await?;
    }
    if "metrics".contains(&filter) {
        metrics::run().await?;
    }
    if "environments".contains(&filter) {
        environments::run().await?;
    }
    if "invitations".contains(&filter) {
        invitations::run().await?;
    }
    if "webhooks".contains(&filter) {
        webhooks::run().await?;
    }
    if "mails".contains(&filter) {
        mails::run().await?;
    }
    if "logins".contains(&filter) {
        logins::run().await?;
    }
    if "audit".contains(&filter) {
        audit_log::run().await?;
    }
    if "pages".contains(&filter) {
        pages::run().await?;
    }
    if "cold_checks".contains(&filter) {
        cold_checks::run().await?;
    }
    if "growth".contains(&filter) {
        growth::run().await?;
    }
    if "large".contains(&filter) {
        large::run().await?;
    }
    Ok(())
}

/// Prints to standard output, unbuffered.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Returns the median.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a row of the table: rates of the suite and of the reference in calls per second, and their ratio.
fn print_rates(measurement: &str, suite: f64, reference: f64, goal: &str) {
    let ratio = suite / reference;
    print(&format!("| {measurement} | {suite:.0}/s | {reference:.0}/s | {ratio:.2} | {goal} |\n"));
}
