//! Events that a reaction cannot process: they delay later events of their organization and no other.

use api::{event, identity as id};
use prost::{Message, Name};
use serde_json::{Value, json};
use testkit::{Nats, Options, Person, Suite, eventually};
use uuid::Uuid;

use crate::support::world::add_member;

pub(super) const DEMOTE: &str = "identity.v1.MemberService/ChangeMemberRole";
const INVITATIONS: &str = "invitation.v1.InvitationService";

/// An organization with an Admin who has a pending invitation.
pub(super) struct Tenant {
    pub(super) org: String,
    owner: Person,
    admin: Person,
    guest: String,
}

impl Tenant {
    pub(super) async fn new(suite: &Suite, name: &str) -> Self {
        let owner = suite.person(&format!("owner@{name}.example.com")).await;
        let org = owner.create_organization(name).await.unwrap();
        let admin = suite.person(&format!("admin@{name}.example.com")).await;
        add_member(&owner, &org, &admin, "ADMIN").await;
        let guest = format!("guest@{name}.example.com");
        let invite = json!({ "orgId": org, "email": guest, "role": "ORG_ROLE_VIEWER" });
        admin.call_ok(&format!("{INVITATIONS}/CreateInvitation"), invite).await;
        Self { org, owner, admin, guest }
    }

    /// Demotes the Admin, which triggers a reaction that revokes the invitation.
    pub(super) async fn demote(&self) {
        self.owner.call_ok(DEMOTE, self.demotion()).await;
    }

    /// Request of [`DEMOTE`].
    pub(super) fn demotion(&self) -> Value {
        json!({ "orgId": self.org, "userId": self.admin.user_id, "role": "ORG_ROLE_VIEWER" })
    }

    pub(super) async fn is_revoked(&self, suite: &Suite) -> bool {
        let revoked = "select revoked_at is not null from invitation.invitation where email = $1";
        let revoked = sqlx::query_scalar(revoked).bind(&self.guest).fetch_one(&suite.pool);
        revoked.await.unwrap()
    }
}

/// Writes an event to the outbox of identity; returns its id.
async fn write(suite: &Suite, org: &str, name: String, value: Vec<u8>) -> Uuid {
    let id = chassis::id::new();
    let org = org.parse::<Uuid>().unwrap();
    let envelope = event::Envelope {
        id: id.to_string(),
        source: "identity".to_owned(),
        org_id: org.to_string(),
        event: Some(prost_types::Any { type_url: format!("/{name}"), value }),
        ..Default::default()
    };
    let insert = "insert into identity.outbox (id, type, org_id, envelope) values ($1, $2, $3, $4)";
    sqlx::query(insert)
        .bind(id)
        .bind(name)
        .bind(org)
        .bind(envelope.encode_to_vec())
        .execute(&suite.pool)
        .await
        .unwrap();
    id
}

/// Number of dead letters of the invitation service.
const DEAD_LETTERS: &str = "select count(*) from invitation.dead_letter";

/// An event that always fails delays later events of its organization, becomes a dead letter after a limited
/// number of attempts, and does not delay other organizations.
async fn check_poison_event(nats: Option<&Nats>) {
    let suite =
        Suite::start_with(Options { nats_url: nats.map(Nats::url), ..Options::default() }).await;
    let broken = Tenant::new(&suite, "broken").await;
    let healthy = Tenant::new(&suite, "healthy").await;
    let poison = write(&suite, &broken.org, id::MemberRoleChanged::full_name(), vec![0xff]).await;
    broken.demote().await;
    for _ in 0..3 {
        write(&suite, &broken.org, id::MemberRoleChanged::full_name(), vec![0xff]).await;
    }
    healthy.demote().await;
    eventually("the reaction for the other organization", async || {
        healthy.is_revoked(&suite).await.then_some(())
    })
    .await;
    assert_eq!(suite.count(DEAD_LETTERS).await, 0, "the other organization does not wait");
    assert!(!broken.is_revoked(&suite).await, "later events keep their order");

    eventually("the dead letters", async || {
        suite.clock.advance(chassis::clock::Duration::seconds(5));
        (suite.count(DEAD_LETTERS).await == 4).then_some(())
    })
    .await;
    assert!(broken.is_revoked(&suite).await, "later events are processed");
    let first = "select event_id from invitation.dead_letter order by died_at limit 1";
    let first: Uuid = sqlx::query_scalar(first).fetch_one(&suite.pool).await.unwrap();
    assert_eq!(first, poison);
    let deferred = "select count(*) from invitation.deferred_event";
    eventually("the end of deferred events", async || {
        (suite.count(deferred).await == 0).then_some(())
    })
    .await;
    sqlx::raw_sql("delete from invitation.dead_letter").execute(&suite.pool).await.unwrap();
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_event_delays_its_own_organization_only() {
    check_poison_event(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_event_delays_its_own_organization_only_through_nats() {
    check_poison_event(Some(&Nats::start())).await;
}

/// An event that fails in the log delays its organization only.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_fails_in_the_log_delays_its_own_organization_only() {
    let nats = Nats::start();
    for nats_url in [None, Some(nats.url())] {
        let suite = Suite::start_with(Options { nats_url, ..Options::default() }).await;
        let broken = Tenant::new(&suite, "broken").await;
        let healthy = Tenant::new(&suite, "healthy").await;
        suite.wait_for_log().await;
        // A trigger makes the entries of one organization fail.
        let fail = format!(
            "create function audit.fail() returns trigger language plpgsql as $$ begin
                 raise exception 'broken'; end $$;
             create trigger fail before update on audit.tree for each row
                 when (old.org_id = '{}') execute function audit.fail()",
            broken.org
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(fail)).execute(&suite.pool).await.unwrap();
        broken.demote().await;
        healthy.demote().await;
        let entries =
            "select count(*) from audit.entry join audit.term on term.number = entry.action
                    join audit.tree on tree.number = entry.tree
                    where value = 'member.role_changed' and tree.org_id = $1::uuid";
        eventually("the other organization's entry", async || {
            let entries =
                sqlx::query_scalar::<_, i64>(entries).bind(&healthy.org).fetch_one(&suite.pool);
            (entries.await.unwrap() == 1).then_some(())
        })
        .await;
        sqlx::raw_sql("drop trigger fail on audit.tree").execute(&suite.pool).await.unwrap();
        let is_complete = async || {
            suite.clock.advance(chassis::clock::Duration::seconds(5));
            let (written, logged) = suite.written_and_logged().await;
            (written == logged).then_some(())
        };
        eventually("every entry", is_complete).await;
        suite.finish().await;
    }
}

/// IN-23: the reaction to an acceptance succeeds if its invitation has been cleaned up or does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn the_reaction_to_an_acceptance_without_invitation_succeeds() {
    let suite = Suite::start().await;
    let tenant = Tenant::new(&suite, "acme").await;
    let clean = json!({ "orgId": tenant.org });
    tenant.owner.call_ok(&format!("{INVITATIONS}/CleanUpInvitations"), clean).await;
    suite.wait_for_log().await;
    // The reaction runs again after the clean-up.
    let suite = suite
        .restart(async |pool| {
            let reset_cursor = "delete from invitation.outbox_cursor; delete from invitation.inbox";
            sqlx::raw_sql(reset_cursor).execute(pool).await.unwrap();
        })
        .await;
    let member = id::Member {
        org_id: tenant.org.clone(),
        user_id: tenant.admin.user_id.clone(),
        invitation_id: chassis::id::new().to_string(),
        ..Default::default()
    };
    let joined = id::MemberJoined { after: Some(member), ..Default::default() };
    let joined =
        write(&suite, &tenant.org, id::MemberJoined::full_name(), joined.encode_to_vec()).await;
    let purged = chassis::id::new().to_string();
    let abandoned =
        api::project::ProjectAbandoned { org_id: purged.clone(), project_id: purged.clone() };
    let name = api::project::ProjectAbandoned::full_name();
    let abandoned = write(&suite, &purged, name, abandoned.encode_to_vec()).await;
    eventually("the reactions", async || {
        let processed = "select (select count(*) from invitation.inbox where event_id = $1)
                         + (select count(*) from identity.inbox where event_id = $2)";
        let processed = sqlx::query_scalar::<_, i64>(processed).bind(joined).bind(abandoned);
        (processed.fetch_one(&suite.pool).await.unwrap() == 2).then_some(())
    })
    .await;
    let unprocessed = "select (select count(*) from invitation.deferred_event)
                        + (select count(*) from identity.deferred_event)
                        + (select count(*) from invitation.dead_letter)";
    assert_eq!(suite.count(unprocessed).await, 0);
    let accepted = "select count(*) from invitation.acceptance";
    assert_eq!(suite.count(accepted).await, 1);
    suite.finish().await;
}

/// A reaction that waits for a running call is retried, which is no failure, and succeeds after the call.
#[tokio::test(flavor = "multi_thread")]
async fn a_reaction_waits_for_a_running_acceptance_without_failing() {
    let suite = Suite::start().await;
    let tenant = Tenant::new(&suite, "acme").await;
    let guest = suite.person(&tenant.guest).await;
    let user_id: Uuid = guest.user_id.parse().unwrap();
    // The reservation of a running call, dated an hour ahead, so that no delay of the test ends the wait.
    let reserve = "insert into invitation.reservation (invitation_id, user_id, attempt_id, reserved_at)
                   select id, $2, $2, now() + interval '1 hour' from invitation.invitation where email = $1
                   returning invitation_id";
    let reserve = sqlx::query_scalar(reserve).bind(&tenant.guest).bind(user_id);
    let invitation_id: Uuid = reserve.fetch_one(&suite.pool).await.unwrap();
    let member = id::Member {
        org_id: tenant.org.clone(),
        user_id: guest.user_id.clone(),
        invitation_id: invitation_id.to_string(),
        ..Default::default()
    };
    let joined = id::MemberJoined { after: Some(member), ..Default::default() };
    write(&suite, &tenant.org, id::MemberJoined::full_name(), joined.encode_to_vec()).await;

    let deferred = async || {
        let deferred = "select attempts, due_at::text from invitation.deferred_event";
        let deferred = sqlx::query_as::<_, (i32, String)>(deferred).fetch_optional(&suite.pool);
        deferred.await.unwrap()
    };
    let (_, first_due) = eventually("the deferral", &deferred).await;
    let (failures, _) =
        eventually("a retry", async || deferred().await.filter(|(_, due)| *due != first_due)).await;
    assert_eq!(failures, 0, "a wait is no failure");

    suite.clock.advance(chassis::clock::Duration::hours(2));
    eventually("the counted use", async || {
        let used = "select count(*) from invitation.acceptance where user_id = $1";
        let used = sqlx::query_scalar::<_, i64>(used).bind(user_id).fetch_one(&suite.pool);
        (used.await.unwrap() == 1).then_some(())
    })
    .await;
    assert_eq!(suite.count(DEAD_LETTERS).await, 0);
    suite.finish().await;
}
