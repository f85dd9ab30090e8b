//! Figures of an environment beside those of its engine.

use bollard::{
    models::ContainerStatsResponse,
    query_parameters::{ListContainersOptionsBuilder, StatsOptionsBuilder},
};
use futures::StreamExt;
use serde_json::{Value, json};
use testkit::{BASE_IMAGE, Engine, Options, Suite, eventually};

use crate::support::hosting::Hosting;

const HEALTH: &str = "project.v1.EnvironmentService/GetEnvironmentHealth";
const OVERVIEW: &str = "project.v1.ProjectService/GetProjectOverview";

/// Greatest difference, in bytes, of two figures that are taken at different moments.
const DIFFERENCE_MAX: i64 = 4 << 20;

/// Memory of a container, as `docker stats` shows it.
fn used_memory(stats: ContainerStatsResponse) -> Option<i64> {
    let memory = stats.memory_stats?;
    let details = memory.stats?;
    let inactive = details.get("total_inactive_file").or_else(|| details.get("inactive_file"));
    let inactive = inactive.and_then(|it| serde_json::to_value(it).ok()?.as_u64());
    i64::try_from(memory.usage? - inactive.unwrap_or(0)).ok()
}

/// A program with four processes that share 60 MiB: the overview and the health show the memory that its
/// engine shows, not the sum of its processes.
#[tokio::test(flavor = "multi_thread")]
async fn figures_agree_with_the_engine() {
    let Some(engine) = Engine::shared().await else { return };
    let arguments = vec![
        "--runner-driver=docker".to_owned(),
        format!("--runner-docker-host=unix://{}", engine.socket().display()),
        format!("--runner-base-image={BASE_IMAGE}"),
    ];
    let suite = Suite::start_with(Options { arguments, ..Options::default() }).await;
    let hosting = Hosting::new(&suite).await;
    let share = "my $shared = 'x' x (60 << 20); for (1..3) { if (!fork) { sleep 1 while 1 } }\n";
    let server = std::fs::read_to_string(hosting.repository.path().join("server.pl")).unwrap();
    hosting.repository.write("server.pl", &format!("{share}{server}"));
    hosting.repository.commit("shared memory");
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let deployed = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");

    let filters = [("label".to_owned(), vec![format!("tenantry.environment={id}")])].into();
    let options = ListContainersOptionsBuilder::new().filters(&filters).build();
    let found = engine.client().list_containers(Some(options)).await.unwrap();
    let [container] = &found[..] else { panic!("one container runs: {found:?}") };
    let container = container.id.clone().unwrap();
    let of_engine = async || {
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let mut stats = Box::pin(engine.client().stats(&container, Some(options)));
        used_memory(stats.next().await?.ok()?)
    };
    let shown = async |method: &str, request: Value, path: &str| {
        let answer = hosting.owner().call_ok(method, request).await;
        answer.pointer(path)?.as_str()?.parse::<i64>().ok()
    };
    eventually("figures that agree", async || {
        let request = hosting.request(&id, json!({}));
        let health = shown(HEALTH, request, "/health/memoryBytes").await?;
        let request = hosting.world.project_request(json!({}));
        let overview = shown(OVERVIEW, request, "/overview/used/memoryBytes").await?;
        let engine = of_engine().await?;
        let agrees = |it: i64| (it - engine).abs() < DIFFERENCE_MAX;
        (engine > 60 << 20 && agrees(health) && agrees(overview)).then_some(())
    })
    .await;
    hosting.run_task("Destroy", &id, json!({ "confirmName": "main" })).await;
    suite.finish().await;
}
