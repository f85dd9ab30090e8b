//! `cargo xtask …`: the only entry point, for people and for CI. Needs nothing but cargo: it installs what
//! is missing, and says so. No dependencies, so that it builds in a second.

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
    // The advisory database is not reachable from everywhere; the floors in deny.toml stand in for it.
    run::program(
        &deny,
        &["--workspace", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"],
    )?;
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
    let mut test = vec!["test", "--workspace", "--"];
    test.extend(filter.iter().map(String::as_str));
    let outcome = run::cargo(&test);
    machine::stop_test_postgres();
    outcome
}

fn bench(filter: &[String]) -> Outcome {
    machine::need(&[machine::POSTGRES, machine::NATS])?;
    run::cargo(&["build", "--profile", "bench-run", "--package", "tenantry"])?;
    let mut bench = vec!["run", "--profile", "bench-run", "--package", "bench", "--"];
    bench.extend(filter.iter().map(String::as_str));
    run::cargo(&bench)
}
