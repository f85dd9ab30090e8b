//! Pages of 50 projects for a member who sees a tenth of an organization's projects. References: the same SQL
//! query sent by pgbench, and by a bare RPC that returns the same projects.

use std::{
    convert::Infallible,
    net::SocketAddr,
    task::{Context, Poll},
};

use anyhow::{Result, ensure};
use api::project::{
    self as pb, project_service_client::ProjectServiceClient, project_service_server::SERVICE_NAME,
};
use futures::future::BoxFuture;
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool, Row,
    postgres::{PgPoolOptions, PgRow},
    types::Uuid,
};
use tokio::task::JoinHandle;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::{
    hosting::authenticated,
    load,
    mutation::{SampleProject, create_sample_project, pgbench},
    noop, print,
    suite::Suite,
};

/// Sizes of the organizations.
const PROJECTS: [u32; 2] = [10_000, 100_000];

/// Projects of a page, and the first one of the next page.
const PAGE_ROWS: u32 = 51;

/// Callers of each side.
const CALLERS: usize = 8;

/// The query of `ListProjects`. Parameters: the organization, and the ids of the visible projects that the
/// page needs.
const QUERY: &str =
    "select id, org_id, name, slug, description, repository_url, default_branch, odoo_version,
        server_id, production_deploy_min_role, state, version, creator_id, created_at, updated_at,
        (select count(*) from project.environment
         where environment.org_id = project.org_id and environment.project_id = project.id)
    from project.project
    where org_id = $1 and id = any ($2) and id > '00000000-0000-0000-0000-000000000000'
    order by id limit 51";

/// Runs all measurements.
pub(crate) async fn run() -> Result<()> {
    for projects in PROJECTS {
        measure(projects).await?;
    }
    Ok(())
}

async fn measure(projects: u32) -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let ann = suite.sign_in("ann@example.com").await?;
    let bob = suite.sign_in("bob@example.com").await?;
    let sample = create_sample_project(&suite, &ann).await?;
    fill(&suite, &sample.org_id, projects).await?;
    let (address, server) = start_bare_server(&suite, &sample).await?;
    let mut suite_rates = vec![];
    let mut bare_rates = vec![];
    let mut query_rates = vec![];
    for _ in 0..3 {
        query_rates.push(pgbench(&suite.options, &pgbench_script(), &sample)?);
        bare_rates.push(list_rate(address, &bob, &sample.org_id).await?);
        suite_rates.push(list_rate(suite.address, &bob, &sample.org_id).await?);
    }
    let suite_rate = crate::median(suite_rates);
    for (name, reference) in [
        ("bare RPC with the same query", crate::median(bare_rates)),
        ("the query alone, pgbench", crate::median(query_rates)),
    ] {
        print(&format!(
            "| `ListProjects`: 50 of {} visible of {projects} ({name}) | {suite_rate:.0}/s \
             | {reference:.0}/s | {:.2} times as long | ≤ 2 |\n",
            projects / 10,
            reference / suite_rate
        ));
    }
    server.abort();
    suite.stop().await
}

/// Id of the project with the number `n`, as SQL.
const PROJECT_ID: &str = "('00000005-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid";

/// Adds projects, of which Bob sees every tenth. Triggers run as they do for calls.
async fn fill(suite: &Suite, org: &str, projects: u32) -> Result<()> {
    let user = "(select id from identity.account where email = 'bob@example.com')";
    let statements = format!(
        "begin;
         update identity.organization set access_version = access_version + 1 where id = '{org}';
         insert into identity.member (id, org_id, user_id, role, created_at)
             values (gen_random_uuid(), '{org}', {user}, 'developer', now());
         insert into identity.project (org_id, id)
             select '{org}', {PROJECT_ID} from generate_series(1, {projects}) as n;
         insert into identity.project_grant (id, org_id, project_id, user_id, role, granted_by, created_at)
             select gen_random_uuid(), '{org}', {PROJECT_ID}, {user}, 'developer', {user}, now()
             from generate_series(10, {projects}, 10) as n;
         insert into project.project (id, org_id, name, slug, repository_url, default_branch, creator_id,
                 created_at, updated_at)
             select {PROJECT_ID}, '{org}', 'Project ' || n, 'project-' || n,
                    'https://git.example.com/a.git', 'main', {user}, now(), now()
             from generate_series(1, {projects}) as n;
         commit"
    );
    let mut connection = PgConnection::connect_with(&suite.options).await?;
    connection.execute(AssertSqlSafe(statements)).await?;
    suite.analyze().await
}

/// Ids of the first visible projects.
fn page_ids() -> impl Iterator<Item = Uuid> {
    let first = 0x0000_0005_0000_7000_8000_0000_0000_0000_u128;
    (1..=PAGE_ROWS).map(move |n| Uuid::from_u128(first + u128::from(n * 10)))
}

/// The query with the ids of the page, for pgbench.
fn pgbench_script() -> String {
    let ids: Vec<_> = page_ids().map(|it| it.to_string()).collect();
    let ids = format!("'{{{}}}'::uuid[]", ids.join(","));
    format!("{};", QUERY.replace("$1", ":org").replace("$2", &ids))
}

/// Returns the rate of `ListProjects`.
async fn list_rate(address: SocketAddr, token: &str, org_id: &str) -> Result<f64> {
    let channels = load::channels(address).await?;
    let org_id = org_id.to_owned();
    let token = token.to_owned();
    load::rate(CALLERS, move |caller, _| {
        let mut client = ProjectServiceClient::new(channels[caller % channels.len()].clone());
        let list =
            pb::ListProjectsRequest { org_id: org_id.clone(), page_size: 50, ..Default::default() };
        let request = authenticated(list, &token);
        async move {
            let page = client.list_projects(request?).await?.into_inner();
            ensure!(page.projects.len() == 50, "a page has {} projects", page.projects.len());
            Ok(())
        }
    })
    .await
}

/// A server without middleware that answers each call with the projects of the page.
#[derive(Clone)]
struct BareProjects {
    pool: PgPool,
    org_id: Uuid,
}

/// Starts the server, with as many connections as the project service has.
async fn start_bare_server(
    suite: &Suite,
    sample: &SampleProject,
) -> Result<(SocketAddr, JoinHandle<()>)> {
    let pool = PgPoolOptions::new()
        .max_connections(8)
        .test_before_acquire(false)
        .connect_lazy_with(suite.options.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server =
        Server::builder().add_service(BareProjects { pool, org_id: sample.org_id.parse()? });
    #[expect(clippy::disallowed_methods, reason = "a benchmark has no host that drains its tasks")]
    let serving = tokio::spawn(async move { _ = server.serve_with_incoming(incoming).await });
    Ok((address, serving))
}

impl NamedService for BareProjects {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for BareProjects {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(service, request).await) })
    }
}

impl UnaryService<pb::ListProjectsRequest> for BareProjects {
    type Response = pb::ListProjectsResponse;
    type Future = BoxFuture<'static, Result<Response<pb::ListProjectsResponse>, Status>>;

    #[expect(clippy::disallowed_methods, reason = "the reference sends its own query")]
    fn call(&mut self, _: Request<pb::ListProjectsRequest>) -> Self::Future {
        let Self { pool, org_id } = self.clone();
        Box::pin(async move {
            let ids: Vec<_> = page_ids().collect();
            let rows = sqlx::query(QUERY).bind(org_id).bind(ids).fetch_all(&pool).await;
            let rows = rows.map_err(|error| Status::unknown(error.to_string()))?;
            let projects = rows.iter().take(50).map(to_project).collect::<Result<_, _>>();
            let projects = projects.map_err(|error| Status::unknown(error.to_string()))?;
            // As long as a real page token.
            Ok(Response::new(pb::ListProjectsResponse {
                projects,
                next_page_token: "x".repeat(100),
            }))
        })
    }
}

/// Converts a row of [`QUERY`].
fn to_project(row: &PgRow) -> Result<pb::Project, sqlx::Error> {
    let id = |index| row.try_get::<Uuid, _>(index).map(|it| it.to_string());
    let time = |index| -> Result<_, sqlx::Error> {
        let time: time::OffsetDateTime = row.try_get(index)?;
        Ok(Some(prost_types::Timestamp { seconds: time.unix_timestamp(), nanos: 0 }))
    };
    let server_id: Option<Uuid> = row.try_get(8)?;
    let version: i64 = row.try_get(11)?;
    let environment_count: i64 = row.try_get(15)?;
    Ok(pb::Project {
        id: id(0)?,
        org_id: id(1)?,
        name: row.try_get(2)?,
        slug: row.try_get(3)?,
        description: row.try_get(4)?,
        repository_url: row.try_get(5)?,
        default_branch: row.try_get(6)?,
        odoo_version: row.try_get(7)?,
        server_id: server_id.map(|it| it.to_string()).unwrap_or_default(),
        production_deploy_min_role: pb::DeployRole::Developer.into(),
        state: pb::ProjectState::Active.into(),
        etag: version.to_string(),
        creator_id: id(12)?,
        create_time: time(13)?,
        update_time: time(14)?,
        environment_count: i32::try_from(environment_count).unwrap_or(i32::MAX),
        ..Default::default()
    })
}
