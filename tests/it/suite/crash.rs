//! `kill -9` and restart: acknowledged changes are kept, nothing is done twice, and the log verifies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::{audit, identity as id, project as prj};
use serde_json::json;
use sqlx::PgPool;
use tenantry::{
    client::{CallError, Client},
    demo::{Console, Mailbox, Services, run_scenario},
};
use testkit::{Person, eventually};
use verifier::{Pins, note::VerifierKey, receipt::Receipt};

use crate::support::{suite_process::SuiteProcess, world::create_project};

/// Number of kills in one test.
const ROUNDS: u64 = 4;

/// Creates objects one after the other until the suite is killed in the middle of a call, later in each
/// round. Starts it again and repeats the interrupted call with the same request id. Returns the slugs of all
/// objects.
async fn create_until_killed<C, F>(suite: &mut SuiteProcess, round: u64, create: C) -> Vec<String>
where
    C: Fn(Client, String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<(), CallError>> + Send,
{
    let acknowledged = Arc::new(AtomicU64::new(0));
    let client = suite.client.clone();
    let create_one = create.clone();
    let counter = acknowledged.clone();
    let creating = tokio::spawn(async move {
        let mut slugs = vec![];
        loop {
            let slug = format!("object-{round}-{}", slugs.len());
            slugs.push(slug.clone());
            if create_one(client.clone(), slug).await.is_err() {
                return slugs;
            }
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    eventually("the creations before the kill", async || {
        (acknowledged.load(Ordering::Relaxed) >= 3 + 2 * round).then_some(())
    })
    .await;
    suite.kill();
    let slugs = creating.await.unwrap();
    suite.start_again().await;
    let interrupted = slugs.last().unwrap().clone();
    create(suite.client.clone(), interrupted).await.unwrap();
    slugs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_suite_keeps_acknowledged_changes() {
    let mut suite = SuiteProcess::start().await;
    let ann = suite.person("ann@example.com").await;
    let mut expected = vec![];
    for round in 0..ROUNDS {
        let token = ann.token.clone();
        let create = move |client: Client, slug: String| {
            let owner = client.with_token(&token);
            async move { create_organization(&owner, &slug).await }
        };
        expected.extend(create_until_killed(&mut suite, round, create).await);
    }
    expected.sort();
    let ann = suite.client.with_token(&ann.token);
    let organizations = organizations(&ann).await;
    let mut existing: Vec<_> = organizations.iter().map(|it| it.slug.clone()).collect();
    existing.sort();
    assert_eq!(existing, expected, "each acknowledged organization exists once");
    for organization in &organizations {
        assert_logged_once_and_proven(&ann, &organization.id).await;
    }
    suite.stop();
}

/// The demo scenario is killed at different times and then runs to its end.
#[tokio::test(flavor = "multi_thread")]
async fn the_scenario_completes_after_kills_at_any_time() {
    let mut suite = SuiteProcess::start().await;
    let mail_dir = suite.data_dir().join("mail");
    for kill_after_ms in [300, 600, 900, 1_200, 1_600] {
        let services = Services::all_in_one(&suite.client);
        let mailbox = Mailbox::Folders(vec![mail_dir.clone()]);
        let scenario = async { run_scenario(&services, &mailbox, Console::quiet()).await };
        let kill_time = Duration::from_millis(kill_after_ms);
        // On a fast machine the scenario completes before the kill; it must not fail before.
        if let Ok(outcome) = tokio::time::timeout(kill_time, scenario).await {
            outcome.unwrap_or_else(|error| panic!("{error:#}\n{}", suite.log()));
        }
        suite.kill();
        suite.start_again().await;
    }
    let services = Services::all_in_one(&suite.client);
    let mailbox = Mailbox::Folders(vec![mail_dir]);
    run_scenario(&services, &mailbox, Console::quiet()).await.unwrap();

    // The events of all runs are in the log.
    let pool = suite.pool().await;
    eventually("the log of every event", async || {
        let missing = "select count(*) from (select id from identity.outbox union all
                           select id from project.outbox union all
                           select id from invitation.outbox) as written
                       where not exists (select from audit.entry where event_id = written.id)";
        let missing: i64 = sqlx::query_scalar(missing).fetch_one(&pool).await.unwrap();
        (missing == 0).then_some(())
    })
    .await;
    // Changes that a kill interrupted between two services are completed or undone.
    wait_for_equal_projects(&pool).await;
    eventually("the count of every acceptance", async || {
        let uncounted = "select count(*) from (
            select invitation_id from identity.member where invitation_id is not null
            except select invitation_id from invitation.acceptance) as uncounted";
        let uncounted: i64 = sqlx::query_scalar(uncounted).fetch_one(&pool).await.unwrap();
        (uncounted == 0).then_some(())
    })
    .await;
    pool.close().await;
    suite.stop();
}

/// PE-1: a creation of a project that a kill interrupts is completed by its repetition with the same request
/// id. Each project exists once, here and in identity.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_creation_of_a_project_is_completed_by_its_repetition() {
    let mut suite = SuiteProcess::start().await;
    let ann = suite.person("ann@example.com").await;
    let org_id = ann.create_organization("acme").await.unwrap();
    let mut expected = vec![];
    for round in 0..ROUNDS {
        let token = ann.token.clone();
        let org_id = org_id.clone();
        let create = move |client: Client, slug: String| {
            let owner = client.with_token(&token);
            let org_id = org_id.clone();
            async move { create_project_with_slug(&owner, &org_id, &slug).await }
        };
        expected.extend(create_until_killed(&mut suite, round, create).await);
    }
    expected.sort();
    let pool = suite.pool().await;
    let slugs = "select slug from project.project order by slug collate \"C\"";
    let slugs: Vec<String> = sqlx::query_scalar(slugs).fetch_all(&pool).await.unwrap();
    assert_eq!(slugs, expected, "each acknowledged project exists once");
    wait_for_equal_projects(&pool).await;

    // The call that would have stored this project was interrupted after the registration.
    let project_id = chassis::id::new();
    let register = "insert into identity.project (org_id, id) values ($1::uuid, $2)";
    sqlx::query(register).bind(&org_id).bind(project_id).execute(&pool).await.unwrap();
    let pending = "insert into project.project_registration (org_id, project_id, state, updated_at)
                   values ($1::uuid, $2, 'pending', now() - interval '1 hour')";
    sqlx::query(pending).bind(&org_id).bind(project_id).execute(&pool).await.unwrap();
    eventually("the end of the registration", async || {
        let left = "select (select count(*) from identity.project where id = $1)
                         + (select count(*) from project.project_registration
                            where project_id = $1 and state = 'pending')";
        let left = sqlx::query_scalar::<_, i64>(left).bind(project_id);
        (left.fetch_one(&pool).await.unwrap() == 0).then_some(())
    })
    .await;
    pool.close().await;
    suite.stop();
}

/// ID-34, ID-35: the deletion of an organization that a kill interrupts is completed in every service or has
/// not begun; afterwards the organization can be restored.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_deletion_is_completed() {
    let mut suite = SuiteProcess::start().await;
    let mut ann = suite.person("ann@example.com").await;
    let org = ann.create_organization("acme").await.unwrap();
    let mut environments = vec![];
    for _ in 0..3 {
        let project = create_project(&ann, &org).await;
        let create = json!({ "orgId": org, "projectId": project, "name": "main" });
        let created = ann.call_ok("project.v1.EnvironmentService/CreateEnvironment", create).await;
        environments.push(created["environment"].clone());
    }
    for kill_after_ms in [0, 8, 40] {
        for environment in &environments {
            let deploy = json!({
                "orgId": org, "projectId": environment["projectId"],
                "environmentId": environment["id"]
            });
            // The runner may not have sent a heartbeat yet.
            let method = "project.v1.EnvironmentService/DeployEnvironment";
            eventually("a runner", async || ann.call(method, deploy.clone()).await.ok()).await;
        }
        for number in 0..5 {
            let invite = json!({
                "orgId": org, "email": format!("guest{number}.{kill_after_ms}@example.com"),
                "role": "ORG_ROLE_VIEWER"
            });
            ann.call_ok("invitation.v1.InvitationService/CreateInvitation", invite).await;
        }
        let delete = json!({ "orgId": org, "confirmName": "acme", "cascade": true });
        let deleter = ann.clone();
        let request = delete.clone();
        let deleting = tokio::spawn(async move {
            deleter.call("identity.v1.OrganizationService/DeleteOrganization", request).await
        });
        tokio::time::sleep(Duration::from_millis(kill_after_ms)).await;
        suite.kill();
        let _ = deleting.await.unwrap();
        suite.start_again().await;
        ann = Person { client: suite.client.with_token(&ann.token), ..ann };
        let get = json!({ "orgId": org });
        if ann.call("identity.v1.OrganizationService/GetOrganization", get.clone()).await.is_ok() {
            ann.call_ok("identity.v1.OrganizationService/DeleteOrganization", delete).await;
        }
        eventually("the cleanup in every service", async || {
            let list = json!({ "showDeleted": true });
            let listed =
                ann.call_ok("identity.v1.OrganizationService/ListOrganizations", list).await;
            let organization = &listed["organizations"][0];
            (organization["deleteTime"].is_string() && organization["closingServices"].is_null())
                .then_some(())
        })
        .await;
        ann.call_ok("identity.v1.OrganizationService/RestoreOrganization", get).await;
        let pending = json!({ "orgId": org, "state": "INVITATION_STATE_PENDING" });
        let pending = ann.call_ok("invitation.v1.InvitationService/ListInvitations", pending).await;
        assert!(pending["invitations"].is_null(), "the deletion revokes invitations: {pending}");
        eventually("stopped environments", async || {
            let preview = json!({ "orgId": org });
            let method = "identity.v1.OrganizationService/PreviewOrganizationDeletion";
            let preview = ann.call_ok(method, preview).await;
            preview["preview"]["runningEnvironments"].is_null().then_some(())
        })
        .await;
    }
    suite.stop();
}

/// Waits until the identity service and the project service have the same projects.
async fn wait_for_equal_projects(pool: &PgPool) {
    eventually("the same projects in both services", async || {
        let difference = "select count(*) from (
            (select id from identity.project except select id from project.project) union all
            (select id from project.project except select id from identity.project)) as difference";
        let difference: i64 = sqlx::query_scalar(difference).fetch_one(pool).await.unwrap();
        (difference == 0).then_some(())
    })
    .await;
}

/// Creates an organization; the request id is derived from the slug.
async fn create_organization(ann: &Client, slug: &str) -> Result<(), CallError> {
    let request = id::CreateOrganizationRequest {
        name: "Acme".to_owned(),
        slug: slug.to_owned(),
        request_id: request_id(slug),
    };
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let _: id::CreateOrganizationResponse = ann.call(method, request).await?;
    Ok(())
}

/// Creates a project; the request id is derived from the slug.
async fn create_project_with_slug(ann: &Client, org_id: &str, slug: &str) -> Result<(), CallError> {
    let request = prj::CreateProjectRequest {
        org_id: org_id.to_owned(),
        name: "Shop".to_owned(),
        slug: slug.to_owned(),
        repository_url: "https://git.example.com/acme/shop.git".to_owned(),
        request_id: request_id(slug),
        ..Default::default()
    };
    let method = "tenantry.project.v1.ProjectService/CreateProject";
    let _: prj::CreateProjectResponse = ann.call(method, request).await?;
    Ok(())
}

/// UUID that is derived from a slug.
fn request_id(slug: &str) -> String {
    let hash = chassis::key::hash(slug.as_bytes());
    let hex: String = hash[..16].iter().map(|it| format!("{it:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-")
}

/// All organizations of a person.
async fn organizations(ann: &Client) -> Vec<id::Organization> {
    let mut all = vec![];
    let mut page_token = String::new();
    loop {
        let list = id::ListOrganizationsRequest { page_size: 100, page_token, show_deleted: false };
        let method = "tenantry.identity.v1.OrganizationService/ListOrganizations";
        let page: id::ListOrganizationsResponse = ann.call(method, list).await.unwrap();
        all.extend(page.organizations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// Checks that the creation of an organization has one entry in the audit log and a valid inclusion proof.
async fn assert_logged_once_and_proven(ann: &Client, org_id: &str) {
    let list = audit::ListEntriesRequest { org_id: org_id.to_owned(), ..Default::default() };
    let method = "tenantry.audit.v1.AuditService/ListEntries";
    let entries = eventually("the entry of a creation", async || {
        let page: audit::ListEntriesResponse = ann.call(method, list.clone()).await.unwrap();
        (!page.entries.is_empty()).then_some(page.entries)
    })
    .await;
    assert_eq!(entries.len(), 1, "number of entries of the organization {org_id}");
    let event_id = entries[0].envelope.as_ref().unwrap().id.clone();
    let get = audit::GetInclusionProofRequest { org_id: org_id.to_owned(), event_id };
    let method = "tenantry.audit.v1.LogService/GetInclusionProof";
    let proof: audit::GetInclusionProofResponse =
        eventually("a proof", async || ann.call(method, get.clone()).await.ok()).await;
    let method = "tenantry.audit.v1.LogService/GetVerifierKeys";
    let keys: audit::GetVerifierKeysResponse =
        ann.call(method, audit::GetVerifierKeysRequest {}).await.unwrap();
    let receipt = Receipt::from_json(&ann.to_json(&proof).unwrap()).unwrap();
    let keys = vec![VerifierKey::parse(&keys.verifier_keys[0]).unwrap()];
    let pins = Pins { keys, org_id: Some(org_id.to_owned()), ..Pins::default() };
    receipt.verify(&pins).unwrap();
}
