//! The program `tenantry`: without a subcommand all services in one process, else one of the tools.

use std::process::ExitCode;

fn main() -> ExitCode {
    tenantry::main()
}
