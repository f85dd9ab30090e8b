//! SQL statements about custom domains.

use chassis::{
    Changed, Db, Error, OnConstraint, OrgId, ProjectGrant, Result, Tx, clock::Duration, page::Page,
};
use project_rules::{
    domain::{Domain, ReservedDomain, State, proof::ProofTargets},
    environment::Environment,
    runner::ServedDomain,
    types::{DomainId, EnvironmentId, ProjectRef, ServerId},
};
use sqlx::{query, query_as, query_scalar};
use time::OffsetDateTime;
use uuid::Uuid;

/// Pause between two checks of a verified domain.
const CHECK_INTERVAL: Duration = Duration::days(1);

/// Pause after a check without a result: its queries failed, or the process ended.
const RETRY_INTERVAL: Duration = Duration::hours(1);

/// Number of domains that one step of the job checks.
const BATCH: i64 = 8;

/// Maximum number of domains in the list for a server. The message with the list has at most 4 MiB.
const SERVED_MAX: i64 = 10_000;

/// Selects rows of domains: the statement before the columns, the rest after them, and its arguments.
macro_rules! domains {
    ($start:literal, $rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            Domain,
            $start + "id, org_id, project_id, environment_id, hostname, state, txt_value, verified_by,
                    verified_at, checked_at, check_error, missing_since, creator_id, created_at" + $rest
            $(, $argument)*
        )
    };
}

/// Stores a new domain and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<Domain>) -> Result<Domain> {
    let domain = created.state();
    query!(
        "insert into domain (id, org_id, project_id, environment_id, hostname, state, txt_value, creator_id,
             created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        domain.id as _,
        domain.org_id as _,
        domain.project_id as _,
        domain.environment_id as _,
        domain.hostname,
        domain.state as _,
        domain.txt_value,
        domain.creator_id as _,
        domain.created_at,
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.emit(created))
}

/// Stores the new state of a domain and its event. Refused if another domain with the host name is verified.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Domain>) -> Result<Domain> {
    let next_check_at = next_check(changed.state(), tx.now);
    update_row(tx, changed.state(), next_check_at).await?;
    Ok(tx.emit(changed))
}

/// Stores the result of a check. `is_conclusive`: false if its queries failed, so that the next one is
/// earlier.
pub(crate) async fn update_check(tx: &mut Tx, domain: &Domain, is_conclusive: bool) -> Result<()> {
    let next_check_at = next_check(domain, tx.now);
    let retry_at = next_check_at.map(|it| it - CHECK_INTERVAL + RETRY_INTERVAL);
    update_row(tx, domain, if is_conclusive { next_check_at } else { retry_at }).await
}

fn next_check(domain: &Domain, now: OffsetDateTime) -> Option<OffsetDateTime> {
    (domain.state == State::Verified).then_some(now + CHECK_INTERVAL)
}

async fn update_row(
    tx: &mut Tx,
    domain: &Domain,
    next_check_at: Option<OffsetDateTime>,
) -> Result<()> {
    query!(
        "update domain set state = $3, verified_by = $4, verified_at = $5, checked_at = $6, check_error = $7,
             missing_since = $8, next_check_at = $9
         where org_id = $1 and id = $2",
        domain.org_id.0,
        domain.id.0,
        domain.state as _,
        domain.verified_by as _,
        domain.verified_at,
        domain.checked_at,
        domain.check_error,
        domain.missing_since,
        next_check_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("domain_verified", domain.taken())?;
    Ok(())
}

/// Deletes a domain and stores its event.
pub(crate) async fn delete(tx: &mut Tx, deleted: Changed<Domain>) -> Result<()> {
    let domain = deleted.state();
    query!("delete from domain where org_id = $1 and id = $2", domain.org_id.0, domain.id.0)
        .execute(tx.conn())
        .await?;
    tx.emit(deleted);
    Ok(())
}

/// Locks a domain against changes.
pub(crate) async fn lock(tx: &mut Tx, project: ProjectRef, id: DomainId) -> Result<Domain> {
    let domain = domains!(
        "select ",
        " from domain where org_id = $1 and project_id = $2 and id = $3 for update",
        project.org_id.0,
        project.project_id.0,
        id.0
    );
    domain.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(DomainId::NOUN))
}

/// Returns a domain.
pub(crate) async fn get(db: &Db, grant: &ProjectGrant, id: DomainId) -> Result<Domain> {
    let domain = domains!(
        "select ",
        " from domain where org_id = $1 and project_id = $2 and id = $3",
        grant.org_id().0,
        grant.project_id().0,
        id.0
    );
    domain.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(DomainId::NOUN))
}

/// Returns a page of the domains of an environment, oldest first.
pub(crate) async fn list(db: &Db, environment: &Environment, page: &Page) -> Result<Vec<Domain>> {
    let domains = domains!(
        "select ",
        " from domain where org_id = $1 and environment_id = $2
           and id > coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid)
         order by id limit $4",
        environment.org_id.0,
        environment.id.0,
        page.after::<Uuid>()?,
        page.limit()
    );
    Ok(domains.fetch_all(db.pool()).await?)
}

/// Returns the host names of the domains of a locked environment.
pub(crate) async fn hostnames(tx: &mut Tx, environment: &Environment) -> Result<Vec<String>> {
    let hostnames = query_scalar!(
        "select hostname from domain where org_id = $1 and environment_id = $2",
        environment.org_id.0,
        environment.id.0
    );
    Ok(hostnames.fetch_all(tx.conn()).await?)
}

/// Returns the apps domains of the servers that an organization may use. Those of other organizations are not
/// reserved: their runners name any domain, also one of somebody else.
pub(crate) async fn apps_domains(tx: &mut Tx, org_id: OrgId) -> Result<Vec<ReservedDomain>> {
    let names = query_scalar!(
        "select distinct apps_domain from server
         where (org_id = $1 or org_id is null) and apps_domain <> '' order by apps_domain",
        org_id.0
    );
    let names = names.fetch_all(tx.conn()).await?;
    let owner = "it is the apps domain of a server, whose names are assigned to environments";
    Ok(names.into_iter().map(|name| ReservedDomain { name, owner }).collect())
}

/// Returns the targets of the records that prove the domains of an environment.
pub(crate) async fn targets(db: &Db, org_id: OrgId, id: EnvironmentId) -> Result<ProofTargets> {
    let targets = query_as!(
        ProofTargets,
        r#"select environment.hostname as cname_target,
                  case when server.org_id is null then '' else server.address end as "server_address!"
           from environment left join server on server.id = environment.server_id
           where environment.org_id = $1 and environment.id = $2"#,
        org_id.0,
        id.0
    );
    targets.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(EnvironmentId::NOUN))
}

/// Returns the verified domain of another environment with the same host name.
pub(crate) async fn holder(db: &Db, domain: &Domain) -> Result<Option<Domain>> {
    // Host names are unique among the verified domains of all organizations (no org_id).
    let holder = domains!(
        "select ",
        " from domain where hostname = $1 and state = 'verified' and id <> $2",
        domain.hostname,
        domain.id.0
    );
    Ok(holder.fetch_optional(db.pool()).await?)
}

/// Takes the verified domains whose check is due, a limited number at once. Their next check is after
/// [`RETRY_INTERVAL`], unless this one has a result.
pub(crate) async fn take_due(tx: &mut Tx) -> Result<Vec<Domain>> {
    // Domains of all organizations (no org_id).
    let domains = domains!(
        "update domain set next_check_at = $2
         where id in (select id from domain where next_check_at <= $1
                      order by next_check_at limit $3 for update skip locked)
         returning ",
        "",
        tx.now,
        tx.now + RETRY_INTERVAL,
        BATCH
    );
    Ok(domains.fetch_all(tx.conn()).await?)
}

/// Returns the verified domains of the environments of a server, by environment and host name.
pub(crate) async fn served(tx: &mut Tx, server_id: ServerId) -> Result<Vec<ServedDomain>> {
    // The server of an authenticated runner (no org_id).
    let domains = query_as!(
        ServedDomain,
        "select domain.environment_id, domain.hostname
         from domain join environment on environment.org_id = domain.org_id
             and environment.id = domain.environment_id
         where environment.server_id = $1 and domain.state = 'verified'
         order by domain.environment_id, domain.hostname limit $2",
        server_id.0,
        SERVED_MAX
    );
    Ok(domains.fetch_all(tx.conn()).await?)
}

/// Returns the environment of a domain, which never changes.
pub(crate) async fn environment_id(
    tx: &mut Tx,
    project: ProjectRef,
    id: DomainId,
) -> Result<EnvironmentId> {
    let environment_id = query_scalar!(
        "select environment_id from domain where org_id = $1 and project_id = $2 and id = $3",
        project.org_id.0,
        project.project_id.0,
        id.0
    );
    let environment_id = environment_id.fetch_optional(tx.conn()).await?;
    environment_id.ok_or(Error::NotFound(DomainId::NOUN))
}
