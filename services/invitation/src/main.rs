//! The invitation service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::process::main("invitation", invitation::install)
}
