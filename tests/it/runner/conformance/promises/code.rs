//! Promises about the code of a version and its sandbox.

use api::project::{Lease, TaskKind};

use super::{Bench, SERVE};

/// `/etc/passwd` and `/etc/group` of the sandbox have the account of the environment.
pub(in super::super) async fn accounts_of_the_sandbox_have_names(bench: &Bench) {
    let build = "test $(id -un) = environment && test $(id -gn) = environment";
    bench.commit("one", build, &format!("{build} && {SERVE}"));
    bench.deploy(&bench.environment()).await;
}

/// A build sees the repository in `.git`; a program sees no such directory, also after a rollback.
pub(in super::super) async fn a_program_does_not_see_the_repository(bench: &Bench) {
    bench.commit("one", "test -e .git/HEAD", &format!("test ! -e .git && {SERVE}"));
    let id = bench.environment();
    let (first, _) = bench.deploy(&id).await;
    bench.commit("two", "test -e .git/HEAD", &format!("test ! -e .git && {SERVE}"));
    bench.deploy(&id).await;
    let rollback = Lease { release: first.release, ..bench.lease(TaskKind::Rollback, &id) };
    let url = bench.play(&rollback).await.outcome().url;
    assert!(bench.page(&url).await.starts_with("one\n"));
}

/// A manifest can be a symbolic link to a file of the repository, but to no other.
pub(in super::super) async fn a_linked_manifest_is_read(bench: &Bench) {
    let repository = bench.repository.path();
    std::fs::create_dir(repository.join("deploy")).unwrap();
    std::fs::rename(repository.join("tenantry.toml"), repository.join("deploy/shop.toml")).unwrap();
    let link = |target: &str| {
        let _ = std::fs::remove_file(repository.join("tenantry.toml"));
        std::os::unix::fs::symlink(target, repository.join("tenantry.toml")).unwrap();
        bench.repository.commit("linked");
    };
    link("deploy/shop.toml");
    let (_, url) = bench.deploy(&bench.environment()).await;
    assert!(bench.page(&url).await.starts_with("linked\n"));
    for target in ["../record.json", "/etc/passwd", "/app/deploy/shop.toml"] {
        link(target);
        let failed = bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await;
        let error = failed.error();
        assert!(
            error.contains("tenantry.toml is a symbolic link that leaves the repository"),
            "{error}"
        );
    }
}

pub(in super::super) async fn processes_of_a_procfile_that_are_not_run_are_logged(bench: &Bench) {
    std::fs::remove_file(bench.repository.path().join("tenantry.toml")).unwrap();
    bench.repository.write("Procfile", "web: exec perl server.pl\nworker: ./work\n");
    bench.repository.commit("one");
    let played = bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await;
    assert!(played.log.contains("not run: worker of the Procfile"), "{}", played.log);
    let url = played.outcome().url;
    assert!(bench.page(&url).await.starts_with("one\n"));
}
