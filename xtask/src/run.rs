//! Child processes: cargo and other programs, run in the workspace.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Outcome, machine};

/// Root directory of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the workspace").to_owned()
}

/// Command for the cargo that started this program.
pub(crate) fn cargo_command() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root());
    // In CI each crate is compiled once, so files for the next compilation only take time.
    if is_ci() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// Returns true in continuous integration.
pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some()
}

/// Arguments of cargo for clippy, which must find nothing.
pub(crate) const CLIPPY: [&str; 7] =
    ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];

/// Runs cargo in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Outcome {
    let mut command = cargo_command();
    finish(command.args(arguments), &format!("cargo {}", arguments.join(" ")))
}

/// Builds programs of the workspace: `--bins`, or `--bin` with a name.
///
/// `--workspace` and `--examples` (there are none) make Cargo select the features that it also selects for
/// `cargo test --workspace`, including those of dev-dependencies. With other features it would compile most
/// crates a second time. Not for releases: the tests' features include fault injection.
pub(crate) fn build(programs: &[&str]) -> Outcome {
    cargo(&[&["build", "--workspace", "--examples"], programs].concat())
}

/// Runs a program in the workspace.
pub(crate) fn program(path: &Path, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    finish(command.current_dir(root()).args(arguments), &format!("{name} {}", arguments.join(" ")))
}

/// Prints `name` and runs a command to its end; an error contains `name`.
pub(crate) fn finish(command: &mut Command, name: &str) -> Outcome {
    eprintln!("xtask: {name}");
    let status =
        command.status().map_err(|error| format!("`{name}` cannot be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{name}` failed")) }
}

/// Builds and serves the suite.
pub(crate) fn suite(arguments: &[String]) -> Outcome {
    machine::need(&[
        machine::POSTGRES,
        machine::GIT,
        machine::PERL,
        machine::BUBBLEWRAP,
        machine::DAEMONTOOLS,
    ])?;
    machine::need_network_programs()?;
    build(&["--bin", "tenantry"])?;
    let mut command = Command::new(root().join("target/debug/tenantry"));
    // All deployed code is the developer's own, so it needs no isolation.
    let flags = ["--local-repositories", "true", "--allow-weak-isolation", "true"];
    command.current_dir(root()).args(flags);
    command.args(arguments.iter().filter(|it| *it != "--"));
    finish(&mut command, &format!("tenantry {}", flags.join(" ")))
}
