//! The program `tenantry`: without a subcommand all services in one process, else one of the tools.

use std::process::ExitCode;

/// mimalloc, because the default allocator reduces the throughput of small gRPC messages by about 10 %.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tenantry::main()
}
