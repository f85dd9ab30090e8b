//! The all-in-one program and the operators' command line. Contains no logic of the services.
//!
//! | subcommand | file |
//! |---|---|
//! | none: all services in one process | `serve`, `local_runner` |
//! | `demo`: runs a scenario against a running suite | `demo` |
//! | `logs`: prints the output of an environment's programs | `logs` |
//! | `shell`: runs a shell beside the program of an environment | `shell` |
//! | `verify`: verifies entries of the audit log, offline or over HTTP | `verify` |
//! | `monitor`: follows the audit log from outside | `monitor` |
//! | `witness`: cosigns checkpoints of logs | `witness` |
//! | `admin`: shows and steers a running process | `admin` |
//! | `audit`: checks the complete audit log, rotates its signing key | `audit_log` |
//! | `certs`: creates certificates for the services | `certs` |
//! | `keys`: creates the keys that the services share, rotates the secret key | `keys` |
//! | `cluster-secrets`: creates certificates and keys as Secrets of Kubernetes | `cluster_secrets` |
//! | `discovery`: reflection and health of all services, for a gateway | `discovery` |
//! | `migrate`, `runner` | `tools` |
//! | `doctor`: checks the installation | `local_runner`, for the runner |
//! | `reference`: prints a page of the generated documentation | `reference` |

mod admin;
mod audit_log;
mod certs;
pub mod client;
mod cluster_secrets;
pub mod demo;
mod discovery;
mod environment_arguments;
#[cfg(test)]
#[path = "../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each fuzz target uses a part of it")]
mod fuzz_input;
mod keys;
mod local_runner;
mod log_client;
mod logs;
mod monitor;
mod reference;
mod required_witnesses;
mod serve;
mod shell;
mod tools;
mod verify;
mod witness;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU8, Ordering},
};

use chassis::Config;
use clap::{CommandFactory, Parser, Subcommand};
use host::{
    doctor::{self, Doctor},
    healthcheck::{self, Healthcheck},
    process::block_on,
};

pub use serve::INSTALLS;

/// Organizations, members, invitations, projects, and a tamper-evident audit log.
#[derive(Parser)]
#[command(name = "tenantry", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    config: Config,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a scenario against a running suite; prints each call, each response, and the verified audit log.
    Demo(demo::Arguments),
    /// Prints the output of an environment's programs.
    Logs(logs::Arguments),
    /// Runs a shell, or another command, beside the program of an environment; ends with its exit status.
    Shell(shell::Arguments),
    /// Verifies that entries are in the audit log: a receipt or an export offline, or the whole log over
    /// HTTP.
    Verify(verify::Arguments),
    /// Follows an audit log from outside: verifies each new checkpoint and all new entries over HTTP (C2SP
    /// tlog-tiles). Ends with status 3 if the log is forked, rolled back or changed, or its signature is
    /// invalid.
    Monitor(monitor::Arguments),
    /// Cosigns the checkpoints of configured logs, also those of others, as a witness (C2SP tlog-witness):
    /// only if each continues the one before.
    Witness(witness::Arguments),
    /// Shows and steers a running process: queues, jobs, dead letters, pauses, the filter of the log.
    Admin(admin::Arguments),
    /// Checks the complete audit log, or rotates its signing key.
    Audit(audit_log::Arguments),
    /// Runs the database migrations of all services and exits.
    Migrate(Box<Config>),
    /// Checks the installation without serving: what a start would refuse, and the systems that it uses.
    Doctor(Box<Doctor>),
    /// Checks the health of a server; for container health checks.
    Healthcheck(Healthcheck),
    /// Prints all settings as a Markdown table.
    Config,
    /// Creates a certificate authority and a certificate for each service.
    Certs(certs::Arguments),
    /// Creates the secret key of the deployment and the signing key of the audit log, unless they exist. The
    /// subcommands are the steps of a rotation of the secret key.
    Keys(keys::Arguments),
    /// Creates the keys and certificates of a deployment as Secrets of the Kubernetes cluster in which it
    /// runs, unless they exist, and renews certificates that expire soon.
    ClusterSecrets(cluster_secrets::Arguments),
    /// Runs a runner, which executes deployments, as a process of its own.
    Runner(Box<Config>),
    /// Serves reflection and health checks of all services at one address, for a gateway in front of them.
    Discovery(Box<Config>),
    /// Prints a page of the generated reference as Markdown.
    #[command(hide = true)]
    Reference { page: reference::Page },
}

/// Entry point of the binary.
pub fn main() -> ExitCode {
    let Arguments { config, command } = settings::arguments::parse();
    // Of the command that `shell` has run, or of `monitor`.
    let status = AtomicU8::new(0);
    let exit_status = &status;
    let code = block_on(async move {
        match command {
            None => Box::pin(serve::serve(config)).await,
            Some(Command::Demo(arguments)) => demo::run(arguments).await,
            Some(Command::Logs(arguments)) => logs::run(arguments).await,
            Some(Command::Shell(arguments)) => {
                exit_status.store(shell::run(arguments).await?, Ordering::Relaxed);
                Ok(())
            }
            Some(Command::Verify(arguments)) => verify::run(&arguments).await,
            Some(Command::Monitor(arguments)) => {
                exit_status.store(monitor::run(arguments).await?, Ordering::Relaxed);
                Ok(())
            }
            Some(Command::Witness(arguments)) => witness::run(arguments).await,
            Some(Command::Admin(arguments)) => admin::run(arguments).await,
            Some(Command::Audit(arguments)) => audit_log::run(arguments).await,
            Some(Command::Migrate(config)) => tools::migrate(*config).await,
            Some(Command::Doctor(arguments)) => {
                doctor::run(*arguments, INSTALLS, local_runner::examine).await
            }
            Some(Command::Healthcheck(arguments)) => healthcheck::run(arguments).await,
            Some(Command::Config) => tools::print(&settings_table()),
            Some(Command::Certs(arguments)) => certs::run(&arguments),
            Some(Command::Keys(arguments)) => keys::run(&arguments),
            Some(Command::ClusterSecrets(arguments)) => cluster_secrets::run(arguments).await,
            Some(Command::Runner(config)) => tools::runner(*config).await,
            Some(Command::Discovery(config)) => discovery::run(*config).await,
            Some(Command::Reference { page }) => tools::print(&reference::page(page)?),
        }
    });
    match status.into_inner() {
        0 => code,
        status => ExitCode::from(status),
    }
}

/// Returns all settings as a Markdown table, generated from the command-line definition.
fn settings_table() -> String {
    let mut table = "| Flag | Environment | Default | Meaning |\n|---|---|---|---|\n".to_owned();
    let command = Arguments::command();
    for argument in command.get_arguments().filter(|it| it.get_env().is_some()) {
        let flag = argument.get_long().unwrap_or_default();
        let variable = argument.get_env().and_then(|it| it.to_str()).unwrap_or_default();
        let defaults: Vec<_> =
            argument.get_default_values().iter().filter_map(|it| it.to_str()).collect();
        let default =
            if defaults.is_empty() { String::new() } else { format!("`{}`", defaults.join(",")) };
        let help = argument.get_long_help().or(argument.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        table += &format!("| `--{flag}` | `{variable}` | {default} | {help} |\n");
    }
    table
}
