//! `cargo xtask …`: the entry point for people and CI. Needs only cargo, and installs other programs that are
//! missing. No dependencies, so that it builds in a second.

mod advisories;
mod cluster;
mod containers;
mod coverage;
mod docs;
mod examples;
mod generate;
mod machine;
mod reference;
mod rules;
mod run;

use std::process::ExitCode;

use containers::{Kills, Programs};

const HELP: &str = "\
cargo xtask run [-- FLAGS]   starts the suite with a private PostgreSQL; Ctrl-C stops it
cargo xtask test [FILTER]    runs everything that CI checks: lint, generated files, documents, all tests
cargo xtask lint             runs rustfmt, clippy, buf and cargo-deny
cargo xtask gen              updates generated files: .sqlx, golden files, docs/reference, settings
cargo xtask gen --check      fails if clippy finds something, or a generated file is not up to date
cargo xtask docs             checks links, builds the book, runs the examples of the guides
cargo xtask check            compiles everything
cargo xtask bench [NAME]     runs the benchmarks whose names contain NAME, each with its reference
cargo xtask containers       builds the images, and runs demos with compose while containers are killed; with
                             --prebuilt from the programs of the tests. Needs a container engine, or root
cargo xtask cluster          rolls deploy/kubernetes out on a cluster; --prebuilt as above. Needs root and Go
cargo xtask chaos [SECONDS] [SEED]  runs three replicas of each service under load with faults (default: 900
                             seconds, another seed each time); needs root
cargo xtask scale            measures 1, 2 and 3 replicas of each service; needs root
cargo xtask traffic [REQUESTS] [CHANGES]  deploys, restarts and rolls back while visitors send requests
                             (default: 20000 and 60), in sandboxes and in containers; needs root
cargo xtask fuzz [SECONDS]   runs every fuzz target for SECONDS (default: 60)
cargo xtask advisories CLONE updates advisories.txt from a clone of the RustSec advisory database
";

/// Result of a command. An error is one sentence for people.
type Outcome<T = ()> = Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let outcome = match arguments.first().map(String::as_str) {
        Some("run") => run::suite(rest),
        Some("test") => test(rest),
        Some("lint") => lint_without_clippy().and_then(|()| run::cargo(&run::CLIPPY)),
        Some("gen") if rest == ["--check"] => generate::check(),
        Some("gen") => generate::all(),
        Some("docs") => docs::check(),
        Some("check") => run::cargo(&["check", "--workspace", "--all-targets"]),
        Some("bench") => bench(rest),
        Some("fuzz") => fuzz(rest),
        Some("containers") => programs(rest).and_then(|it| containers::check(it, Kills::All)),
        Some("chaos") => chaos(&[&["run".to_owned()], rest].concat()),
        Some("scale") => chaos(&["scale".to_owned()]),
        Some("cluster") => programs(rest).and_then(cluster::check),
        Some("traffic") => traffic(rest),
        Some("advisories") => match rest {
            [clone] => advisories::update(clone.as_ref()),
            _ => Err("the clone is missing: cargo xtask advisories CLONE".to_owned()),
        },
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("xtask: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the programs of images that options name; compiles those of the tests.
fn programs(options: &[String]) -> Outcome<Programs> {
    match options {
        [] => Ok(Programs::Compiled),
        [option] if option == "--prebuilt" => run::build(&["--bins"]).map(|()| Programs::OfTests),
        _ => Err("the only option is --prebuilt".to_owned()),
    }
}

/// Runs the linters except clippy.
fn lint_without_clippy() -> Outcome {
    run::cargo(&["fmt", "--all", "--check"])?;
    let buf = machine::buf()?;
    run::program(&buf, &["lint"])?;
    run::program(&buf, &["format", "--diff", "--exit-code", "--path", "proto/tenantry"])?;
    let deny = machine::cargo_deny()?;
    let checks = ["--workspace", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
    run::program(&deny, &checks)?;
    advisories::check(&deny)
}

fn test(filter: &[String]) -> Outcome {
    machine::need(&[
        machine::POSTGRES,
        machine::NATS,
        machine::GIT,
        machine::SSHD,
        machine::NAMED,
        machine::DIG,
        machine::PDNS,
        machine::PDNS_SQLITE,
        machine::SQLITE,
        machine::PEBBLE,
        machine::PERL,
        machine::BROWSER,
        machine::PGBOUNCER,
        machine::PROTOC,
        machine::PROTOBUF_FILES,
        machine::BUBBLEWRAP,
        machine::DAEMONTOOLS,
    ])?;
    machine::need_network_programs()?;
    machine::need_container_engine()?;
    machine::oidc()?;
    machine::caddy()?;
    machine::tryton()?;
    machine::prometheus()?;
    if filter.is_empty() {
        lint_without_clippy()?;
        // With clippy.
        generate::check()?;
        docs::links()?;
        containers::parse()?;
        coverage::reset();
    }
    // Some tests start the programs of the workspace.
    run::build(&["--bins"])?;
    let mut test = run::cargo_command();
    test.args(["test", "--workspace", "--"]).args(filter);
    // More threads than cores, because tests mostly wait for timers and processes.
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    test.env("RUST_TEST_THREADS", (cores * 2).to_string());
    // The messages of several failed tests stay readable.
    test.env("RUST_BACKTRACE", "0");
    // Each fuzz target runs for longer in CI.
    let budget_s = if run::is_ci() { 10 } else { 1 };
    test.env(FUZZ_BUDGET_MS, (budget_s * 1_000).to_string());
    let outcome = run::finish(&mut test, "cargo test --workspace");
    machine::stop_test_postgres();
    machine::stop_test_engine();
    outcome?;
    if filter.is_empty() {
        coverage::check()?;
    }
    // Only in CI, because the images take minutes to build.
    if filter.is_empty() && run::is_ci() { containers::check_if_possible() } else { Ok(()) }
}

/// Environment variable with the duration of each fuzz target, in milliseconds.
const FUZZ_BUDGET_MS: &str = "BOLERO_RANDOM_TEST_TIME_MS";

/// Runs every fuzz target; each prints the number of its inputs.
fn fuzz(seconds: &[String]) -> Outcome {
    let seconds = seconds.first().map_or("60", String::as_str);
    let budget_s: u64 =
        seconds.parse().map_err(|_| format!("{seconds} must be a number of seconds"))?;
    let mut test = run::cargo_command();
    test.args(["test", "--workspace", "--lib", "--", "fuzz::", "--test-threads=1", "--nocapture"]);
    test.env(FUZZ_BUDGET_MS, (budget_s * 1_000).to_string());
    run::finish(&mut test, "cargo test --workspace --lib fuzz::")
}

/// Runs the tests of traffic for longer, one after the other; each prints a line.
fn traffic(arguments: &[String]) -> Outcome {
    if !machine::is_root() {
        return Err("networks of environments need root; run the command as root".to_owned());
    }
    machine::need(&[
        machine::POSTGRES,
        machine::GIT,
        machine::PERL,
        machine::BUBBLEWRAP,
        machine::DAEMONTOOLS,
    ])?;
    machine::need_network_programs()?;
    machine::need_container_engine()?;
    machine::caddy()?;
    run::build(&["--bins"])?;
    let mut test = run::cargo_command();
    test.args(["test", "--workspace", "--test", "it", "--", "runner::traffic", "--nocapture"]);
    test.arg("--test-threads=1");
    test.env("TRAFFIC_REQUESTS", arguments.first().map_or("20000", String::as_str));
    test.env("TRAFFIC_CHANGES", arguments.get(1).map_or("60", String::as_str));
    let outcome = run::finish(&mut test, "cargo test runner::traffic");
    machine::stop_test_postgres();
    machine::stop_test_engine();
    outcome
}

fn bench(filter: &[String]) -> Outcome {
    machine::need(&[machine::POSTGRES, machine::NATS])?;
    machine::caddy()?;
    run::cargo(&["build", "--profile", "bench-run", "--package", "tenantry"])?;
    let mut bench = vec!["run", "--profile", "bench-run", "--package", "bench", "--"];
    bench.extend(filter.iter().map(String::as_str));
    run::cargo(&bench)
}

/// Runs the program `chaos` with its programs in namespaces of this machine.
fn chaos(arguments: &[String]) -> Outcome {
    if !machine::is_root() {
        return Err("network namespaces and mounts need root; run the command as root".to_owned());
    }
    machine::need(&[machine::POSTGRES, machine::NATS, machine::EXT4, machine::PYTHON])?;
    machine::need_network_programs()?;
    machine::caddy()?;
    run::build(&["--bins"])?;
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    run::program(&run::root().join("target/debug/chaos"), &arguments)
}
