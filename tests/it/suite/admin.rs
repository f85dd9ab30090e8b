//! The AdminService on its socket: dead letters, pauses, queues, the log filter and settings.

use std::os::unix::fs::MetadataExt;

use api::admin::{
    DiscardDeadLetterRequest, GetProcessRequest, ListDeadLettersRequest, ListJobsRequest,
    ListQueuesRequest, PauseConsumerRequest, Queue, ReplayDeadLetterRequest, ResumeConsumerRequest,
    SetLogFilterRequest,
};
use serde_json::json;
use testkit::{Person, Suite, eventually};
use tonic::Code;

use super::dead_letters::{DEMOTE, Tenant};
use crate::support::{
    admin_client::{Admin, connect},
    suite_process::SuiteProcess,
};

/// Makes every change of an invitation fail, until [`REPAIR`].
const BREAK: &str = "create function invitation.fail() returns trigger language plpgsql as $$ begin
         raise exception 'broken'; end $$;
     create trigger fail before update on invitation.invitation for each row
         execute function invitation.fail()";
const REPAIR: &str = "drop trigger fail on invitation.invitation; drop function invitation.fail()";

/// Lets a reaction fail until its event is a dead letter; returns the id of the event.
async fn dead_letter(suite: &Suite, admin: &mut Admin, tenant: &Tenant) -> String {
    tenant.demote().await;
    eventually("the dead letter", async || {
        suite.clock.advance(chassis::clock::Duration::seconds(5));
        let list = ListDeadLettersRequest { service: "invitation".to_owned(), page_size: 0 };
        let listed = admin.clone().list_dead_letters(list).await.unwrap().into_inner();
        let letter = listed.dead_letters.into_iter().next()?;
        assert_eq!(letter.org_id, tenant.org);
        assert_eq!(letter.event_type, "tenantry.identity.v1.MemberRoleChanged");
        assert!(letter.error.contains("broken"), "{}", letter.error);
        Some(letter.event_id)
    })
    .await
}

async fn queue(admin: &mut Admin, service: &str, name: &str) -> Queue {
    let queues = admin.list_queues(ListQueuesRequest {}).await.unwrap().into_inner().queues;
    let found = queues.into_iter().find(|it| it.service == service && it.name == name);
    found.unwrap_or_else(|| panic!("no queue {name} of {service}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_replayed_or_discarded() {
    let suite = Suite::start().await;
    let mut admin = connect(suite.data_dir()).await;
    let tenant = Tenant::new(&suite, "acme").await;
    let other = Tenant::new(&suite, "other").await;
    sqlx::raw_sql(BREAK).execute(&suite.pool).await.unwrap();
    let event_id = dead_letter(&suite, &mut admin, &tenant).await;
    assert_eq!(queue(&mut admin, "invitation", "dead_letter").await.waiting, 1);

    // A replay of an event that still fails is a dead letter again.
    let replay = |event_id: &str| ReplayDeadLetterRequest {
        service: "invitation".to_owned(),
        event_id: event_id.to_owned(),
    };
    admin.replay_dead_letter(replay(&event_id)).await.unwrap();
    let again = dead_letter(&suite, &mut admin, &tenant).await;
    assert_eq!(again, event_id);

    sqlx::raw_sql(REPAIR).execute(&suite.pool).await.unwrap();
    admin.replay_dead_letter(replay(&event_id)).await.unwrap();
    eventually("the reaction", async || tenant.is_revoked(&suite).await.then_some(())).await;
    let error = admin.replay_dead_letter(replay(&event_id)).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "it is replayed once");

    sqlx::raw_sql(BREAK).execute(&suite.pool).await.unwrap();
    let event_id = dead_letter(&suite, &mut admin, &other).await;
    sqlx::raw_sql(REPAIR).execute(&suite.pool).await.unwrap();
    let discard = DiscardDeadLetterRequest { service: "invitation".to_owned(), event_id };
    admin.discard_dead_letter(discard.clone()).await.unwrap();
    assert_eq!(admin.discard_dead_letter(discard).await.unwrap_err().code(), Code::NotFound);
    assert!(!other.is_revoked(&suite).await, "a discarded event is not handled");
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_wrong_values_are_refused() {
    let suite = Suite::start().await;
    let mut admin = connect(suite.data_dir()).await;
    let unknown = PauseConsumerRequest { service: "billing".to_owned() };
    let error = admin.pause_consumer(unknown).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let services = "identity, project, invitation, audit";
    assert!(error.message().contains(services), "{}", error.message());
    let replay =
        ReplayDeadLetterRequest { service: "invitation".to_owned(), event_id: "7".to_owned() };
    let error = admin.replay_dead_letter(replay).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let audit = PauseConsumerRequest { service: "audit".to_owned() };
    let error = admin.pause_consumer(audit).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    let list = ListDeadLettersRequest { service: String::new(), page_size: -1 };
    assert_eq!(admin.list_dead_letters(list).await.unwrap_err().code(), Code::InvalidArgument);
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_over_a_restart_until_it_is_resumed() {
    let suite = Suite::start().await;
    let tenant = Tenant::new(&suite, "acme").await;
    let mut admin = connect(suite.data_dir()).await;
    let service = "invitation".to_owned();
    admin.pause_consumer(PauseConsumerRequest { service: service.clone() }).await.unwrap();
    let suite = suite.restart(async |_| {}).await;
    let token = Person::login(&suite.client, "owner@acme.example.com").await.unwrap();
    let owner = suite.client.with_token(&token);
    owner.call_json(DEMOTE, tenant.demotion()).await.unwrap();
    suite.wait_for_log().await;
    let mut admin = connect(suite.data_dir()).await;
    assert!(!tenant.is_revoked(&suite).await, "the reaction waits");
    assert!(queue(&mut admin, "identity", "outbox").await.waiting > 0, "its event waits");
    let process = admin.get_process(GetProcessRequest {}).await.unwrap().into_inner();
    assert_eq!(process.paused_consumers, ["invitation"]);
    admin.resume_consumer(ResumeConsumerRequest { service }).await.unwrap();
    eventually("the reaction", async || tenant.is_revoked(&suite).await.then_some(())).await;
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_shows_its_settings_jobs_and_metrics() {
    let health = testkit::ReservedPort::new();
    let flags = vec![
        "--smtp-url=smtp://user:canary-7f3a@127.0.0.1:1".to_owned(),
        format!("--health-listen=127.0.0.1:{}", health.number()),
        "--log=warn".to_owned(),
    ];
    let suite = SuiteProcess::start_with(flags).await;
    let mut admin = connect(suite.data_dir()).await;
    let socket = std::fs::metadata(suite.data_dir().join("admin.sock")).unwrap();
    assert_eq!(socket.mode() & 0o777, 0o600);
    let process = eventually("readiness", async || {
        let process = admin.clone().get_process(GetProcessRequest {}).await.unwrap().into_inner();
        process.ready.then_some(process)
    })
    .await;
    assert_eq!(process.services, ["identity", "project", "invitation", "audit"]);
    assert_eq!(process.log_filter, "warn");
    assert!(!format!("{process:?}").contains("canary-7f3a"), "{process:?}");
    let setting = |name: &str| process.settings.iter().find(|it| it.name == name).unwrap();
    assert_eq!(setting("smtp-url").value, "(secret)");
    assert_eq!(setting("created-orgs-max").value, "100000");

    // The log filter changes at run time.
    assert!(!suite.log().contains("an operator has set the filter of the log"));
    let invalid = SetLogFilterRequest { filter: "info,=,".to_owned() };
    assert_eq!(admin.set_log_filter(invalid).await.unwrap_err().code(), Code::InvalidArgument);
    let filter = SetLogFilterRequest { filter: "info".to_owned() };
    admin.set_log_filter(filter).await.unwrap();
    assert!(suite.log().contains("an operator has set the filter of the log"));

    let jobs = admin.list_jobs(ListJobsRequest {}).await.unwrap().into_inner().jobs;
    assert!(jobs.iter().any(|it| it.name == "mail" && it.steps > 0), "{jobs:?}");

    let url = format!("http://127.0.0.1:{}/metrics", health.number());
    let names = [
        "rpc_server_call_duration_seconds_bucket",
        "tenantry_job_steps_total",
        "tenantry_queue_waiting",
        "tenantry_queue_oldest_age_seconds",
        "tenantry_database_connections",
    ];
    let register = json!({
        "email": "ann@example.com", "password": "a canary of 2026", "displayName": "Ann"
    });
    suite.client.call_json("identity.v1.UserService/Register", register).await.unwrap();
    let metrics = eventually("the metrics", async || {
        let text = reqwest::get(&url).await.ok()?.text().await.ok()?;
        names.iter().all(|it| text.contains(it)).then_some(text)
    })
    .await;
    assert!(!metrics.contains("ann@example.com"), "no personal data");
    suite.stop();
}
