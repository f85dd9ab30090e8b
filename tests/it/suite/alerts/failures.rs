//! Causes inside of the suite: events that cannot be handled, a paused consumer, and a damaged audit log.

use serde_json::{Value, json};
use testkit::{Process, eventually};

use super::installation::{Cause, Installation};
use crate::{
    notification::smtp::register,
    support::world::{add_member, text},
};

/// A reaction fails until its event is a dead letter: the invitation of a former Admin cannot be revoked.
pub(super) struct ReactionFailing;

impl Cause for ReactionFailing {
    const ALERTS: &[&str] = &["TenantryReactionsFail", "TenantryDeadLetters"];

    async fn begin(installation: &mut Installation) -> Self {
        let org = installation.organization("broken").await;
        let client = &installation.suite.client;
        let admin = register(client, &installation.smtp, "admin@example.com").await;
        add_member(&installation.owner, &org, &admin, "ADMIN").await;
        let invite = json!({ "orgId": org, "email": "new@example.com", "role": "ORG_ROLE_VIEWER" });
        admin.call_ok("invitation.v1.InvitationService/CreateInvitation", invite).await;
        installation.execute(&fail_before("update", "invitation.invitation")).await;
        let demote = json!({ "orgId": org, "userId": admin.user_id, "role": "ORG_ROLE_VIEWER" });
        let method = "identity.v1.MemberService/ChangeMemberRole";
        installation.owner.call_ok(method, demote).await;
        Self
    }

    async fn end(self, installation: &mut Installation) {
        installation.execute("drop trigger fail on invitation.invitation").await;
        let letters = eventually("the dead letters", async || {
            let letters = installation.admin(&["--json", "dead-letters", "invitation"]);
            let letters: Value = serde_json::from_str(&letters).unwrap();
            letters["deadLetters"].as_array().filter(|it| !it.is_empty()).cloned()
        })
        .await;
        for letter in letters {
            installation.admin(&["replay", "invitation", &text(&letter["eventId"])]);
        }
    }
}

/// Notifications cannot be distributed.
pub(super) struct FanoutFailing;

impl Cause for FanoutFailing {
    const ALERTS: &[&str] = &["TenantryNotificationsDelayed"];

    async fn begin(installation: &mut Installation) -> Self {
        installation.execute(&fail_before("delete", "invitation.pending_event")).await;
        let key = installation.org_request(json!({ "name": "ci", "full": false }));
        installation.owner.call_ok("identity.v1.ApiKeyService/CreateApiKey", key).await;
        Self
    }

    async fn end(self, installation: &mut Installation) {
        installation.execute("drop trigger fail on invitation.pending_event").await;
        // The back-off doubles from 5 seconds.
        installation.execute("update invitation.pending_event set due_at = now()").await;
    }
}

/// An operator has paused a consumer.
pub(super) struct ConsumerPaused;

impl Cause for ConsumerPaused {
    const ALERTS: &[&str] = &["TenantryConsumerBehind"];

    async fn begin(installation: &mut Installation) -> Self {
        installation.admin(&["pause", "project"]);
        // The process applies the pause within a second; the consumer still receives events before.
        eventually("events that wait", async || {
            installation.create_team(&installation.org).await;
            let waiting = "tenantry_consumer_pending{service=\"project\"} > 2";
            let waiting = installation.prometheus.query(waiting).await.unwrap();
            (!waiting.is_empty()).then_some(())
        })
        .await;
        Self
    }

    async fn end(self, installation: &mut Installation) {
        installation.admin(&["resume", "project"]);
    }
}

/// A superuser has changed the log of an organization, and the tree of checkpoints.
pub(super) struct LogDamaged {
    /// Statements that change the log, and also change it back.
    flip: String,
}

impl Cause for LogDamaged {
    const ALERTS: &[&str] = &[
        "TenantryAuditLogDamaged",
        "TenantryEntriesUnsigned",
        "TenantrySigningStopped",
        "TenantryFsckFindings",
    ];

    async fn begin(installation: &mut Installation) -> Self {
        let org = installation.organization("damaged").await;
        installation.create_team(&org).await;
        // The damaged hash of the tree of checkpoints must not get into a complete tile of 16, which the
        // repair would not restore.
        let trees = "select count(*) from audit.tree
                     where org_id = $1 and signed > 0
                         or org_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
                             and size % 16 between 2 and 8";
        eventually("signed entries, and an incomplete tile of checkpoints", async || {
            installation.create_team(&installation.org).await;
            let trees = sqlx::query_scalar::<_, i64>(trees);
            let trees = trees.bind(org.parse::<uuid::Uuid>().unwrap());
            (trees.fetch_one(&installation.pool).await.unwrap() == 2).then_some(())
        })
        .await;
        // The lock excludes transactions that have locked a row and change it later: a deadlock otherwise.
        let flip = format!(
            "begin;
             lock table audit.tree in access exclusive mode;
             alter table audit.tree disable trigger all;
             update audit.tree set edge = set_byte(edge, 0, get_byte(edge, 0) # 1)
             where org_id in ('{org}', 'ffffffff-ffff-ffff-ffff-ffffffffffff');
             alter table audit.tree enable trigger all;
             commit"
        );
        installation.execute(&flip).await;
        // The damage is found when the trees grow.
        installation.create_team(&org).await;
        installation.create_team(&installation.org).await;
        let stops = "select count(*) from audit.signing_stop";
        eventually("the stop of signing", async || {
            let stops = sqlx::query_scalar::<_, i64>(stops).fetch_one(&installation.pool).await;
            (stops.unwrap() == 1).then_some(())
        })
        .await;
        installation.create_team(&installation.org).await;
        installation.admin(&["fsck"]);
        Self { flip }
    }

    async fn end(self, installation: &mut Installation) {
        installation.execute(&self.flip).await;
        // As in the book: beside the running suite, with a copy of its data directory.
        let copy = tempfile::tempdir().unwrap();
        let data_dir = installation.suite.data_dir();
        for entry in std::fs::read_dir(data_dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
            }
        }
        let socket = data_dir.join("run");
        let arguments = [
            "audit",
            "fsck",
            "--release",
            &format!("--data-dir={}", copy.path().display()),
            &format!(
                "--database-url=postgres://tenantry@localhost/tenantry?host={}",
                socket.display()
            ),
        ];
        let fsck = Process::run("tenantry", &arguments);
        let text = String::from_utf8_lossy(&fsck.stdout).into_owned();
        assert!(fsck.status.success(), "{text}{}", String::from_utf8_lossy(&fsck.stderr));
        assert_eq!(text.matches("RELEASED").count(), 2, "{text}");
    }
}

/// A replica hangs in a check of the log. Ends after [`LogDamaged`], whose findings the next check removes.
pub(super) struct CheckHung;

impl Cause for CheckHung {
    const ALERTS: &[&str] = &["TenantryFsckOverdue"];

    async fn begin(installation: &mut Installation) -> Self {
        let running = "select count(*) from audit.fsck_run where ended_at is null";
        eventually("the end of checks", async || {
            let running = sqlx::query_scalar::<_, i64>(running).fetch_one(&installation.pool).await;
            (running.unwrap() == 0).then_some(())
        })
        .await;
        let hang = "update audit.fsck_run set started_at = started_at - interval '3 days',
                        ended_at = ended_at - interval '3 days';
                    insert into audit.fsck_run (id, started_at, seen_at)
                        values (gen_random_uuid(), now(), now() + interval '1 hour')";
        installation.execute(hang).await;
        Self
    }

    async fn end(self, installation: &mut Installation) {
        installation.execute("delete from audit.fsck_run where ended_at is null").await;
    }
}

/// SQL statements after which a kind of change of a table fails.
fn fail_before(change: &str, table: &str) -> String {
    format!(
        "create or replace function public.fail() returns trigger language plpgsql as $$ begin
             raise exception 'broken'; end $$;
         create trigger fail before {change} on {table} for each row execute function public.fail()"
    )
}
