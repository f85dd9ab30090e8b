//! Promises about memory limits. A runner that is not root has no control groups: it limits each process,
//! whose allocation then fails.

use api::project::{Lease, Observed, Resources, TaskKind};

use super::{Bench, SERVE, SERVE_ONCE};

/// Shell command that uses this much memory, in MiB.
fn use_memory(mb: u32) -> String {
    format!(r#"python3 -c "x = b'x' * ({mb} << 20)""#)
}

/// A lease of an environment with the least memory, 256 MiB.
fn small_lease(bench: &Bench, environment: &str) -> Lease {
    let resources = Some(Resources { cpu_cores: 1.0, memory_mb: 256, disk_gb: 1 });
    Lease { resources, ..bench.lease(TaskKind::Deploy, environment) }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(in super::super) async fn a_build_has_more_memory_than_its_program(bench: &Bench) {
    bench.commit("one", &use_memory(350), SERVE);
    bench.play(&small_lease(bench, &bench.environment())).await.outcome();
}

/// A build of which a process was killed because of its memory limit fails at once, even if it would go on.
pub(in super::super) async fn a_build_fails_at_its_memory_limit(bench: &Bench) {
    if !is_root() {
        return;
    }
    bench.commit(
        "one",
        &format!("echo started; {}; echo goes on; sleep 3600", use_memory(700)),
        SERVE,
    );
    let played = bench.play(&small_lease(bench, &bench.environment())).await;
    let expected = "the build exceeded its memory limit of 512 MiB";
    assert!(played.log.contains(expected), "{}", played.log);
    let error = played.error();
    for part in [expected, "build-memory-mb", "last output of the build:\nstarted"] {
        assert!(error.contains(part), "{error}");
    }
}

/// The error of a start, and that of a program that ended again and again, name the limit.
pub(in super::super) async fn a_program_fails_with_the_memory_limit_that_it_exceeded(
    bench: &Bench,
) {
    if !is_root() {
        return;
    }
    let expected = "exceeded the memory limit of its environment, 256 MiB";
    bench.commit("one", "true", &format!("exec {}", use_memory(350)));
    let played = bench.play(&small_lease(bench, &bench.environment())).await;
    assert!(played.log.contains(expected), "{}", played.log);
    let error = played.error();
    assert!(error.contains(expected) && error.contains("raise memory_mb"), "{error}");

    let grow = r#"my $x = "x" x (1 << 20); $x .= $x for 1..9"#;
    bench.commit("two", "true", &SERVE_ONCE.replace("exit 7", grow));
    let id = bench.environment();
    bench.play(&small_lease(bench, &id)).await.outcome();
    bench.supervise_until(&id, Observed::Failed).await;
    let detail = bench.report(&id).await.detail;
    assert!(detail.contains(expected), "{detail}");
}
