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

use std::{path::PathBuf, process::ExitCode};

const HELP: &str = "\
cargo xtask run [-- FLAGS]   starts the suite with a private PostgreSQL; Ctrl-C stops it
cargo xtask test [FILTER]    runs everything that CI checks: lint, generated files, documents, all tests
cargo xtask lint             runs rustfmt, clippy, buf and cargo-deny
cargo xtask gen              updates generated files: .sqlx, golden files, docs/reference, settings
cargo xtask gen --check      fails if a generated file is not up to date
cargo xtask docs             checks links, builds the book, runs the examples of the guides
cargo xtask check            compiles everything
cargo xtask bench [NAME]     runs the benchmarks whose names contain NAME, each with its reference
cargo xtask containers       builds the images and runs the demo with compose; needs a container engine
cargo xtask cluster          rolls deploy/kubernetes out on a cluster; needs root, Go and a container engine
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
        Some("lint") => lint(machine::cargo_deny().map(Some)),
        Some("gen") if rest == ["--check"] => generate::check(),
        Some("gen") => generate::all(),
        Some("docs") => docs::check(),
        Some("check") => run::cargo(&["check", "--workspace", "--all-targets"]),
        Some("bench") => bench(rest),
        Some("fuzz") => fuzz(rest),
        Some("containers") => containers::check(),
        Some("cluster") => cluster::check(),
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

/// Runs the linters. `deny` is the path of cargo-deny; `None` skips its checks.
fn lint(deny: Outcome<Option<PathBuf>>) -> Outcome {
    run::cargo(&["fmt", "--all", "--check"])?;
    let buf = machine::buf()?;
    run::program(&buf, &["lint"])?;
    run::program(&buf, &["format", "--diff", "--exit-code", "--path", "proto/tenantry"])?;
    if let Some(deny) = deny? {
        let checks =
            ["--workspace", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
        run::program(&deny, &checks)?;
        advisories::check(&deny)?;
    } else {
        eprintln!("xtask: cargo-deny is not installed; `cargo xtask lint` installs and runs it");
    }
    run::cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
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
    ])?;
    machine::need_network_programs()?;
    machine::oidc()?;
    machine::caddy()?;
    machine::prometheus()?;
    if filter.is_empty() {
        let is_ci = std::env::var_os("CI").is_some();
        // Only CI installs cargo-deny for the tests, because compiling it takes minutes.
        let deny =
            if is_ci { machine::cargo_deny().map(Some) } else { Ok(machine::find_cargo_deny()) };
        lint(deny)?;
        generate::check()?;
        docs::links()?;
        // Without the containers: their images take several minutes to build.
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
    // Each fuzz target runs for a minute in CI, and for a second elsewhere.
    let budget_s = if std::env::var_os("CI").is_some() { 60 } else { 1 };
    test.env(FUZZ_BUDGET_MS, (budget_s * 1_000).to_string());
    let outcome = run::finish(&mut test, "cargo test --workspace");
    machine::stop_test_postgres();
    outcome?;
    if filter.is_empty() { coverage::check() } else { Ok(()) }
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

fn bench(filter: &[String]) -> Outcome {
    machine::need(&[machine::POSTGRES, machine::NATS])?;
    run::cargo(&["build", "--profile", "bench-run", "--package", "tenantry"])?;
    let mut bench = vec!["run", "--profile", "bench-run", "--package", "bench", "--"];
    bench.extend(filter.iter().map(String::as_str));
    run::cargo(&bench)
}
