//! Time from an accepted deployment to RUNNING, with the image in the engine. It is printed beside the start
//! of the same image without the suite; `DEPLOYMENT_ROUNDS` sets the number of deployments.

use std::{
    collections::HashMap,
    io::Write,
    time::{Duration, Instant},
};

use bollard::{
    models::{ContainerCreateBody, HostConfig},
    query_parameters::{ListImagesOptionsBuilder, RemoveContainerOptionsBuilder},
};
use serde_json::{Value, json};
use testkit::{BASE_IMAGE, Engine, Options, ReservedPort, Suite};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::support::{
    hosting::{Hosting, visit},
    world::text,
};

/// Longest time beyond the start of the program. The goal is 1.5 s on an idle machine; that of a test may be
/// starved.
const EXCESS_MAX: Duration = Duration::from_secs(20);

/// Pause between two requests to a program that starts.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

fn duration_of(task: &Value) -> Duration {
    let moment = |name: &str| OffsetDateTime::parse(&text(&task[name]), &Rfc3339).unwrap();
    (moment("completeTime") - moment("createTime")).try_into().unwrap()
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort();
    durations[durations.len() / 2]
}

/// Starts a container of an image in the network of the machine; returns the time until it responds.
async fn start_time(engine: &Engine, image: &str) -> Duration {
    let port = ReservedPort::new().number();
    let url = format!("http://127.0.0.1:{port}");
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        env: Some(vec!["HOST=127.0.0.1".to_owned(), format!("PORT={port}")]),
        host_config: Some(HostConfig {
            network_mode: Some("host".to_owned()),
            init: Some(true),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let started = Instant::now();
    let id = engine.client().create_container(None, body).await.unwrap().id;
    engine.client().start_container(&id, None).await.unwrap();
    while visit(&url, "/").await.is_none() {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let duration = started.elapsed();
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    engine.client().remove_container(&id, Some(options)).await.unwrap();
    duration
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_image_serves_soon_after_its_deployment() {
    let Some(engine) = Engine::shared().await else { return };
    let rounds = std::env::var("DEPLOYMENT_ROUNDS").map_or(2, |it| it.parse::<u32>().unwrap());
    let arguments = vec![
        "--runner-driver=docker".to_owned(),
        format!("--runner-docker-host=unix://{}", engine.socket().display()),
    ];
    let suite = Suite::start_with(Options { arguments, ..Options::default() }).await;
    let hosting = Hosting::new(&suite).await;
    std::fs::remove_file(hosting.repository.path().join("tenantry.toml")).unwrap();
    // The changed file is copied last, as is usual.
    let dockerfile = format!(
        "FROM {BASE_IMAGE}\nWORKDIR /srv\nCOPY server.pl ./\nCOPY page.txt ./\n\
         CMD [\"perl\", \"server.pl\"]\n"
    );
    hosting.repository.write("Dockerfile", &dockerfile);
    hosting.repository.commit("one");
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let deploy = async || {
        let task = hosting.run_task("Deploy", &id, json!({})).await;
        assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
        duration_of(&task)
    };
    let first = deploy().await;
    let (mut unchanged, mut changed, mut own) = (vec![], vec![], vec![]);
    let filters = HashMap::from([("reference", vec![format!("tenantry/{id}")])]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    for round in 0..rounds {
        unchanged.push(deploy().await);
        hosting.repository.commit(&format!("page-{round}"));
        changed.push(deploy().await);
        let images = engine.client().list_images(Some(options.clone())).await.unwrap();
        own.push(start_time(engine, &images[0].id).await);
    }
    let [unchanged, changed, own] = [unchanged, changed, own].map(median);
    let [first, unchanged_ms, changed_ms, own_ms] =
        [first, unchanged, changed, own].map(|it| it.as_millis());
    let line = format!(
        "from Deploy accepted to RUNNING: first {first} ms, unchanged code {unchanged_ms} ms, a changed file \
         {changed_ms} ms; start of the image alone {own_ms} ms; median of {rounds}\n"
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    assert!(unchanged.saturating_sub(own) < EXCESS_MAX, "{line}");
    hosting.run_task("Destroy", &id, json!({ "confirmName": "main" })).await;
    suite.finish().await;
}
