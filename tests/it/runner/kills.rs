//! Kills (`SIGKILL`) of the runner, the proxy and the container engine in each step of a deployment: what was
//! served is served again without a person, the task ends, and nothing is left over.

mod drill;

use testkit::{Containers, Engine, Suite, eventually};

use super::conformance::bench::Helper;
use drill::{Drill, Programs, Step};

/// Kills the runner in each step, and starts another one.
async fn kill_runners(drill: &mut Drill<'_>) {
    for step in Step::ALL {
        let before = drill.page().await;
        let deployment = drill.deploy_until(step).await;
        drill.site.kill_runner();
        if step == Step::Route {
            // It is suspended.
            drill.site.kill_proxy();
        }
        if step.is_before_switch() {
            assert_eq!(drill.page().await, before, "{step:?}: the proxy needs no runner");
        }
        drill.open_gates();
        drill.expire_lease();
        drill.site.start_runner();
        drill.expect_completed(deployment).await;
    }
}

/// Kills the proxy in each step after the checkout.
async fn kill_proxies(drill: &mut Drill<'_>) {
    for step in [Step::Build, Step::Start, Step::Route, Step::Drain] {
        let before = drill.page().await;
        let deployment = drill.deploy_until(step).await;
        drill.site.kill_proxy();
        if step.is_before_switch() {
            assert_eq!(drill.next_page().await, before, "{step:?}: another proxy");
        }
        drill.open_gates();
        drill.expect_completed(deployment).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_are_served_after_kills_of_runner_and_proxy() {
    let suite = Suite::start().await;
    let mut drill = Drill::new(&suite, Programs::Sandboxes).await;
    kill_runners(&mut drill).await;
    kill_proxies(&mut drill).await;
    drill.destroy().await;
    drill.site.finish(suite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_served_after_kills_of_runner_and_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let Some(engine) = Engine::own(folder.path(), Containers::GoOn).await else { return };
    let images = engine.images().await;
    let suite = Suite::start().await;
    let mut drill = Drill::new(&suite, Programs::Containers(&engine)).await;
    kill_runners(&mut drill).await;
    kill_proxies(&mut drill).await;

    // The build of a Dockerfile ends with its runner, and leaves no layer.
    let step = drill.begin_endless_dockerfile().await;
    drill.site.kill_runner();
    step.ended().await;
    drill.expire_lease();
    drill.end_dockerfile();
    drill.site.start_runner();
    drill.expect_completed_dockerfile().await;
    drill.destroy().await;
    assert_eq!(engine.objects_of(&drill.id).await, Vec::<String>::new());
    assert_eq!(engine.images().await, images, "layers of the ended build");
    drill.site.finish(suite).await;
}

/// With `live-restore` containers go on. A deployment whose engine ends fails or completes.
#[tokio::test(flavor = "multi_thread")]
async fn containers_are_served_while_their_engine_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut engine) = Engine::own(folder.path(), Containers::GoOn).await else { return };
    let images = engine.images().await;
    let suite = Suite::start().await;
    let mut drill = Drill::new(&suite, Programs::Containers(&engine)).await;
    for step in [Step::Build, Step::Start, Step::Drain] {
        let before = drill.page().await;
        let deployment = drill.deploy_until(step).await;
        engine.kill();
        if step.is_before_switch() {
            assert_eq!(drill.page().await, before, "{step:?}: the proxy needs no engine");
        }
        engine.start_again().await;
        drill.open_gates();
        drill.expect_end(deployment).await;
        drill.expect_one_container(&engine).await;
    }
    let before = drill.page().await;
    engine.kill_containerd().await;
    assert_eq!(drill.page().await, before, "containers do not need containerd");

    // The step of a build goes on without its engine: it is removed with its environment. The engine is
    // killed as soon as the step runs, most often before the engine has recorded that.
    let step = drill.begin_endless_dockerfile().await;
    engine.kill_and_start().await;
    drill.expect_failed_dockerfile().await;
    drill.destroy().await;
    step.ended().await;
    assert_eq!(engine.objects_of(&drill.id).await, Vec::<String>::new());
    assert_eq!(engine.images().await, images, "layers of the ended build");
    drill.site.finish(suite).await;
}

/// Without `live-restore` containers end with the engine, and the runner starts them again, however long the
/// engine takes. A runner that starts before the engine waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn containers_that_end_with_their_engine_are_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut engine) = Engine::own(folder.path(), Containers::AreKilled).await else { return };
    let suite = Suite::start().await;
    let mut drill = Drill::new(&suite, Programs::Containers(&engine)).await;
    let before = drill.page().await;

    // The machine has lost all of its processes, and the engine starts after the runner.
    engine.kill();
    drill.site.kill_runner();
    drill.site.kill_proxy();
    drill.kill_program().await;
    drill.site.start_runner();
    eventually("a runner that waits for the engine", async || {
        drill.site.runner_log().contains("waiting for the container engine").then_some(())
    })
    .await;
    engine.start_again().await;
    assert_eq!(drill.next_page().await, before);

    // The engine is away for longer than all restarts of a program take.
    engine.kill();
    drill.kill_program().await;
    drill.wait_for_rounds_without_engine(12).await;
    engine.start_again().await;
    assert_eq!(drill.next_page().await, before);
    let deployment = drill.deploy_until(Step::Start).await;
    engine.kill_and_start().await;
    drill.open_gates();
    drill.expect_end(deployment).await;
    drill.destroy().await;
    assert_eq!(engine.objects_of(&drill.id).await, Vec::<String>::new());
    drill.site.finish(suite).await;
}
