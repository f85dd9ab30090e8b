//! The invitation service as a program.

use std::process::ExitCode;

fn main() -> ExitCode {
    host::process::main("invitation", invitation::install)
}
