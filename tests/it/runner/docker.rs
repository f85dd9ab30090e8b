//! Environments in containers: images of a Dockerfile and their removal, what destroy leaves, and runners and
//! engines that end.

use api::project::{Lease, LogQuery, Observed, TaskKind};
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use serde_json::json;
use testkit::{BASE_IMAGE, Containers, Engine, Options, Suite};
use tokio::sync::mpsc;

use super::conformance::{Docker, DockerOf, bench::Bench};
use crate::support::hosting::{Hosting, response};

/// A Dockerfile whose build has another result each time.
fn dockerfile() -> String {
    format!(
        "FROM {BASE_IMAGE}\nWORKDIR /srv\nCOPY server.pl ./\n\
         RUN head -c 8 /dev/urandom | od -An -tx1 > /srv/built\nCOPY page.txt ./\n\
         CMD [\"perl\", \"server.pl\"]\n"
    )
}

/// A driver with a repository that has a Dockerfile and no manifest.
pub(super) async fn dockerfile_bench(dockerfile: &str) -> Option<Bench> {
    let bench = Bench::new(&Docker).await?;
    std::fs::remove_file(bench.repository.path().join("tenantry.toml")).unwrap();
    bench.repository.write("Dockerfile", dockerfile);
    bench.repository.commit("one");
    Some(bench)
}

async fn engine() -> &'static Engine {
    Engine::shared().await.expect("the bench has an engine")
}

/// A version of a Dockerfile is built, replaced by the next one, and rolled back to without a build. Destroy
/// leaves nothing in the engine, not even layers.
#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_is_built_and_destroy_leaves_nothing() {
    let Some(bench) = dockerfile_bench(&dockerfile()).await else { return };
    let id = bench.environment();
    let lease = bench.lease(TaskKind::Deploy, &id);
    let played = bench.play(&lease).await;
    assert!(played.log.contains("building: Dockerfile"), "{}", played.log);
    assert!(played.log.contains("Successfully built"), "{}", played.log);
    let url = played.outcome().url;
    let page = bench.page(&url).await;
    assert!(page.starts_with("one\n") && !page.contains("uid: 0\n"), "{page}");
    response(&url, "/keep/apples").await;
    bench.repository.commit("two");
    let (_, second) = bench.deploy(&id).await;
    let page = bench.page(&second).await;
    assert!(page.starts_with("two\n") && page.contains("kept: apples"), "{page}");
    let rollback = Lease { release: lease.release, ..bench.lease(TaskKind::Rollback, &id) };
    let played = bench.play(&rollback).await;
    assert!(!played.log.contains("Successfully built"), "{}", played.log);
    let page = bench.page(&played.outcome().url).await;
    assert!(page.starts_with("one\n") && page.contains("kept: apples"), "{page}");
    let before = engine().await.objects_of(&id).await;
    assert_eq!(before.len(), 4, "a container, two images and a network: {before:?}");
    bench.driver.destroy(&id).await.unwrap();
    assert_eq!(engine().await.objects_of(&id).await, Vec::<String>::new());
    bench.finish().await;
}

/// The output of a container that somebody else has removed is gone; that of others can be read.
#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_removed_container_is_left_out() {
    let Some(bench) = Bench::new(&Docker).await else { return };
    let id = bench.environment();
    for page in ["one", "two"] {
        bench.commit(page, "true", "cat page.txt; exec perl server.pl");
        bench.deploy(&id).await;
    }
    let filters = [("label".to_owned(), vec![format!("tenantry.environment={id}")])].into();
    let options = ListContainersOptionsBuilder::new().filters(&filters).build();
    let client = engine().await.client();
    let running = client.list_containers(Some(options)).await.unwrap();
    let [running] = &running[..] else { panic!("one container runs: {running:?}") };
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    client.remove_container(running.id.as_ref().unwrap(), Some(options)).await.unwrap();
    let query = LogQuery::default();
    let (sender, mut batches) = mpsc::channel(8);
    bench.driver.read_log(&id, &query, sender).await.unwrap();
    let lines = batches.recv().await.unwrap();
    let texts: Vec<_> = lines.iter().map(|it| it.text.as_str()).collect();
    assert_eq!(texts, ["one"]);
    bench.finish().await;
}

/// A version whose Dockerfile and files have not changed is built without a new layer.
#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_version_is_built_from_the_cache() {
    let Some(bench) = dockerfile_bench(&dockerfile()).await else { return };
    let id = bench.environment();
    bench.deploy(&id).await;
    let played = bench.play(&bench.lease(TaskKind::Deploy, &id)).await;
    let count = |text: &str| played.log.lines().filter(|it| it.contains(text)).count();
    let steps = count("Step ");
    assert!(steps > 5, "{}", played.log);
    assert_eq!(count("Using cache"), steps - 1, "all but FROM: {}", played.log);
    played.outcome();
    bench.finish().await;
}

/// Images of versions to which no rollback is possible are removed.
#[tokio::test(flavor = "multi_thread")]
async fn images_of_old_versions_are_removed() {
    let Some(bench) = dockerfile_bench(&dockerfile()).await else { return };
    let id = bench.environment();
    for page in ["one", "two", "three", "four", "five", "six"] {
        bench.repository.commit(page);
        bench.deploy(&id).await;
    }
    let objects = engine().await.objects_of(&id).await;
    let images = objects.iter().filter(|it| it.starts_with("image")).count();
    assert_eq!(images, 4, "{objects:?}");
    bench.finish().await;
}

/// A failed build leaves the running version, and no image or layer.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_dockerfile_leaves_the_running_version() {
    let Some(bench) = dockerfile_bench(&dockerfile()).await else { return };
    let id = bench.environment();
    let (_, url) = bench.deploy(&id).await;
    bench.repository.write(
        "Dockerfile",
        &format!("FROM {BASE_IMAGE}\nRUN echo first\nRUN echo the cause; exit 3\nCMD [\"true\"]\n"),
    );
    bench.repository.commit("broken");
    let error = bench.play(&bench.lease(TaskKind::Deploy, &id)).await.error();
    assert!(error.contains("returned a non-zero code: 3"), "{error}");
    assert!(error.contains("the cause"), "{error}");
    assert!(bench.page(&url).await.starts_with("one\n"));
    let objects = engine().await.objects_of(&id).await;
    assert_eq!(objects.len(), 3, "a container, an image and a network: {objects:?}");
    bench.finish().await;
}

/// An image that the manifest names is run with the command of the manifest.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_the_manifest_is_run() {
    let Some(bench) = Bench::new(&Docker).await else { return };
    let server = "exec python3 -m http.server --bind $HOST --directory /usr/share $PORT";
    let manifest = format!("[run]\nimage = \"{BASE_IMAGE}\"\ncommand = '''{server}'''\n");
    bench.repository.write("tenantry.toml", &manifest);
    bench.repository.commit("image");
    let (_, url) = bench.deploy(&bench.environment()).await;
    assert!(bench.page(&url).await.contains("perl"), "a list of directories of the image");
    bench.finish().await;
}

/// An image that insists on root is refused with the remedy.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_insists_on_root_is_refused() {
    let root = format!("{}USER root\n", dockerfile());
    let Some(bench) = dockerfile_bench(&root).await else { return };
    let error = bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await.error();
    assert!(error.contains("insists on the account root"), "{error}");
    bench.finish().await;
}

/// The port that an image exposes is that of the program.
#[tokio::test(flavor = "multi_thread")]
async fn the_exposed_port_of_an_image_is_used() {
    let text =
        "FROM {BASE}\nEXPOSE 80\nCMD exec python3 -m http.server --directory /usr/share 80\n";
    let Some(bench) = dockerfile_bench(&text.replace("{BASE}", BASE_IMAGE)).await else { return };
    let (_, url) = bench.deploy(&bench.environment()).await;
    assert!(bench.page(&url).await.contains("perl"));
    bench.finish().await;
}

/// A runner that takes the place of one that was killed adopts its containers: they go on, are reported, and
/// can be paused, stopped and destroyed.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_runner_adopts_containers() {
    let Some(bench) = dockerfile_bench(&dockerfile()).await else { return };
    let id = bench.environment();
    let (deployed, url) = bench.deploy(&id).await;
    let container = engine().await.objects_of(&id).await;
    let bench = bench.with_next_runner(&Docker).await.expect("an engine");
    assert!(bench.page(&url).await.starts_with("one\n"), "the same container serves");
    assert_eq!(bench.report(&id).await.observed(), Observed::Running);
    assert_eq!(engine().await.objects_of(&id).await, container);
    bench.operate(TaskKind::Pause, &deployed).await.outcome();
    assert_eq!(bench.report(&id).await.observed(), Observed::Paused);
    bench.driver.destroy(&id).await.unwrap();
    assert_eq!(engine().await.objects_of(&id).await, Vec::<String>::new());
    bench.finish().await;
}

/// An engine that is killed and starts again leaves its containers running (`live-restore`), and the runner
/// deploys with it as before.
#[tokio::test(flavor = "multi_thread")]
async fn containers_survive_the_end_of_their_engine() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut engine) = Engine::own(folder.path(), Containers::GoOn).await else { return };
    let bench = Bench::new(&DockerOf(&engine)).await.expect("an engine");
    let id = bench.environment();
    let (_, url) = bench.deploy(&id).await;
    response(&url, "/keep/apples").await;
    engine.kill_and_start().await;
    assert!(bench.page(&url).await.contains("kept: apples"));
    let report = bench.report(&id).await;
    assert_eq!((report.observed(), report.restart_count), (Observed::Running, 0));
    bench.repository.commit("two");
    let (_, url) = bench.deploy(&id).await;
    let page = bench.page(&url).await;
    assert!(page.starts_with("two\n") && page.contains("kept: apples"), "{page}");
    bench.driver.destroy(&id).await.unwrap();
    assert_eq!(engine.objects_of(&id).await, Vec::<String>::new());
    bench.finish().await;
}

/// The runner of the all-in-one uses an engine only with `--runner-driver docker`.
#[tokio::test(flavor = "multi_thread")]
async fn the_all_in_one_deploys_in_containers_with_its_driver() {
    let Some(engine) = Engine::shared().await else { return };
    let host = format!("--runner-docker-host=unix://{}", engine.socket().display());
    let image = format!("--runner-base-image={BASE_IMAGE}");
    for (arguments, containers) in [
        (vec!["--runner-driver=docker".to_owned(), host.clone(), image.clone()], 1),
        (vec![host, image], 0),
    ] {
        let suite = Suite::start_with(Options { arguments, ..Options::default() }).await;
        let hosting = Hosting::new(&suite).await;
        let id = hosting.environment("main", "DEVELOPMENT").await;
        let deployed = hosting.run_task("Deploy", &id, json!({})).await;
        assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
        assert!(hosting.page(&id, "/").await.starts_with("one\n"));
        let objects = engine.objects_of(&id).await;
        let found = objects.iter().filter(|it| it.starts_with("container")).count();
        assert_eq!(found, containers, "{objects:?}");
        hosting.run_task("Destroy", &id, json!({ "confirmName": "main" })).await;
        assert_eq!(engine.objects_of(&id).await, Vec::<String>::new());
        suite.finish().await;
    }
}

/// Files that `.dockerignore` names are not sent to the engine.
#[tokio::test(flavor = "multi_thread")]
async fn a_dockerignore_is_honoured() {
    let text = format!("{}COPY . .\nRUN ls -d * */*\n", dockerfile());
    let Some(bench) = dockerfile_bench(&text).await else { return };
    for (file, text) in
        [(".dockerignore", "*.key\nnotes/**\n!notes/kept\n"), ("secret.key", "x"), ("sent", "x")]
    {
        bench.repository.write(file, text);
    }
    std::fs::create_dir(bench.repository.path().join("notes")).unwrap();
    bench.repository.write("notes/kept", "x");
    bench.repository.write("notes/draft", "x");
    bench.repository.commit("one");
    let played = bench.play(&bench.lease(TaskKind::Deploy, &bench.environment())).await;
    for name in ["sent\n", "notes/kept"] {
        assert!(played.log.contains(name), "{name}: {}", played.log);
    }
    for name in ["secret.key", "notes/draft"] {
        assert!(!played.log.contains(name), "{name}: {}", played.log);
    }
    played.outcome();
    bench.finish().await;
}
