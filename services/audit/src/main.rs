//! The audit service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    host::process::main("audit", audit::install)
}
