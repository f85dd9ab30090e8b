//! Program of the project service, for deployments with one process per service.

use std::process::ExitCode;

fn main() -> ExitCode {
    host::process::main("project", project::install)
}
