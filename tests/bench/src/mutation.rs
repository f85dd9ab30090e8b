//! Rate of changes, which write state and event in one transaction. Reference: the same SQL statements sent
//! by pgbench with as many connections.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use api::{
    identity as id,
    project::{
        self as prj, environment_service_client::EnvironmentServiceClient,
        project_service_client::ProjectServiceClient,
    },
};
use host::Install;
use sqlx::postgres::PgConnectOptions;
use tonic::{Request, metadata::MetadataValue};

use crate::{load, noop, print_rates, suite::Suite};

/// Number of connections of pgbench, and of concurrent callers.
const CONNECTIONS: usize = 8;

/// SQL statements of `CreateEnvironment`, in order: session, access version, plan limit, and the transaction.
const CREATE_ENVIRONMENT: &str = "
select account.id, account.email, account.display_name, account.email_verified_at is not null,
       session.secret_hash, session.expires_at
from identity.session join identity.account on account.id = session.user_id
where session.id = :session and session.revoked_at is null;
select access_version from identity.organization where id = :org;
select value from identity.plan_limit where plan = 'pro' and key = 'environments';
begin;
select id, name, slug, default_branch, state, server_id, version from project.project
where org_id = :org and id = :project for key share;
insert into project.environment (id, org_id, project_id, name, kind, state, branch, created_at, updated_at)
values (gen_random_uuid(), :org, :project, gen_random_uuid()::text, 'development', 'pending', 'main',
    now(), now());
select id, addon_key, removing from project.addon where org_id = :org and project_id = :project;
with counted as (insert into project.outbox_sequence as counter (org_id, last) values (:org, 1)
                 on conflict (org_id) do update set last = counter.last + 1 returning last)
insert into project.outbox (id, type, org_id, sequence, envelope)
select gen_random_uuid(), 'tenantry.project.v1.EnvironmentCreated', :org, last,
       decode(repeat('ab', 700), 'hex') from counted;
commit;
";

/// SQL statements of `CreateProject`, in order: session, access version, and the transactions of the project
/// and the identity service.
const CREATE_PROJECT: &str = "
select account.id, account.email, account.display_name, account.email_verified_at is not null,
       session.secret_hash, session.expires_at
from identity.session join identity.account on account.id = session.user_id
where session.id = :session and session.revoked_at is null;
select access_version from identity.organization where id = :org;
select gen_random_uuid() as made \\gset
begin;
select pg_advisory_xact_lock(hashtextextended(:made, 0));
select slug from project.project where org_id = :org and starts_with(lower(slug), lower('shop-' || :made));
insert into project.project (id, org_id, name, slug, repository_url, default_branch, creator_id,
    created_at, updated_at)
values (:made, :org, 'Shop', 'shop-' || :made, 'https://git.example.com/a.git', 'main', :user, now(),
    now());
with counted as (insert into project.outbox_sequence as counter (org_id, last) values (:org, 1)
                 on conflict (org_id) do update set last = counter.last + 1 returning last)
insert into project.outbox (id, type, org_id, sequence, envelope)
select gen_random_uuid(), 'tenantry.project.v1.ProjectCreated', :org, last,
       decode(repeat('ab', 700), 'hex') from counted;
select id from identity.organization where id = :org for update;
select name, slug, plan, owner_id, subscription, access_version,
       (select count(*) from identity.member where org_id = :org),
       (select count(*) from identity.project where org_id = :org)
from identity.organization where id = :org;
select exists (select from identity.project where org_id = :org and id = :made);
with raised as (update identity.organization set access_version = access_version + 1 where id = :org
                returning access_version)
insert into identity.access_change (org_id, version, event_id, changed_at)
select :org, access_version, gen_random_uuid(), now() from raised;
insert into identity.project (org_id, id) values (:org, :made);
insert into identity.project_grant (id, org_id, project_id, user_id, role, granted_by, created_at)
values (gen_random_uuid(), :org, :made, :user, 'admin', :user, now());
with counted as (insert into identity.outbox_sequence as counter (org_id, last) values (:org, 1)
                 on conflict (org_id) do update set last = counter.last + 1 returning last)
insert into identity.outbox (id, type, org_id, sequence, envelope)
select gen_random_uuid(), 'tenantry.identity.v1.ProjectRegistered', :org, last,
       decode(repeat('ab', 700), 'hex') from counted;
commit;
";

/// Runs all measurements: with a stand-in for the audit service, and with the audit service in the same
/// process.
pub(crate) async fn run() -> Result<()> {
    compare(&noop::without_audit(), "`CreateEnvironment`, 8 callers (pgbench)").await?;
    compare(tenantry::INSTALLS, "the same, with the audit service in the process (pgbench)")
        .await?;
    compare_project_creation().await
}

/// Measures `CreateProject` in one organization.
async fn compare_project_creation() -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let mut measured = vec![];
    let mut reference = vec![];
    for _ in 0..3 {
        // Each measurement starts with a new organization, because the number of projects affects the rate.
        let sample = create_sample_project(&suite, &token).await?;
        reference.push(pgbench(&suite.options, CREATE_PROJECT, &sample)?);
        let sample = create_sample_project(&suite, &token).await?;
        let channels = load::channels(suite.address).await?;
        let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
        let rate = load::rate(CONNECTIONS, move |caller, number| {
            let channel = channels[caller % channels.len()].clone();
            let mut request = Request::new(prj::CreateProjectRequest {
                org_id: sample.org_id.clone(),
                name: format!("Shop {number}"),
                repository_url: "https://git.example.com/a.git".to_owned(),
                ..Default::default()
            });
            request.metadata_mut().insert("authorization", bearer.clone());
            async move {
                ProjectServiceClient::new(channel).create_project(request).await?;
                Ok(())
            }
        });
        measured.push(rate.await?);
    }
    let measurement = "`CreateProject` in one organization, 8 callers (pgbench)";
    print_rates(measurement, crate::median(measured), crate::median(reference), "≥ 0.8");
    suite.stop().await
}

/// Measures `CreateEnvironment` with the given services.
async fn compare(installs: &[Install], measurement: &str) -> Result<()> {
    let suite = Suite::start(installs).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let sample = create_sample_project(&suite, &token).await?;
    let mut measured = vec![];
    let mut reference = vec![];
    for round in 0..3 {
        reference.push(pgbench(&suite.options, CREATE_ENVIRONMENT, &sample)?);
        measured.push(measure(&suite, &token, &sample, round).await?);
    }
    print_rates(measurement, crate::median(measured), crate::median(reference), "≥ 0.8");
    suite.stop().await
}

/// A project with its organization, owner and session.
#[derive(Clone)]
pub(crate) struct SampleProject {
    pub(crate) org_id: String,
    pub(crate) project_id: String,
    pub(crate) user_id: String,
    pub(crate) session_id: String,
}

/// Creates an organization with the plan Pro and a project.
pub(crate) async fn create_sample_project(suite: &Suite, token: &str) -> Result<SampleProject> {
    let client = suite.client.with_token(token);
    let slug = format!("acme-{}", chassis::id::new().simple());
    let create =
        id::CreateOrganizationRequest { name: "Acme".to_owned(), slug, ..Default::default() };
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let created: id::CreateOrganizationResponse = client.call(method, create).await?;
    let organization = created.organization.context("the response has no organization")?;
    let change = id::ChangePlanRequest {
        org_id: organization.id.clone(),
        plan: id::Plan::Pro.into(),
        ..Default::default()
    };
    let method = "tenantry.identity.v1.BillingService/ChangePlan";
    let _: id::ChangePlanResponse = client.call(method, change).await?;
    let project_id = create_project(suite, token, &organization.id, "Shop").await?;
    let mut connection =
        <sqlx::PgConnection as sqlx::Connection>::connect_with(&suite.options).await?;
    // Only one person is signed in, so there is one session.
    let session = "select id::text from identity.session limit 1";
    let session_id: String = sqlx::query_scalar(session).fetch_one(&mut connection).await?;
    Ok(SampleProject {
        org_id: organization.id,
        project_id,
        user_id: organization.owner_id,
        session_id,
    })
}

/// Creates a project; returns its id.
pub(crate) async fn create_project(
    suite: &Suite,
    token: &str,
    org_id: &str,
    name: &str,
) -> Result<String> {
    let create = prj::CreateProjectRequest {
        org_id: org_id.to_owned(),
        name: name.to_owned(),
        repository_url: "https://git.example.com/acme/shop.git".to_owned(),
        ..Default::default()
    };
    let method = "tenantry.project.v1.ProjectService/CreateProject";
    let created: prj::CreateProjectResponse =
        suite.client.with_token(token).call(method, create).await?;
    Ok(created.project.context("the response has no project")?.id)
}

/// Returns the rate of `CreateEnvironment`.
async fn measure(suite: &Suite, token: &str, sample: &SampleProject, round: usize) -> Result<f64> {
    let channels = load::channels(suite.address).await?;
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let org_id = sample.org_id.clone();
    let project_id = sample.project_id.clone();
    load::rate(CONNECTIONS, move |caller, number| {
        let mut client = EnvironmentServiceClient::new(channels[caller % channels.len()].clone());
        let mut request = Request::new(prj::CreateEnvironmentRequest {
            org_id: org_id.clone(),
            project_id: project_id.clone(),
            name: format!("env-{round}-{number}"),
            ..Default::default()
        });
        request.metadata_mut().insert("authorization", bearer.clone());
        async move {
            client.create_environment(request).await?;
            Ok(())
        }
    })
    .await
}

/// Runs a script with pgbench for 5 seconds; returns the transactions per second. The script can use the ids
/// of `sample` as the variables `org`, `project`, `user` and `session`.
pub(crate) fn pgbench(
    options: &PgConnectOptions,
    sql: &str,
    sample: &SampleProject,
) -> Result<f64> {
    let script = std::env::temp_dir().join(format!("tenantry-bench-{}.sql", std::process::id()));
    std::fs::write(&script, sql)?;
    let socket: PathBuf = options.get_socket().context("the database has no Unix socket")?.clone();
    let variable = |name: &str, value: &str| format!("-D{name}={value}");
    let clients = CONNECTIONS.to_string();
    let output = Command::new(find_pgbench()?)
        .args(["-n", "-M", "prepared", "-T", "5", "-j", "2", "-c", &clients, "-U", "tenantry"])
        .args([variable("org", &sample.org_id), variable("project", &sample.project_id)])
        .args([variable("user", &sample.user_id), variable("session", &sample.session_id)])
        .arg("-f")
        .arg(&script)
        .arg("-h")
        .arg(socket)
        .arg("tenantry")
        .output()?;
    std::fs::remove_file(script)?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    let tps =
        text.lines().find_map(|it| it.strip_prefix("tps = ")).context("pgbench printed no rate")?;
    Ok(tps.split_whitespace().next().context("pgbench printed no rate")?.parse()?)
}

/// Returns the path of pgbench, which is installed with PostgreSQL's other programs.
fn find_pgbench() -> Result<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output();
    let configured =
        output.map(|it| PathBuf::from(String::from_utf8_lossy(&it.stdout).trim()).join("pgbench"));
    let usual =
        (15..30).rev().map(|it| PathBuf::from(format!("/usr/lib/postgresql/{it}/bin/pgbench")));
    configured
        .into_iter()
        .chain(usual)
        .find(|it| it.exists())
        .context("pgbench is not installed; it is part of PostgreSQL's packages")
}
