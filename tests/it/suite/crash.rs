//! `kill -9` and restart: acknowledged changes are kept, nothing is done twice, and the log verifies.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::{audit, identity as id, project as prj};
use serde_json::json;
use sqlx::{PgPool, postgres::PgConnectOptions};
use tenantry::{
    client::Client,
    demo::{Console, Mailbox, Services, run_scenario},
};
use testkit::{Person, Process, eventually, stop_deployments};
use verifier::{Pins, note::VerifierKey, receipt::Receipt};

use crate::support::world::create_project;

/// Number of kills.
const ROUNDS: u64 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_suite_keeps_acknowledged_changes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mailbox = Mailbox::new(vec![folder.path().join("mail")]);
    let (mut suite, mut client) = start(folder.path(), port).await;
    let ann = Person::join(&client, &mailbox, "ann@example.com").await.unwrap();
    let acknowledged = Arc::<Mutex<Vec<String>>>::default();

    for round in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let work = tokio::task::spawn(create_many(
            client.with_token(&ann.token),
            round,
            acknowledged.clone(),
            stop.clone(),
        ));
        // A different time in each round.
        tokio::time::sleep(Duration::from_millis(150 + round * 137)).await;
        suite.kill();
        stop.store(true, Ordering::Relaxed);
        let unanswered = work.await.unwrap();
        (suite, client) = start(folder.path(), port).await;
        // Calls without a response are repeated with the same request id.
        let ann = client.with_token(&ann.token);
        for slug in unanswered {
            create(&ann, &slug).await.unwrap();
            acknowledged.lock().unwrap().push(slug);
        }
    }
    let ann = client.with_token(&ann.token);
    let expected = {
        let mut slugs = acknowledged.lock().unwrap().clone();
        slugs.sort();
        slugs
    };
    let organizations = organizations(&ann).await;
    let mut existing: Vec<_> = organizations.iter().map(|it| it.slug.clone()).collect();
    existing.sort();
    assert_eq!(existing, expected);
    for organization in organizations.iter().step_by(7) {
        assert_logged_once_and_proven(&ann, &organization.id).await;
    }
    assert!(suite.stop(), "the suite drains");
    stop_deployments(folder.path());
}

/// The demo scenario is killed at different times and then runs to its end.
#[tokio::test(flavor = "multi_thread")]
async fn the_scenario_completes_after_kills_at_any_time() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (mut suite, mut client) = start(folder.path(), port).await;
    let mail = folder.path().join("mail");
    for kill_after_ms in [300, 600, 900, 1_200, 1_600] {
        let services = Services::all_in_one(&client);
        let mailbox = Mailbox::new(vec![mail.clone()]);
        let scenario = async { run_scenario(&services, &mailbox, Console::quiet()).await };
        // Only the time-out interrupts it.
        if let Ok(outcome) =
            tokio::time::timeout(Duration::from_millis(kill_after_ms), scenario).await
        {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
            outcome.unwrap_or_else(|error| panic!("{error:#}\n{log}"));
        }
        suite.kill();
        (suite, client) = start(folder.path(), port).await;
    }
    let services = Services::all_in_one(&client);
    let mailbox = Mailbox::new(vec![mail]);
    run_scenario(&services, &mailbox, Console::quiet()).await.unwrap();

    // The events of all runs are in the log.
    let pool = connect(folder.path()).await;
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
    let inconsistent = "select count(*) from (
                    (select id from identity.project except select id from project.project) union all
                    (select id from project.project except select id from identity.project) union all
                    (select invitation_id from identity.member where invitation_id is not null
                     except select invitation_id from invitation.acceptance)) as inconsistent";
    eventually("consistent services", async || {
        let inconsistent: i64 = sqlx::query_scalar(inconsistent).fetch_one(&pool).await.unwrap();
        (inconsistent == 0).then_some(())
    })
    .await;
    pool.close().await;
    assert!(suite.stop(), "the suite drains");
    stop_deployments(folder.path());
}

/// PE-1: a creation of a project that a kill interrupts is completed by its repetition with the same request
/// id. Each project exists once, here and in identity.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_creation_of_a_project_is_completed_by_its_repetition() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mailbox = Mailbox::new(vec![folder.path().join("mail")]);
    let (mut suite, mut client) = start(folder.path(), port).await;
    let ann = Person::join(&client, &mailbox, "ann@example.com").await.unwrap();
    let org_id = ann.create_organization("acme").await.unwrap();
    let mut expected = vec![];
    for round in 0..ROUNDS {
        let owner = client.with_token(&ann.token);
        let creating = tokio::task::spawn({
            let org_id = org_id.clone();
            async move {
                for number in 0.. {
                    let slug = format!("project-{round}-{number}");
                    if create_project_with_slug(&owner, &org_id, &slug).await.is_err() {
                        return (number, slug);
                    }
                }
                unreachable!("the kill ends a call with an error")
            }
        });
        // A different time in each round.
        tokio::time::sleep(Duration::from_millis(150 + round * 137)).await;
        suite.kill();
        let (created, interrupted) = creating.await.unwrap();
        (suite, client) = start(folder.path(), port).await;
        let owner = client.with_token(&ann.token);
        create_project_with_slug(&owner, &org_id, &interrupted).await.unwrap();
        expected.extend((0..=created).map(|number| format!("project-{round}-{number}")));
    }
    expected.sort();
    let pool = connect(folder.path()).await;
    let slugs = "select slug from project.project order by slug collate \"C\"";
    let slugs: Vec<String> = sqlx::query_scalar(slugs).fetch_all(&pool).await.unwrap();
    assert_eq!(slugs, expected);
    eventually("the same projects in identity", async || {
        let difference = "select count(*) from (
            (select id from identity.project except select id from project.project) union all
            (select id from project.project except select id from identity.project)) as difference";
        let difference: i64 = sqlx::query_scalar(difference).fetch_one(&pool).await.unwrap();
        (difference == 0).then_some(())
    })
    .await;

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
    assert!(suite.stop(), "the suite drains");
    stop_deployments(folder.path());
}

/// ID-34, ID-35: the deletion of an organization that a kill interrupts is completed in every service or has
/// not begun; afterwards the organization can be restored.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_deletion_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mailbox = Mailbox::new(vec![folder.path().join("mail")]);
    let (mut suite, client) = start(folder.path(), port).await;
    let mut ann = Person::join(&client, &mailbox, "ann@example.com").await.unwrap();
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
        let client;
        (suite, client) = start(folder.path(), port).await;
        ann = Person { client: client.with_token(&ann.token), ..ann };
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
        assert!(pending["invitations"].is_null(), "{pending}");
        eventually("stopped environments", async || {
            let preview = json!({ "orgId": org });
            let method = "identity.v1.OrganizationService/PreviewOrganizationDeletion";
            let preview = ann.call_ok(method, preview).await;
            preview["preview"]["runningEnvironments"].is_null().then_some(())
        })
        .await;
    }
    assert!(suite.stop(), "the suite drains");
    stop_deployments(folder.path());
}

async fn start(folder: &Path, port: u16) -> (Process, Client) {
    start_with(folder, port, vec![]).await
}

/// Starts the suite as a process with more arguments and waits until it answers.
pub(crate) async fn start_with(folder: &Path, port: u16, more: Vec<String>) -> (Process, Client) {
    let mut arguments = vec![
        format!("--data-dir={}", folder.display()),
        format!("--listen=127.0.0.1:{port}"),
        "--created-orgs-max=100000".to_owned(),
        "--sign-ins-max=0".to_owned(),
        "--local-repositories=true".to_owned(),
    ];
    arguments.extend(more);
    let process = Process::start("tenantry", &arguments, &folder.join("log"));
    let endpoint = format!("http://127.0.0.1:{port}");
    let client =
        eventually("the suite", async || Client::connect(&endpoint, None).await.ok()).await;
    (process, client)
}

/// Connects to the private PostgreSQL of a suite.
async fn connect(folder: &Path) -> PgPool {
    let database = PgConnectOptions::new_without_pgpass().socket(folder.join("run"));
    PgPool::connect_with(database.username("tenantry").database("tenantry")).await.unwrap()
}

/// Creates an organization; the request id is derived from the slug.
async fn create(ann: &Client, slug: &str) -> Result<(), tenantry::client::CallError> {
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
async fn create_project_with_slug(
    ann: &Client,
    org_id: &str,
    slug: &str,
) -> Result<(), tenantry::client::CallError> {
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

/// Creates organizations until `stop` is set; returns the slugs of calls without a response.
async fn create_many(
    ann: Client,
    round: u64,
    acknowledged: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
) -> Vec<String> {
    let mut unanswered = vec![];
    for i in 0_u32.. {
        let slug = format!("org-{round}-{i}");
        match create(&ann, &slug).await {
            Ok(()) => acknowledged.lock().unwrap().push(slug),
            Err(_) => unanswered.push(slug),
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    unanswered
}

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

async fn assert_logged_once_and_proven(ann: &Client, org_id: &str) {
    let list = audit::ListEntriesRequest { org_id: org_id.to_owned(), ..Default::default() };
    let method = "tenantry.audit.v1.AuditService/ListEntries";
    let entries = eventually("the entry of a creation", async || {
        let page: audit::ListEntriesResponse = ann.call(method, list.clone()).await.unwrap();
        (!page.entries.is_empty()).then_some(page.entries)
    })
    .await;
    assert_eq!(entries.len(), 1, "one entry");
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
    receipt.verify(&Pins { keys, org_id: Some(org_id.to_owned()) }).unwrap();
}
