//! The program `tenantry-runner`: the runner of a connected server.

use std::process::ExitCode;

fn main() -> ExitCode {
    runner::program::main()
}
