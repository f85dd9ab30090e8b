//! Events that a reaction cannot digest: they hold up their own organization for a while, and nobody else.

use api::{event, identity as id};
use prost::{Message, Name};
use serde_json::json;
use testkit::{Nats, Options, Person, Suite, eventually};
use uuid::Uuid;

use crate::world::admit;

const INVITATIONS: &str = "invitation.v1.InvitationService";

/// An organization with an Admin who has invited somebody.
struct Tenant {
    org: String,
    owner: Person,
    admin: Person,
    guest: String,
}

impl Tenant {
    async fn new(suite: &Suite, name: &str) -> Self {
        let owner = suite.person(&format!("owner@{name}.example.com")).await;
        let org = owner.create_organization(name).await.unwrap();
        let admin = suite.person(&format!("admin@{name}.example.com")).await;
        admit(&owner, &org, &admin, "ADMIN").await;
        let guest = format!("guest@{name}.example.com");
        let invite = json!({ "orgId": org, "email": guest, "role": "ORG_ROLE_VIEWER" });
        admin.tell(&format!("{INVITATIONS}/CreateInvitation"), invite).await;
        Self { org, owner, admin, guest }
    }

    /// The Admin may invite no longer, so a reaction revokes their invitation.
    async fn demote(&self) {
        let demote =
            json!({ "orgId": self.org, "userId": self.admin.user_id, "role": "ORG_ROLE_VIEWER" });
        self.owner.tell("identity.v1.MemberService/ChangeMemberRole", demote).await;
    }

    async fn is_revoked(&self, suite: &Suite) -> bool {
        let revoked = "select revoked_at is not null from invitation.invitation where email = $1";
        let revoked = sqlx::query_scalar(revoked).bind(&self.guest).fetch_one(&suite.pool);
        revoked.await.unwrap()
    }
}

/// Writes an event of identity, as identity would.
async fn write(suite: &Suite, org: &str, name: String, value: Vec<u8>) -> Uuid {
    let (id, org) = (chassis::id::new(), org.parse::<Uuid>().unwrap());
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

const DEAD: &str = "select count(*) from invitation.dead_letter";

/// One organization's event fails again and again: other organizations' events are acted on meanwhile,
/// later ones of its own wait, and after a bounded number of tries it is dead and they go on.
async fn one_poison(nats: Option<&Nats>) {
    let suite =
        Suite::start_with(Options { nats_url: nats.map(Nats::url), ..Options::default() }).await;
    let (ill, well) = (Tenant::new(&suite, "ill").await, Tenant::new(&suite, "well").await);
    let poison = write(&suite, &ill.org, id::MemberRoleChanged::full_name(), vec![0xff]).await;
    ill.demote().await;
    for _ in 0..3 {
        write(&suite, &ill.org, id::MemberRoleChanged::full_name(), vec![0xff]).await;
    }
    well.demote().await;
    eventually("the reaction for the other organization", async || {
        well.is_revoked(&suite).await.then_some(())
    })
    .await;
    assert_eq!(suite.count(DEAD).await, 0, "nobody waited for the poison's end");
    assert!(!ill.is_revoked(&suite).await, "what follows the poison keeps its order");

    eventually("the end of the poison", async || {
        suite.clock.advance(chassis::clock::Duration::seconds(5));
        (suite.count(DEAD).await == 4).then_some(())
    })
    .await;
    assert!(ill.is_revoked(&suite).await, "what followed was acted on, once, in its turn");
    let first = "select event_id from invitation.dead_letter order by died_at limit 1";
    let first: Uuid = sqlx::query_scalar(first).fetch_one(&suite.pool).await.unwrap();
    assert_eq!(first, poison);
    let waiting = "select count(*) from invitation.deferred_event";
    eventually("nothing that waits", async || (suite.count(waiting).await == 0).then_some(()))
        .await;
    sqlx::raw_sql("delete from invitation.dead_letter").execute(&suite.pool).await.unwrap();
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_event_holds_up_its_own_organization_only() {
    one_poison(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_event_holds_up_its_own_organization_only_through_nats() {
    one_poison(Some(&Nats::start())).await;
}

/// One organization's event fails in the log: the other organizations' events get there.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_log_refuses_holds_up_its_own_organization_only() {
    let nats = Nats::start();
    for nats_url in [None, Some(nats.url())] {
        let suite = Suite::start_with(Options { nats_url, ..Options::default() }).await;
        let (ill, well) = (Tenant::new(&suite, "ill").await, Tenant::new(&suite, "well").await);
        suite.logged().await;
        // As if something in the events of one organization broke the log.
        let breaks = format!(
            "create function audit.breaks() returns trigger language plpgsql as $$ begin
                 raise exception 'broken'; end $$;
             create trigger breaks before update on audit.tree for each row
                 when (old.org_id = '{}') execute function audit.breaks()",
            ill.org
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(breaks)).execute(&suite.pool).await.unwrap();
        ill.demote().await;
        well.demote().await;
        let told = "select count(*) from audit.entry join audit.term on term.number = entry.action
                    join audit.tree on tree.number = entry.tree
                    where value = 'member.role_changed' and tree.org_id = $1::uuid";
        eventually("the other organization's entry", async || {
            let told = sqlx::query_scalar::<_, i64>(told).bind(&well.org).fetch_one(&suite.pool);
            (told.await.unwrap() == 1).then_some(())
        })
        .await;
        sqlx::raw_sql("drop trigger breaks on audit.tree").execute(&suite.pool).await.unwrap();
        let all = async || {
            suite.clock.advance(chassis::clock::Duration::seconds(5));
            let (written, logged) = suite.written_and_logged().await;
            (written == logged).then_some(())
        };
        eventually("every entry", all).await;
        suite.finish().await;
    }
}

/// IN-23: a use that is counted by a reaction after its invitation was cleaned up, and one whose invitation
/// is gone: what is gone is done.
#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_whose_invitation_was_cleaned_up_is_done() {
    let suite = Suite::start().await;
    let tenant = Tenant::new(&suite, "acme").await;
    let clean = json!({ "orgId": tenant.org });
    tenant.owner.tell(&format!("{INVITATIONS}/CleanUpInvitations"), clean).await;
    suite.logged().await;
    // The reaction to the acceptance comes only now.
    let suite = suite
        .restart(async |pool| {
            let again = "delete from invitation.outbox_cursor; delete from invitation.inbox";
            sqlx::raw_sql(again).execute(pool).await.unwrap();
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
        let done = "select (select count(*) from invitation.inbox where event_id = $1)
                         + (select count(*) from identity.inbox where event_id = $2)";
        let done = sqlx::query_scalar::<_, i64>(done).bind(joined).bind(abandoned);
        (done.fetch_one(&suite.pool).await.unwrap() == 2).then_some(())
    })
    .await;
    let waiting = "select (select count(*) from invitation.deferred_event)
                        + (select count(*) from identity.deferred_event)
                        + (select count(*) from invitation.dead_letter)";
    assert_eq!(suite.count(waiting).await, 0);
    let accepted = "select count(*) from invitation.acceptance";
    assert_eq!(suite.count(accepted).await, 1);
    suite.finish().await;
}
