//! `tenantry`: without a verb the whole suite in one process, with a verb one of its tools.

use std::process::ExitCode;

/// Small messages, many allocations: the default allocator costs about a tenth of the throughput.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tenantry::main()
}
