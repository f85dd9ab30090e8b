//! The promises.

mod code;
mod commands;
mod health_checks;
mod memory;
mod output;

use api::project::{Lease, Observed, TaskKind};
use testkit::eventually;

use super::bench::{Bench, Helper, with_secret};
use crate::support::hosting::{response, visit};
pub(super) use code::*;
pub(super) use commands::*;
pub(super) use health_checks::*;
pub(super) use memory::*;
pub(super) use output::*;

const SERVE: &str = "exec perl server.pl";

/// An HTTP server that answers one request and ends with exit code 7.
const SERVE_ONCE: &str = r#"exec perl -MIO::Socket::INET -e '
    my $s = IO::Socket::INET->new(LocalAddr => $ENV{HOST}, LocalPort => $ENV{PORT}, Listen => 4,
        ReuseAddr => 1) or die "$!";
    my $c = $s->accept; <$c>; print $c "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nx";
    close $c; sleep 1; exit 7'"#;

pub(super) async fn a_deployed_program_serves_until_it_is_stopped(bench: &Bench) {
    let id = bench.environment();
    let (deployed, url) = bench.deploy(&id).await;
    assert!(bench.page(&url).await.starts_with("one\n"));
    let report = bench.report(&id).await;
    assert_eq!((report.observed(), report.http_ok), (Observed::Running, true));
    assert_eq!((report.url, report.release), (url.clone(), deployed.release.clone()));
    bench.operate(TaskKind::Stop, &deployed).await.outcome();
    assert_eq!(visit(&url, "/").await, None);
    assert_eq!(bench.report(&id).await.observed(), Observed::Stopped);
}

pub(super) async fn a_started_program_keeps_its_data(bench: &Bench) {
    let id = bench.environment();
    let (deployed, url) = bench.deploy(&id).await;
    response(&url, "/keep/apples").await;
    bench.operate(TaskKind::Stop, &deployed).await.outcome();
    let started = bench.operate(TaskKind::Start, &deployed).await.outcome();
    assert!(bench.page(&started.url).await.contains("kept: apples"));
}

pub(super) async fn a_paused_program_does_not_serve_until_it_is_resumed(bench: &Bench) {
    let id = bench.environment();
    let (deployed, url) = bench.deploy(&id).await;
    bench.operate(TaskKind::Pause, &deployed).await.outcome();
    assert_eq!(visit(&url, "/").await, None);
    assert_eq!(bench.report(&id).await.observed(), Observed::Paused);
    bench.operate(TaskKind::Resume, &deployed).await.outcome();
    assert!(bench.page(&url).await.starts_with("one\n"));
}

/// A runner that crashes before it reports the result of a task executes the task again.
pub(super) async fn a_repeated_task_has_the_same_result(bench: &Bench) {
    let id = bench.environment();
    let (deployed, url) = bench.deploy(&id).await;
    assert_eq!(bench.play(&deployed).await.outcome().url, url);
    for kind in [TaskKind::Stop, TaskKind::Stop, TaskKind::Start, TaskKind::Start] {
        bench.operate(kind, &deployed).await.outcome();
    }
    let synced = bench.operate(TaskKind::Sync, &deployed).await.outcome();
    assert_eq!(synced.observed, Some(Observed::Running));
}

pub(super) async fn a_failed_deployment_leaves_the_running_version(bench: &Bench) {
    let id = bench.environment();
    let (_, url) = bench.deploy(&id).await;
    for (build, run, reason) in
        [("exit 3", SERVE, "the build failed"), ("true", "exit 4", "ended before it was healthy")]
    {
        bench.commit("two", build, run);
        let failed = bench.play(&bench.lease(TaskKind::Deploy, &id)).await.error();
        assert!(failed.contains(reason), "{failed}");
        assert_eq!(bench.driver.observed(&id).await, Some(Observed::Running));
        assert!(bench.page(&url).await.starts_with("one\n"));
    }
}

/// `localhost` and the host name of the sandbox resolve without a name server.
pub(super) async fn local_names_resolve(bench: &Bench) {
    let names = "getent hosts localhost >/dev/null && getent hosts $(uname -n) >/dev/null";
    bench.commit("names", names, SERVE);
    bench.deploy(&bench.environment()).await;
}

/// The health check waits for a response as long as `timeout_s` allows.
pub(super) async fn a_slow_health_page_has_the_whole_time(bench: &Bench) {
    let slow = SERVE_ONCE.replace("print $c", "sleep 3; print $c").replace("exit 7", "sleep 60");
    bench.commit("slow", "true", &slow);
    bench.deploy(&bench.environment()).await;
}

/// A check that takes longer than a report waits has a result, and the program is healthy meanwhile.
pub(super) async fn a_slow_running_program_is_healthy(bench: &Bench) {
    let server = r#"exec perl -MIO::Socket::INET -e '
        my $s = IO::Socket::INET->new(LocalAddr => $ENV{HOST}, LocalPort => $ENV{PORT}, Listen => 4,
            ReuseAddr => 1) or die "$!";
        $SIG{CHLD} = "IGNORE";
        while (my $c = $s->accept) {
            next if fork;
            my $line = <$c>;
            my $count = (-s "$ENV{DATA_DIR}/checks") // 0;
            sleep 3 unless $line =~ /count/;
            print $c "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n$count"; close $c;
            exit if $line =~ /count/;
            open my $f, ">>", "$ENV{DATA_DIR}/checks"; print $f "x"; close $f; exit;
        }'"#;
    bench.commit("slow", "true", server);
    let id = bench.environment();
    let (_, url) = bench.deploy(&id).await;
    eventually("three answered checks", async || {
        assert!(bench.report(&id).await.http_ok);
        let count = visit(&url, "/count").await?;
        (count.parse::<u32>().unwrap() >= 3).then_some(())
    })
    .await;
}

/// A program that no longer responds is unhealthy, and delays no report.
pub(super) async fn a_silent_program_is_unhealthy(bench: &Bench) {
    bench.commit("silent", "true", &SERVE_ONCE.replace("exit 7", "sleep 600"));
    let id = bench.environment();
    bench.deploy(&id).await;
    eventually("an unhealthy report", async || {
        let report = bench.report(&id).await;
        assert_eq!(report.observed(), Observed::Running);
        (!report.http_ok).then_some(())
    })
    .await;
}

pub(super) async fn a_program_that_is_not_healthy_in_time_fails(bench: &Bench) {
    let helper = Helper::new();
    bench.commit_with_timeout("deaf", "true", &format!("{} sleep 600", helper.command()), 1);
    let id = bench.environment();
    let error = bench.play(&bench.lease(TaskKind::Deploy, &id)).await.error();
    assert!(error.contains("no HTTP response on $HOST:$PORT"), "{error}");
    helper.ended().await;
    assert_eq!(bench.driver.observed(&id).await, None, "nothing was ever deployed");
}

/// `/tmp` is on disk: its files count towards the disk limit, not as memory, and end with the sandbox.
pub(super) async fn temporary_files_are_on_disk(bench: &Bench) {
    let build = "cd $(dirname $(mktemp -u)); stat -f -c 'type=%T' .; touch mark; ls";
    bench.commit("one", build, SERVE);
    let id = bench.environment();
    let played = bench.play(&bench.lease(TaskKind::Deploy, &id)).await;
    assert!(played.log.contains("type=") && !played.log.contains("type=tmpfs"), "{}", played.log);
    let url = played.outcome().url;
    let before = bench.report(&id).await;
    let build = "cd $(dirname $(mktemp -u)); head -c 30000000 /dev/zero > large; du -sm .";
    bench.commit("two", build, SERVE);
    let played = bench.play(&bench.lease(TaskKind::Deploy, &id)).await;
    assert!(played.log.contains("29\t."), "{}", played.log);
    assert_ne!(url, played.outcome().url);
    bench.driver.measure().await;
    assert!(bench.report(&id).await.disk_bytes - before.disk_bytes < 20_000_000, "removed");
}

/// A background process of a build does not delay the deployment by its open output.
pub(super) async fn a_build_ends_with_its_command(bench: &Bench) {
    let helper = Helper::new();
    bench.commit("one", &format!("{} echo built", helper.command()), SERVE);
    let played = bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await;
    assert!(played.log.contains("built"), "{}", played.log);
    let url = played.outcome().url;
    helper.ended().await;
    assert!(bench.page(&url).await.starts_with("one\n"));
}

pub(super) async fn no_process_outlives_a_failed_start(bench: &Bench) {
    let helper = Helper::new();
    bench.commit("one", "true", &format!("{} exit 3", helper.command()));
    let error = bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await.error();
    assert!(error.contains("exit status: 3"), "{error}");
    helper.ended().await;
}

pub(super) async fn no_process_outlives_a_failed_build(bench: &Bench) {
    let helper = Helper::new();
    bench.commit("one", &format!("setsid {} exit 3", helper.command()), SERVE);
    bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await.error();
    helper.ended().await;
}

pub(super) async fn no_process_outlives_a_cancelled_deployment(bench: &Bench) {
    let helper = Helper::new();
    for (build, run) in [
        (format!("{} sleep 600", helper.command()), SERVE.to_owned()),
        ("true".to_owned(), format!("{} sleep 600", helper.command())),
    ] {
        bench.commit("one", &build, &run);
        let lease = bench.lease(TaskKind::Deploy, &bench.environment());
        let started = eventually("the helper", async || helper.is_running().then_some(()));
        tokio::select! {
            played = bench.play(&lease) => panic!("{}", played.error()),
            () = started => {}
        }
        bench.driver.abandon(&lease).await.unwrap();
        helper.ended().await;
    }
}

pub(super) async fn no_process_outlives_a_replaced_version(bench: &Bench) {
    let helper = Helper::new();
    bench.commit("one", "true", &format!("{} {SERVE}", helper.stubborn_command()));
    let id = bench.environment();
    bench.deploy(&id).await;
    assert!(helper.is_running());
    bench.commit("two", "true", SERVE);
    let (_, url) = bench.deploy(&id).await;
    helper.ended().await;
    assert!(bench.page(&url).await.starts_with("two\n"));
}

pub(super) async fn no_process_outlives_a_program_that_ended(bench: &Bench) {
    let helper = Helper::new();
    let run = format!("if [ -e $DATA_DIR/kept ]; then exit 9; fi; {} {SERVE}", helper.command());
    bench.commit("one", "true", &run);
    let id = bench.environment();
    let (_, url) = bench.deploy(&id).await;
    response(&url, "/keep/broken").await;
    assert!(helper.is_running());
    response(&url, "/end").await;
    let has_ended = async || {
        bench.driver.reconcile().await;
        (!helper.is_running()).then_some(())
    };
    eventually("the end of the helper", has_ended).await;
}

pub(super) async fn no_process_outlives_a_destroyed_environment(bench: &Bench) {
    let helper = Helper::new();
    bench.commit("one", "true", &format!("{} {SERVE}", helper.stubborn_command()));
    let id = bench.environment();
    let (_, url) = bench.deploy(&id).await;
    bench.driver.destroy(&id).await.unwrap();
    assert!(!helper.is_running());
    assert_eq!(visit(&url, "/").await, None);
    assert!(bench.driver.reports().await.iter().all(|it| it.environment_id != id));
}

/// Each run of the program lasts a second, so it is healthy whenever it is looked at.
pub(super) async fn a_program_that_ends_again_and_again_fails(bench: &Bench) {
    bench.commit("one", "true", SERVE_ONCE);
    let id = bench.environment();
    bench.deploy(&id).await;
    bench.supervise_until(&id, Observed::Failed).await;
    let report = bench.report(&id).await;
    assert_eq!((report.restart_count, report.last_exit_code), (5, Some(7)));
    assert!(report.detail.contains("its last exit code is 7"), "{}", report.detail);
    assert_eq!(bench.driver.observed(&id).await, Some(Observed::Failed));
}

/// A version carries the variables that it was deployed with.
pub(super) async fn a_rollback_uses_the_variables_of_its_deployment(bench: &Bench) {
    let id = bench.environment();
    let (first, _) = bench.deploy_with(&id, "first").await;
    bench.deploy_with(&id, "second").await;
    let rollback = bench.lease(TaskKind::Rollback, &id);
    let rollback = with_secret(Lease { release: first.release, ..rollback }, "third");
    let played = bench.play(&rollback).await;
    let expected =
        "using the variables of that deployment; these differ from the current ones: SECRET";
    assert!(played.log.contains(expected), "{}", played.log);
    let url = played.outcome().url;
    assert!(bench.page(&url).await.contains("secret: first"));
}

/// A copy has the files of the source, and none that only the overwritten target had. The source serves on.
pub(super) async fn a_copy_has_the_data_of_its_source(bench: &Bench) {
    let (source, target) = (bench.environment(), bench.environment());
    let (deployed, url) = bench.deploy(&source).await;
    response(&url, "/keep/apples").await;
    let (_, target_url) = bench.deploy(&target).await;
    response(&target_url, "/keep/pears").await;
    let copy = Lease {
        source_environment_id: source.clone(),
        source_release: deployed.release,
        ..bench.lease(TaskKind::Clone, &target)
    };
    let copied = bench.play(&copy).await.outcome();
    let page = bench.page(&copied.url).await;
    assert!(page.contains("kept: apples\n") && !page.contains("pears"), "{page}");
    response(&copied.url, "/keep/plums").await;
    let page = bench.page(&url).await;
    assert!(page.contains("kept: apples\n"), "{page}");
}

pub(super) async fn a_failed_copy_leaves_its_target(bench: &Bench) {
    let (source, target) = (bench.environment(), bench.environment());
    bench.deploy(&source).await;
    let (_, url) = bench.deploy(&target).await;
    response(&url, "/keep/pears").await;
    let copy = Lease {
        source_environment_id: source,
        source_release: chassis::id::new().to_string(),
        ..bench.lease(TaskKind::Clone, &target)
    };
    let error = bench.play(&copy).await.error();
    assert!(error.contains("copy it again"), "{error}");
    bench.driver.abandon(&copy).await.unwrap();
    assert!(bench.page(&url).await.contains("kept: pears"));
    assert_eq!(bench.driver.observed(&target).await, Some(Observed::Running));
}
