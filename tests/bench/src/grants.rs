//! Rate of access changes (`SetProjectAccess`). Reference: the same SQL statements sent by pgbench with as
//! many connections.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use api::identity::{self as pb, project_access_service_client::ProjectAccessServiceClient};
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use crate::{load, median, mutation, noop, print_rates, suite::Suite};

/// Number of connections, callers and organizations: one organization per caller, so that no caller waits for
/// another's row lock.
const CONNECTIONS: usize = 8;

/// SQL statements of `SetProjectAccess`, in order: session, access version, access data of that version, and
/// the transaction. The table `org` has the organization of each connection (`client_id`). The triggers of
/// the tables run here as they do for the suite.
const SCRIPT: &str = "
select account.id, account.email, account.display_name, account.email_verified_at is not null,
       session.secret_hash, session.expires_at, session.proved_at, session.last_used_at
from identity.session join identity.account on account.id = session.user_id
where session.id = :session and session.revoked_at is null;
select access_version from identity.organization where id = (select id from org where n = :client_id);
select 'organization', id, id, subscription, access_version, deleted_at
from identity.organization where id = (select id from org where n = :client_id)
union all select 'member', user_id, user_id, role, 0, null from identity.member
where org_id = (select id from org where n = :client_id)
union all select 'team', id, id, null, 0, null from identity.team
where org_id = (select id from org where n = :client_id)
union all select 'team_member', user_id, team_id, null, 0, null from identity.team_member
where org_id = (select id from org where n = :client_id)
union all select 'project', id, id, null, 0, null from identity.project
where org_id = (select id from org where n = :client_id)
union all select 'user_grant', principal_id, project_id, role, 0, null from identity.project_grant
where org_id = (select id from org where n = :client_id);
begin;
select id from identity.organization where id = (select id from org where n = :client_id) for update;
select organization.id, name, slug, plan, owner_id, subscription, access_version, revision,
       organization.created_at, deleted_at,
       (select count(*) from identity.member as m where m.org_id = organization.id),
       (select count(*) from identity.project where org_id = organization.id),
       coalesce((select jsonb_object_agg(key, value) from identity.plan_limit
        where plan_limit.plan = organization.plan), '{}'),
       array(select service from identity.closing where closing.org_id = organization.id
             and closed_at is null order by service)
from identity.organization where id = (select id from org where n = :client_id);
select id from identity.project where org_id = (select id from org where n = :client_id)
       and id = (select project_id from org where n = :client_id);
select member.id, org_id, user_id, email, display_name, email_verified_at is not null, role, invitation_id,
       member.created_at
from identity.member join identity.account on account.id = member.user_id
where org_id = (select id from org where n = :client_id) and user_id = :user;
select id, org_id, project_id, user_id, team_id, role, granted_by, created_at from identity.project_grant
where org_id = (select id from org where n = :client_id)
      and project_id = (select project_id from org where n = :client_id) and principal_id = :user;
with raised as (
    update identity.organization set access_version = access_version + 1
    where id = (select id from org where n = :client_id) returning access_version
)
insert into identity.access_change (org_id, version, event_id, changed_at)
select (select id from org where n = :client_id), access_version, gen_random_uuid(), now() from raised
returning version;
insert into identity.project_grant (id, org_id, project_id, user_id, team_id, role, granted_by, created_at)
select gen_random_uuid(), id, project_id, :user, null,
       case when random() < 0.5 then 'viewer' else 'developer' end, :user, now() from org where n = :client_id
on conflict (org_id, project_id, principal_id)
do update set role = excluded.role, granted_by = excluded.granted_by;
insert into identity.outbox (id, type, org_id, envelope)
select gen_random_uuid(), 'tenantry.identity.v1.ProjectAccessChanged', id, decode(repeat('ab', 700), 'hex')
from org where n = :client_id;
commit;
";

/// Runs the measurement.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&noop::without_audit()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let mut projects = vec![];
    let mut connection =
        <sqlx::PgConnection as sqlx::Connection>::connect_with(&suite.options).await?;
    // For the script: the organization and project of each connection of pgbench.
    let setup = "create table org (n int primary key, id uuid, project_id uuid)";
    sqlx::Executor::execute(&mut connection, setup).await?;
    for number in 0..CONNECTIONS {
        let project = mutation::create_sample_project(&suite, &token).await?;
        let insert = sqlx::AssertSqlSafe(format!(
            "insert into org values ({number}, '{}', '{}')",
            project.org_id, project.project_id
        ));
        sqlx::Executor::execute(&mut connection, insert).await?;
        projects.push(project);
    }
    let mut measured = vec![];
    let mut reference = vec![];
    for _ in 0..3 {
        reference.push(mutation::pgbench(&suite.options, SCRIPT, &projects[0])?);
        measured.push(measure(&suite, &token, &projects).await?);
    }
    print_rates(
        "`SetProjectAccess`, 8 callers (pgbench)",
        median(measured),
        median(reference),
        "≥ 0.8",
    );
    suite.stop().await
}

/// Returns the rate of calls. Each caller changes a grant on a project of its own.
pub(crate) async fn measure(
    suite: &Suite,
    token: &str,
    projects: &[mutation::SampleProject],
) -> Result<f64> {
    let channels = load::channels(suite.address).await?;
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    let projects = projects.to_vec();
    // The two roles alternate, so that each call changes the grant.
    let is_viewer: Arc<Vec<_>> =
        Arc::new((0..CONNECTIONS).map(|_| AtomicBool::new(false)).collect());
    load::rate(CONNECTIONS, move |caller, _| {
        let channel = channels[caller % channels.len()].clone();
        let project = projects[caller].clone();
        let was_viewer = is_viewer[caller].fetch_xor(true, Ordering::Relaxed);
        let bearer = bearer.clone();
        async move { change(channel, bearer, &project, !was_viewer).await }
    })
    .await
}

/// Sets the role of the owner on a project.
pub(crate) async fn change(
    channel: Channel,
    bearer: MetadataValue<Ascii>,
    project: &mutation::SampleProject,
    is_viewer: bool,
) -> Result<()> {
    let role = if is_viewer { pb::ProjectRole::Viewer } else { pb::ProjectRole::Developer };
    let principal = pb::principal::Principal::UserId(project.user_id.clone());
    let mut request = Request::new(pb::SetProjectAccessRequest {
        org_id: project.org_id.clone(),
        project_id: project.project_id.clone(),
        principal: Some(pb::Principal { principal: Some(principal) }),
        role: role.into(),
        ..Default::default()
    });
    request.metadata_mut().insert("authorization", bearer);
    ProjectAccessServiceClient::new(channel).set_project_access(request).await?;
    Ok(())
}
