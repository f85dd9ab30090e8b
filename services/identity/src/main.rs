//! The identity service as a separate process.

use std::process::ExitCode;

fn main() -> ExitCode {
    host::process::main("identity", identity::install)
}
