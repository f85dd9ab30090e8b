//! `cargo xtask …`: the only entry point, for people and for CI. Needs nothing but cargo: it installs what
//! is missing, and says so. No dependencies, so that it builds in a second.

mod advisories;
mod generate;
mod machine;
mod rules;
mod run;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask run [-- flags]   the suite on its embedded default; Ctrl-C stops it
cargo xtask test [filter]    everything that CI checks: lint, generated files, every test
cargo xtask lint             fmt, clippy, buf lint, cargo deny
cargo xtask gen              the checked queries (.sqlx), golden files, the README's table
cargo xtask check            compiles everything, no more
cargo xtask bench            benchmarks, each beside its reference
cargo xtask fuzz [seconds]   every fuzz target, one after the other, a minute each or that long
cargo xtask advisories CLONE renews advisories.txt from a clone of the RustSec advisory database
";

/// Anything that can go wrong, as one sentence.
type Outcome<T = ()> = Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let outcome = match arguments.first().map(String::as_str) {
        Some("run") => run::suite(rest),
        Some("test") => test(rest),
        Some("lint") => lint(),
        Some("gen") => generate::all(),
        Some("check") => run::cargo(&["check", "--workspace", "--all-targets"]),
        Some("bench") => bench(rest),
        Some("fuzz") => fuzz(rest),
        Some("advisories") => match rest {
            [clone] => advisories::renew(clone.as_ref()),
            _ => Err("name the clone: cargo xtask advisories CLONE".to_owned()),
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

fn lint() -> Outcome {
    run::cargo(&["fmt", "--all", "--check"])?;
    let buf = machine::buf()?;
    run::program(&buf, &["lint"])?;
    run::program(&buf, &["format", "--diff", "--exit-code", "--path", "proto/tenantry"])?;
    let deny = machine::cargo_deny()?;
    let checks = ["--workspace", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
    run::program(&deny, &checks)?;
    advisories::check(&deny)?;
    run::cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

fn test(filter: &[String]) -> Outcome {
    machine::need(&[
        machine::POSTGRES,
        machine::NATS,
        machine::GIT,
        machine::PERL,
        machine::BROWSER,
        machine::BUBBLEWRAP,
    ])?;
    machine::want_networks()?;
    machine::oidc()?;
    if filter.is_empty() {
        lint()?;
        generate::check()?;
        // What tests note here is looked at after them.
        let _ = std::fs::remove_dir_all(run::root().join("target/told"));
    }
    // The stories start real processes.
    run::cargo(&["build", "--workspace", "--bins"])?;
    let mut test = run::cargo_command();
    test.args(["test", "--workspace", "--"]).args(filter);
    // Each fuzz target gets a minute in CI, and a second of a developer's time.
    let budget_s = if std::env::var_os("CI").is_some() { 60 } else { 1 };
    test.env(FUZZ_BUDGET_MS, (budget_s * 1_000).to_string());
    let outcome = run::finish(&mut test, "cargo test --workspace");
    machine::stop_test_postgres();
    outcome
}

/// The time that each fuzz target takes, in milliseconds.
const FUZZ_BUDGET_MS: &str = "BOLERO_RANDOM_TEST_TIME_MS";

/// Runs every fuzz target; each says how many inputs it has seen.
fn fuzz(seconds: &[String]) -> Outcome {
    let seconds = seconds.first().map_or("60", String::as_str);
    let budget_s: u64 =
        seconds.parse().map_err(|_| format!("{seconds} is no number of seconds"))?;
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
