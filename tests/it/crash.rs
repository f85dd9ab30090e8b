//! kill -9 at any moment, start again: nothing acknowledged is lost, nothing happened twice, the log
//! still verifies.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::{audit, identity as id};
use serde_json::json;
use sqlx::{PgPool, postgres::PgConnectOptions};
use tenantry::{
    client::Client,
    demo::{Mailbox, Services, Voice, play},
};
use testkit::{Person, Process, eventually, stop_deployments};
use verifier::{Pins, note::VerifierKey, receipt::Receipt};

/// How often the process is killed.
const ROUNDS: u64 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_suite_goes_on_where_it_was() {
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
        // Somewhere in the middle of it, elsewhere in every round.
        tokio::time::sleep(Duration::from_millis(150 + round * 137)).await;
        suite.kill();
        stop.store(true, Ordering::Relaxed);
        let unanswered = work.await.unwrap();
        (suite, client) = start(folder.path(), port).await;
        // Who got no answer asks again, with the same request id.
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
    let mut there: Vec<_> = organizations.iter().map(|it| it.slug.clone()).collect();
    there.sort();
    assert_eq!(there, expected, "nothing is lost, nothing happened twice");
    for it in organizations.iter().step_by(7) {
        told_once_and_proven(&ann, &it.id).await;
    }
    assert!(suite.stop(), "it drains");
    stop_deployments(folder.path());
}

/// The same for the whole story: killed in the middle of it, again and again, then told to its end.
#[tokio::test(flavor = "multi_thread")]
async fn the_story_is_told_after_a_kill_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (mut suite, mut client) = start(folder.path(), port).await;
    let mail = folder.path().join("mail");
    for moment in [300, 600, 900, 1_200, 1_600] {
        let (services, mailbox) = (Services::at_one(&client), Mailbox::new(vec![mail.clone()]));
        let telling = async { play(&services, &mailbox, Voice::silent()).await };
        // Nothing but the kill breaks it off.
        if let Ok(told) = tokio::time::timeout(Duration::from_millis(moment), telling).await {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
            told.unwrap_or_else(|error| panic!("{error:#}\n{log}"));
        }
        suite.kill();
        (suite, client) = start(folder.path(), port).await;
    }
    let (services, mailbox) = (Services::at_one(&client), Mailbox::new(vec![mail]));
    play(&services, &mailbox, Voice::silent()).await.unwrap();

    // From all tellings: every event that was written is in the log, once.
    let database = PgConnectOptions::new_without_pgpass().socket(folder.path().join("run"));
    let database = database.username("tenantry").database("tenantry");
    let pool = PgPool::connect_with(database).await.unwrap();
    eventually("the log of every event", async || {
        let missing = "select count(*) from (select id from identity.outbox union all
                           select id from project.outbox union all select id from invitation.outbox) as told
                       where not exists (select from audit.entry where event_id = told.id)";
        let missing: i64 = sqlx::query_scalar(missing).fetch_one(&pool).await.unwrap();
        (missing == 0).then_some(())
    })
    .await;
    // What a crash broke off between two services was healed: nobody holds what the other does not know.
    let torn = "select count(*) from (
                    (select id from identity.project except select id from project.project) union all
                    (select id from project.project except select id from identity.project) union all
                    (select invitation_id from identity.member where invitation_id is not null
                     except select invitation_id from invitation.acceptance)) as torn";
    eventually("healing", async || {
        let torn: i64 = sqlx::query_scalar(torn).fetch_one(&pool).await.unwrap();
        (torn == 0).then_some(())
    })
    .await;
    pool.close().await;
    assert!(suite.stop(), "it drains");
    stop_deployments(folder.path());
}

/// ID-34, ID-35: killed in the middle of the deletion of an organization, again and again: it is deleted
/// or it is not; what was begun comes to its end in every service; and it can be restored.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_is_broken_off_comes_to_its_end() {
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
        let project = crate::authorization::create_project(&ann, &org).await;
        let place = json!({ "orgId": org, "projectId": project, "name": "main" });
        let made = ann.tell("project.v1.EnvironmentService/CreateEnvironment", place).await;
        environments.push(made["environment"].clone());
    }
    for moment in [0, 8, 40] {
        for it in &environments {
            let deploy =
                json!({ "orgId": org, "projectId": it["projectId"], "environmentId": it["id"] });
            // The runner of a suite that has just started may not have called yet.
            let method = "project.v1.EnvironmentService/DeployEnvironment";
            eventually("a runner", async || ann.ask(method, deploy.clone()).await.ok()).await;
        }
        for number in 0..5 {
            let invite = json!({
                "orgId": org, "email": format!("guest{number}.{moment}@example.com"),
                "role": "ORG_ROLE_VIEWER"
            });
            ann.tell("invitation.v1.InvitationService/CreateInvitation", invite).await;
        }
        let delete = json!({ "orgId": org, "confirmName": "acme", "cascade": true });
        let (deleter, asked) = (ann.clone(), delete.clone());
        let deleting = tokio::spawn(async move {
            deleter.ask("identity.v1.OrganizationService/DeleteOrganization", asked).await
        });
        tokio::time::sleep(Duration::from_millis(moment)).await;
        suite.kill();
        let _ = deleting.await.unwrap();
        let client;
        (suite, client) = start(folder.path(), port).await;
        ann = Person { client: client.with_token(&ann.token), ..ann };
        let get = json!({ "orgId": org });
        if ann.ask("identity.v1.OrganizationService/GetOrganization", get.clone()).await.is_ok() {
            ann.tell("identity.v1.OrganizationService/DeleteOrganization", delete).await;
        }
        eventually("every service takes along what it has", async || {
            let list = json!({ "showDeleted": true });
            let listed = ann.tell("identity.v1.OrganizationService/ListOrganizations", list).await;
            let it = &listed["organizations"][0];
            (it["deleteTime"].is_string() && it["closingServices"].is_null()).then_some(())
        })
        .await;
        ann.tell("identity.v1.OrganizationService/RestoreOrganization", get).await;
        let pending = json!({ "orgId": org, "state": "INVITATION_STATE_PENDING" });
        let pending = ann.tell("invitation.v1.InvitationService/ListInvitations", pending).await;
        assert!(pending["invitations"].is_null(), "{pending}");
        eventually("nothing runs or deploys", async || {
            let preview = json!({ "orgId": org });
            let method = "identity.v1.OrganizationService/PreviewOrganizationDeletion";
            let preview = ann.tell(method, preview).await;
            preview["preview"]["runningEnvironments"].is_null().then_some(())
        })
        .await;
    }
    assert!(suite.stop(), "it drains");
    stop_deployments(folder.path());
}

async fn start(folder: &Path, port: u16) -> (Process, Client) {
    start_with(folder, port, vec![]).await
}

/// The suite as a process, with more settings.
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

async fn create(ann: &Client, slug: &str) -> Result<(), tenantry::client::Refusal> {
    let hash = chassis::key::hash(slug.as_bytes());
    let hex: String = hash[..16].iter().map(|it| format!("{it:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    let request = id::CreateOrganizationRequest {
        name: "Acme".to_owned(),
        slug: slug.to_owned(),
        request_id: parts.join("-"),
    };
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let _: id::CreateOrganizationResponse = ann.call(method, request).await?;
    Ok(())
}

/// Creates until told to stop; answers the slugs whose creation was not answered.
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
    let (mut all, mut page_token) = (vec![], String::new());
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

async fn told_once_and_proven(ann: &Client, org_id: &str) {
    let list = audit::ListEntriesRequest { org_id: org_id.to_owned(), ..Default::default() };
    let method = "tenantry.audit.v1.AuditService/ListEntries";
    let entries = eventually("the entry of a creation", async || {
        let page: audit::ListEntriesResponse = ann.call(method, list.clone()).await.unwrap();
        (!page.entries.is_empty()).then_some(page.entries)
    })
    .await;
    assert_eq!(entries.len(), 1, "told once");
    let event_id = entries[0].envelope.as_ref().unwrap().id.clone();
    let get = audit::GetInclusionProofRequest { org_id: org_id.to_owned(), event_id };
    let method = "tenantry.audit.v1.LogService/GetInclusionProof";
    let proof: audit::GetInclusionProofResponse =
        eventually("a proof", async || ann.call(method, get.clone()).await.ok()).await;
    let method = "tenantry.audit.v1.LogService/GetVerifierKeys";
    let keys: audit::GetVerifierKeysResponse =
        ann.call(method, audit::GetVerifierKeysRequest {}).await.unwrap();
    let receipt = Receipt::from_json(&ann.json(&proof).unwrap()).unwrap();
    let keys = vec![VerifierKey::parse(&keys.verifier_keys[0]).unwrap()];
    receipt.verify(&Pins { keys, org_id: Some(org_id.to_owned()) }).unwrap();
}
