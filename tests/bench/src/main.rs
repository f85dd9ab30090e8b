//! Benchmarks, each beside its reference in the same run: only the ratio counts.

mod audit_log;
mod bare;
mod check;
mod grants;
mod hosting;
mod invitations;
mod large;
mod load;
mod logins;
mod mutation;
mod nats;
mod noop;
mod start;
mod suite;
mod webhooks;

use std::io::Write;

use anyhow::Result;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let wanted = std::env::args().nth(1).unwrap_or_default();
    say("| what | ours | reference | ratio or value | goal |\n|---|---|---|---|---|\n");
    if "start".contains(&wanted) {
        start::run().await?;
    }
    if "noop".contains(&wanted) {
        noop::run().await?;
    }
    if "mutation".contains(&wanted) {
        mutation::run().await?;
    }
    if "check".contains(&wanted) {
        check::run().await?;
    }
    if "grants".contains(&wanted) {
        grants::run().await?;
    }
    if "hosting".contains(&wanted) {
        hosting::run().await?;
    }
    if "invitations".contains(&wanted) {
        invitations::run().await?;
    }
    if "webhooks".contains(&wanted) {
        webhooks::run().await?;
    }
    if "logins".contains(&wanted) {
        logins::run().await?;
    }
    if "audit".contains(&wanted) {
        audit_log::run().await?;
    }
    if "large".contains(&wanted) {
        large::run().await?;
    }
    Ok(())
}

/// Prints at once.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A row of the table: ours beside its reference, in calls per second.
fn row(what: &str, ours: f64, reference: f64, goal: &str) {
    let ratio = ours / reference;
    say(&format!("| {what} | {ours:.0}/s | {reference:.0}/s | {ratio:.2} | {goal} |\n"));
}
