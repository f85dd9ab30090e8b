//! Changes and checks in one large organization. Reference: the same in a small one, in the same run.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use api::identity::{self as pb, access_service_client::AccessServiceClient};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tonic::{Request, metadata::MetadataValue};

use crate::{
    grants, load, median,
    mutation::{SampleProject, create_project, create_sample_project},
    noop, print,
    suite::Suite,
};

/// Callers of changes, each of which changes a grant on a project of its own.
const WRITERS: usize = 8;

/// Callers of checks.
const CHECKERS: usize = 64;

/// Pause between two changes beside the checks: 20 changes a second.
const CHANGE_INTERVAL: Duration = Duration::from_millis(50);

/// Projects of the large organizations. Each has a grant to four teams.
const PROJECTS: [u32; 2] = [1_000, 10_000];

/// Runs all measurements.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let small = create_organization(&suite, &token).await?;
    for projects in PROJECTS {
        let large = create_organization(&suite, &token).await?;
        fill(&suite, &large[0], projects).await?;
        measure_changes(&suite, &token, &small, &large, projects).await?;
        measure_checks(&suite, &token, &large, projects).await?;
    }
    suite.stop().await
}

/// Creates an organization with a project for each caller of changes.
async fn create_organization(suite: &Suite, token: &str) -> Result<Vec<SampleProject>> {
    let first = create_sample_project(suite, token).await?;
    let mut projects = vec![first.clone()];
    for number in 1..WRITERS {
        let project_id =
            create_project(suite, token, &first.org_id, &format!("Shop {number}")).await?;
        projects.push(SampleProject { project_id, ..first.clone() });
    }
    Ok(projects)
}

/// Adds 100 members, 20 teams, and projects with four grants each. Triggers run as they do for calls.
async fn fill(suite: &Suite, sample: &SampleProject, projects: u32) -> Result<()> {
    let SampleProject { org_id, user_id, .. } = sample;
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    let statements = format!(
        "begin;
         set local search_path = identity;
         update organization set access_version = access_version + 1 where id = '{org_id}';
         create temporary table person on commit drop as
             select gen_random_uuid() as id, n from generate_series(1, 100) as n;
         insert into account (id, email, canonical_email, display_name, created_at)
             select id, id || '@example.com', id || '@example.com', 'Person', now() from person;
         insert into member (id, org_id, user_id, role, created_at)
             select gen_random_uuid(), '{org_id}', id, 'developer', now() from person;
         create temporary table crew on commit drop as
             select gen_random_uuid() as id, n from generate_series(0, 19) as n;
         insert into team (id, org_id, name, name_key, description, color, revision, created_at)
             select id, '{org_id}', 'crew ' || n, 'crew ' || n, '', '#000000', 1, now() from crew;
         insert into team_member (id, org_id, team_id, user_id, created_at)
             select gen_random_uuid(), '{org_id}', crew.id, person.id, now()
             from person join crew on crew.n in (person.n % 20, (person.n + 7) % 20, (person.n + 13) % 20);
         create temporary table site on commit drop as
             select gen_random_uuid() as id, n from generate_series(1, {projects}) as n;
         insert into project (org_id, id) select '{org_id}', id from site;
         insert into project_grant (id, org_id, project_id, team_id, role, granted_by, created_at)
             select gen_random_uuid(), '{org_id}', site.id, crew.id, 'developer', '{user_id}', now()
             from site join crew on (crew.n - site.n) % 5 = 0;
         commit"
    );
    connection.execute(AssertSqlSafe(statements)).await?;
    suite.analyze().await
}

/// Compares the cost of a change in a small and in a large organization.
async fn measure_changes(
    suite: &Suite,
    token: &str,
    small: &[SampleProject],
    large: &[SampleProject],
    projects: u32,
) -> Result<()> {
    let mut in_large = vec![];
    let mut in_small = vec![];
    for _ in 0..3 {
        in_small.push(grants::measure(suite, token, small).await?);
        in_large.push(grants::measure(suite, token, large).await?);
    }
    let in_large = median(in_large);
    let in_small = median(in_small);
    print(&format!(
        "| `SetProjectAccess`, 8 callers, {projects} projects and {} grants (8 of each) \
         | {in_large:.0}/s | {in_small:.0}/s | {:.2} times the cost | ≤ 1.3 |\n",
        projects * 4,
        in_small / in_large
    ));
    Ok(())
}

/// Compares checks in a large organization with and without 20 changes a second beside them.
async fn measure_checks(
    suite: &Suite,
    token: &str,
    projects: &[SampleProject],
    count: u32,
) -> Result<()> {
    let mut alone = vec![];
    let mut beside_changes = vec![];
    for _ in 0..3 {
        alone.push(check(suite, token, &projects[0]).await?);
        let stop = Arc::new(AtomicBool::new(false));
        let (changes, checks) =
            tokio::join!(change_regularly(suite, token, &projects[0], &stop), async {
                let checks = check(suite, token, &projects[0]).await;
                stop.store(true, Ordering::Relaxed);
                checks
            });
        changes?;
        beside_changes.push(checks?);
    }
    let rate = |checks: &[Checks]| median(checks.iter().map(|it| it.rate).collect());
    let p99_ms =
        |checks: &[Checks]| median(checks.iter().map(|it| it.p99.as_secs_f64() * 1e3).collect());
    print(&format!(
        "| `Check` with 20 changes a second, organization of {count} projects (without changes) \
         | {:.0}/s, p99 {:.1} ms | {:.0}/s, p99 {:.1} ms | {:.2} | ≥ 0.8 |\n",
        rate(&beside_changes),
        p99_ms(&beside_changes),
        rate(&alone),
        p99_ms(&alone),
        rate(&beside_changes) / rate(&alone)
    ));
    Ok(())
}

/// Rate and latency of checks.
struct Checks {
    rate: f64,
    p99: Duration,
}

/// Measures fresh checks.
async fn check(suite: &Suite, token: &str, project: &SampleProject) -> Result<Checks> {
    let channels = load::channels(suite.address).await?;
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let times = Arc::new(Mutex::new(vec![]));
    let recorded = times.clone();
    let project = project.clone();
    let rate = load::rate(CHECKERS, move |caller, _| {
        let mut client = AccessServiceClient::new(channels[caller % channels.len()].clone());
        let mut request = Request::new(pb::CheckRequest {
            org_id: project.org_id.clone(),
            project_id: project.project_id.clone(),
            permission: "project.view".to_owned(),
            ..Default::default()
        });
        request.metadata_mut().insert("authorization", bearer.clone());
        let recorded = recorded.clone();
        async move {
            let start = Instant::now();
            client.check(request).await?;
            recorded.lock().unwrap_or_else(PoisonError::into_inner).push(start.elapsed());
            Ok(())
        }
    });
    let rate = rate.await?;
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    times.sort();
    Ok(Checks { rate, p99: times[times.len() * 99 / 100] })
}

/// Changes a grant 20 times a second until `stop` is set.
async fn change_regularly(
    suite: &Suite,
    token: &str,
    project: &SampleProject,
    stop: &AtomicBool,
) -> Result<()> {
    let channel = load::channels(suite.address).await?.remove(0);
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let mut interval = tokio::time::interval(CHANGE_INTERVAL);
    let mut is_viewer = false;
    while !stop.load(Ordering::Relaxed) {
        interval.tick().await;
        is_viewer = !is_viewer;
        grants::change(channel.clone(), bearer.clone(), project, is_viewer).await?;
    }
    Ok(())
}
