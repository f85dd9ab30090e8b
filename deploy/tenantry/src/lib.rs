//! The all-in-one and the tools around it. No logic of the services: four installs and a runner.
//!
//! | verb | file |
//! |---|---|
//! | none: serve everything | `serve` |
//! | `demo`: play the story against a running suite | `demo` |
//! | `verify`: prove entries of the audit log, offline | `verify` |
//! | `audit`: check the log as a whole, change its key | `audit_log` |
//! | `certs`: certificates for the services | `certs` |
//! | `migrate`, `healthcheck`, `config`, `runner` | `tools` |

mod audit_log;
mod certs;
pub mod client;
pub mod demo;
mod serve;
mod tools;
mod verify;

use std::process::ExitCode;

use chassis::{Config, process::block_on};
use clap::{CommandFactory, Parser, Subcommand};

pub use serve::INSTALLS;

/// Organizations, members, invitations, projects and an audit log that nobody can quietly change.
#[derive(Parser)]
#[command(name = "tenantry", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    config: Config,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Plays the story against a running suite and shows each call, each answer and the verified log.
    Demo(demo::Arguments),
    /// Proves offline that entries are in the audit log: a receipt, or an exported bundle.
    Verify(verify::Arguments),
    /// Checks the audit log as a whole, or changes its key.
    Audit(audit_log::Arguments),
    /// Brings the database up to date and ends.
    Migrate(Box<Config>),
    /// Asks a server whether it serves; for containers.
    Healthcheck(tools::Healthcheck),
    /// Prints every setting as a table.
    Config,
    /// Makes an authority and a certificate for each service.
    Certs(certs::Arguments),
    /// Runs a runner, which executes deployments, as a process of its own.
    Runner(Box<Config>),
}

/// The binary.
pub fn main() -> ExitCode {
    let Arguments { config, verb } = Arguments::parse();
    block_on(async move {
        match verb {
            None => Box::pin(serve::serve(config)).await,
            Some(Verb::Demo(it)) => demo::run(it).await,
            Some(Verb::Verify(it)) => verify::run(&it),
            Some(Verb::Audit(it)) => audit_log::run(it).await,
            Some(Verb::Migrate(config)) => tools::migrate(*config).await,
            Some(Verb::Healthcheck(it)) => tools::healthcheck(it).await,
            Some(Verb::Config) => tools::print(&settings()),
            Some(Verb::Certs(it)) => certs::run(&it),
            Some(Verb::Runner(config)) => tools::runner(*config).await,
        }
    })
}

/// Every setting as a Markdown table, made from the code.
pub fn settings() -> String {
    let mut table = "| Flag | Environment | Default | Meaning |\n|---|---|---|---|\n".to_owned();
    let command = Arguments::command();
    for it in command.get_arguments().filter(|it| it.get_env().is_some()) {
        let flag = it.get_long().unwrap_or_default();
        let variable = it.get_env().and_then(|it| it.to_str()).unwrap_or_default();
        let default: Vec<_> = it.get_default_values().iter().filter_map(|it| it.to_str()).collect();
        let default =
            if default.is_empty() { String::new() } else { format!("`{}`", default.join(",")) };
        let help =
            it.get_long_help().or(it.get_help()).map(ToString::to_string).unwrap_or_default();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        table += &format!("| `--{flag}` | `{variable}` | {default} | {help} |\n");
    }
    table
}
