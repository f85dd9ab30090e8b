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
    command
}

/// Runs cargo in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Outcome {
    let mut command = cargo_command();
    finish(command.args(arguments), &format!("cargo {}", arguments.join(" ")))
}

/// Runs a program in the workspace.
pub(crate) fn program(path: &Path, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    finish(command.current_dir(root()).args(arguments), &format!("{name} {}", arguments.join(" ")))
}

/// Prints the name of a command and runs it; fails with the name.
pub(crate) fn finish(command: &mut Command, name: &str) -> Outcome {
    eprintln!("xtask: {name}");
    let status =
        command.status().map_err(|error| format!("`{name}` cannot be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{name}` failed")) }
}

/// Builds and serves the suite.
pub(crate) fn suite(arguments: &[String]) -> Outcome {
    machine::need(&[machine::POSTGRES, machine::GIT, machine::PERL, machine::BUBBLEWRAP])?;
    machine::need_network_programs()?;
    cargo(&["build", "--package", "tenantry"])?;
    let mut command = Command::new(root().join("target/debug/tenantry"));
    // For trying out: all deployed code is the developer's own.
    let trusting = ["--local-repositories", "true", "--allow-weak-isolation", "true"];
    command.current_dir(root()).args(trusting);
    command.args(arguments.iter().filter(|it| *it != "--"));
    finish(&mut command, &format!("tenantry {}", trusting.join(" ")))
}
