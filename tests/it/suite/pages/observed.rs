//! Pages of lists whose rows follow from other calls: entries of logs, decisions about access, alerts,
//! silenced addresses, notifications, deliveries and tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
};

use api::{identity::Plan, notification as ntf};
use chassis::page::is_paged;
use serde_json::{Value, json};
use testkit::{Person, Suite, eventually};
use time::format_description::well_known::Rfc3339;

use crate::support::{
    raw,
    world::{World, add_member, merge, text},
};

/// Methods whose pages the test reads.
pub(super) const METHODS: [&str; 12] = [
    "audit.v1.AuditService/ListAccountEntries",
    "audit.v1.AuditService/ListEntries",
    "identity.v1.AccessService/ListProjectHolders",
    "identity.v1.AccessService/ListWhoCan",
    "identity.v1.AccessService/SimulateAccess",
    "identity.v1.AccessService/WhoCouldOn",
    "notification.v1.AlertService/ListAlerts",
    "notification.v1.MailRuleService/ListSilencedAddresses",
    "notification.v1.NotificationService/ListNotifications",
    "notification.v1.WebhookService/ListDeliveries",
    "project.v1.DnsConnectionService/ListDnsRecords",
    "project.v1.TaskService/ListTasks",
];

/// Rows of a list before its first page.
const ROWS: usize = 7;

/// Objects of one organization.
struct Scene {
    suite: Suite,
    world: World,
    /// A team without a role on the project, with the people.
    team: String,
    /// Developers of the organization, each with a direct grant on the project.
    people: Vec<Person>,
}

/// Key of a row.
fn key(row: &Value) -> String {
    let parts =
        [&row["id"], &row["envelope"]["id"], &row["userId"], &row["projectId"], &row["email"]];
    let key: Vec<_> = parts.into_iter().filter_map(Value::as_str).collect();
    assert!(!key.is_empty(), "{row} has no key");
    // Rows with an id have no other key.
    row["id"].as_str().map_or_else(|| key.join(" "), str::to_owned)
}

fn alert(scene: &Scene, target: &str, severity: ntf::Severity) -> ntf::ReportAlertRequest {
    ntf::ReportAlertRequest {
        org_id: scene.world.org.clone(),
        kind: ntf::AlertKind::LowDisk.into(),
        target: target.to_owned(),
        target_name: target.to_owned(),
        severity: severity.into(),
        ..Default::default()
    }
}

impl Scene {
    async fn new() -> Self {
        let suite = Suite::start().await;
        let world = World::new(&suite).await;
        world.owner.change_plan(&world.org, Plan::Pro).await.unwrap();
        let mut people = vec![];
        for number in 0..ROWS {
            let person = suite.person(&format!("row{number}@example.com")).await;
            add_member(&world.owner, &world.org, &person, "DEVELOPER").await;
            world.grant(json!({ "userId": person.user_id }), "VIEWER").await;
            people.push(person);
        }
        let members: Vec<&Person> = people.iter().collect();
        let team = world.create_team("the team", &members).await;
        Self { suite, world, team, people }
    }

    async fn open_alert(&self, target: &str) {
        let report = alert(self, target, ntf::Severity::Warning);
        self.suite.report_alert(report).await.unwrap();
    }

    async fn rows(&self, method: &str, field: &str, request: &Value) -> Vec<Value> {
        let whole = merge(request.clone(), json!({ "pageSize": 100 }));
        let listed = self.world.owner.call_ok(method, whole).await;
        listed[field].as_array().cloned().unwrap_or_default()
    }

    /// Reads the pages of a list. `change` is called after the first two pages with the last row of the page
    /// and the number of the page; returns true if the row is deleted or changed. Each other row that existed
    /// before the first page is seen once.
    async fn check(
        &self,
        method: &'static str,
        field: &str,
        request: Value,
        change: impl AsyncFn(&Value, usize) -> bool,
    ) {
        let before = self.rows(method, field, &request).await;
        let before: BTreeSet<String> = before.iter().map(key).collect();
        assert!(before.len() > 4, "{method} has {} rows", before.len());
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut changed = BTreeSet::new();
        let mut page_token = String::new();
        for page in 0.. {
            assert!(page < 60, "{method} does not end");
            let paging = json!({ "pageSize": 2, "pageToken": page_token });
            let answer = self.world.owner.call_ok(method, merge(request.clone(), paging)).await;
            let shown = answer[field].as_array().cloned().unwrap_or_default();
            for row in &shown {
                *seen.entry(key(row)).or_default() += 1;
            }
            page_token = text(&answer["nextPageToken"]);
            if page_token.is_empty() {
                break;
            }
            if let Some(last) = shown.last().filter(|_| page < 2)
                && change(last, page).await
            {
                changed.insert(key(last));
            }
        }
        for id in before.difference(&changed) {
            assert_eq!(seen.get(id), Some(&1), "{method}: {id}");
        }
    }

    async fn entries(&self) {
        let Self { suite, world, .. } = self;
        suite.wait_for_log().await;
        let add_entry = async |_: &Value, _: usize| {
            world.create_team(&chassis::id::new().to_string(), &[]).await;
            world.owner.sign_in_again().await;
            suite.wait_for_log().await;
            false
        };
        for _ in 0..ROWS {
            world.owner.sign_in_again().await;
        }
        suite.wait_for_log().await;
        let method = "audit.v1.AuditService/ListEntries";
        self.check(method, "entries", world.org_request(json!({})), add_entry).await;
        self.check("audit.v1.AuditService/ListAccountEntries", "entries", json!({}), add_entry)
            .await;
    }

    async fn decisions(&self) {
        let Self { suite, world, people, team } = self;
        let is_row = |row: &Value| people.iter().any(|it| row["userId"] == it.user_id.as_str());
        let changes = json!([{ "grant": {
            "principal": { "teamId": team }, "projectId": world.project, "role": "PROJECT_ROLE_ADMIN",
        } }]);
        let request = world.org_request(json!({ "changes": changes }));
        let method = "identity.v1.AccessService/SimulateAccess";
        self.check(method, "differences", request, async |row, _| {
            let remove = world.org_request(json!({ "teamId": team, "userId": row["userId"] }));
            world.owner.call("identity.v1.TeamService/RemoveTeamMember", remove).await.is_ok()
        })
        .await;
        let end_grant = async |row: &Value, _: usize| {
            let principal = json!({ "principal": { "userId": row["userId"] } });
            let remove = world.project_request(principal);
            let method = "identity.v1.ProjectAccessService/RemoveProjectAccess";
            is_row(row) && world.owner.call(method, remove).await.is_ok()
        };
        let method = "identity.v1.AccessService/ListProjectHolders";
        self.check(method, "holders", world.project_request(json!({})), end_grant).await;
        let remove_member = async |row: &Value, _: usize| {
            let remove = world.org_request(json!({ "userId": row["userId"] }));
            let method = "identity.v1.MemberService/RemoveMember";
            is_row(row) && world.owner.call(method, remove).await.is_ok()
        };
        let query = json!({ "permission": "org.view" });
        let method = "identity.v1.AccessService/ListWhoCan";
        self.check(method, "holders", world.org_request(query.clone()), remove_member).await;
        let now = suite.clock.now().format(&Rfc3339).unwrap();
        let query = world.org_request(merge(query, json!({ "time": now })));
        let method = "identity.v1.AccessService/WhoCouldOn";
        self.check(method, "holders", query, async |row, page| {
            // The past stays as it is.
            remove_member(row, page).await;
            false
        })
        .await;
    }

    async fn notices(&self) {
        let Self { world, .. } = self;
        let hook = json!({ "url": "https://9.9.9.9/hook", "eventTypes": ["alert.opened"] });
        let method = "notification.v1.WebhookService/CreateWebhook";
        let created = world.owner.call_ok(method, world.org_request(hook)).await;
        let hook = json!({ "webhookId": created["webhook"]["id"] });
        for number in 0..ROWS {
            self.open_alert(&format!("row {number}")).await;
        }
        let open_another = async |prefix: &str, page: usize| {
            self.open_alert(&format!("{prefix} {page}")).await;
            false
        };
        let deliveries = world.org_request(hook);
        let method = "notification.v1.WebhookService/ListDeliveries";
        eventually("the deliveries", async || {
            (self.rows(method, "deliveries", &deliveries).await.len() >= ROWS).then_some(())
        })
        .await;
        let change = async |_: &Value, page: usize| open_another("delivered", page).await;
        self.check(method, "deliveries", deliveries, change).await;
        let method = "notification.v1.NotificationService/ListNotifications";
        let request = world.org_request(json!({ "category": "NOTIFICATION_CATEGORY_MONITORING" }));
        eventually("the notifications", async || {
            (self.rows(method, "notifications", &request).await.len() >= ROWS).then_some(())
        })
        .await;
        self.check(method, "notifications", request, async |row, page| {
            open_another("notified", page).await;
            let dismiss = json!({ "notificationIds": [row["id"]] });
            let method = "notification.v1.NotificationService/DismissNotifications";
            world.owner.call(method, dismiss).await.is_ok()
        })
        .await;
        let method = "notification.v1.AlertService/ListAlerts";
        self.check(method, "alerts", world.org_request(json!({})), async |row, page| {
            open_another("alerted", page).await;
            let recovery = alert(self, &text(&row["target"]), ntf::Severity::Unspecified);
            self.suite.report_alert(recovery).await;
            true
        })
        .await;
    }

    async fn silenced_addresses(&self) {
        let Self { suite, world, .. } = self;
        let silence = async |address: String| {
            let insert =
                "insert into invitation.silenced_address (org_id, address, silenced_at, reply)
                          values ($1::uuid, $2, now(), '550')";
            let insert = sqlx::query(insert).bind(&world.org).bind(address);
            insert.execute(&suite.pool).await.unwrap();
        };
        for number in 0..ROWS {
            silence(format!("row{number}@example.com")).await;
        }
        let method = "notification.v1.MailRuleService/ListSilencedAddresses";
        let request = world.org_request(json!({}));
        self.check(method, "silencedAddresses", request, async |row, page| {
            silence(format!("aaa{page}@example.com")).await;
            let clear = world.org_request(json!({ "email": row["email"] }));
            let method = "notification.v1.MailRuleService/ClearSilencedAddress";
            world.owner.call(method, clear).await.is_ok()
        })
        .await;
    }

    async fn dns_records(&self) {
        let Self { suite, world, .. } = self;
        let connection = chassis::id::new();
        // Its address is never used, because no attempt of the records is due.
        let insert = "insert into project.dns_connection (id, org_id, name, zone, provider, server_address,
                          remote_id, key_name, sealed, tested_at, secret_updated_at, creator_id, created_at,
                          updated_at)
                      values ($1, $2::uuid, 'Apps', 'apps.example.com', 'cloudflare', '', '', '', '', now(),
                          now(), $2::uuid, now(), now())";
        let insert = sqlx::query(insert).bind(connection).bind(&world.org);
        insert.execute(&suite.pool).await.unwrap();
        let add = async || {
            let insert = "insert into project.dns_record (id, org_id, environment_id, dns_connection_id, name,
                              record_type, value, ttl, state, created_at, updated_at)
                          values ($1, $2::uuid, $1, $3, 'a.apps.example.com', 'A', '192.0.2.1', 60,
                              'published', now(), now())";
            let insert = sqlx::query(insert).bind(chassis::id::new());
            let insert = insert.bind(&world.org).bind(connection);
            insert.execute(&suite.pool).await.unwrap();
        };
        for _ in 0..ROWS {
            add().await;
        }
        let method = "project.v1.DnsConnectionService/ListDnsRecords";
        let request = world.org_request(json!({ "dnsConnectionId": connection }));
        self.check(method, "dnsRecords", request, async |_, _| {
            add().await;
            false
        })
        .await;
    }

    async fn tasks(&self) {
        let Self { suite, world, .. } = self;
        let connect = world.org_request(json!({ "name": "one", "address": "one.example.com" }));
        let connected =
            world.owner.call_ok("project.v1.ServerService/ConnectServer", connect).await;
        let runner = suite.client.with_token(&text(&connected["agentToken"]));
        let heartbeat = json!({ "runner": "fake" });
        runner.call_json("project.v1.RunnerService/Heartbeat", heartbeat).await.unwrap();
        let create = json!({ "name": "main", "serverId": connected["server"]["id"] });
        let method = "project.v1.EnvironmentService/CreateEnvironment";
        let created = world.owner.call_ok(method, world.project_request(create)).await;
        let environment = json!({ "environmentId": created["environment"]["id"] });
        let environment = world.project_request(environment);
        // A cancelled task stays in the list.
        let run = async || {
            let method = "project.v1.EnvironmentService/DeployEnvironment";
            let started = world.owner.call_ok(method, environment.clone()).await;
            let cancel = world.project_request(json!({ "taskId": started["task"]["id"] }));
            world.owner.call_ok("project.v1.TaskService/CancelTask", cancel).await;
        };
        for _ in 0..ROWS {
            run().await;
        }
        let method = "project.v1.TaskService/ListTasks";
        self.check(method, "tasks", environment.clone(), async |_, _| {
            run().await;
            false
        })
        .await;
    }
}

/// AIP-158: each row that existed throughout, and was not changed, is seen once.
#[tokio::test(flavor = "multi_thread")]
async fn every_list_of_observations_is_read_to_its_end_while_its_rows_change() {
    let scene = Scene::new().await;
    scene.tasks().await;
    scene.dns_records().await;
    scene.notices().await;
    scene.silenced_addresses().await;
    scene.entries().await;
    scene.decisions().await;
    scene.suite.finish().await;
}

/// A new list is in one of the two tests.
#[test]
fn every_list_of_the_contract_is_tested() {
    let of_contract: BTreeSet<String> =
        raw::methods().iter().filter(|it| is_paged(it)).map(raw::name).collect();
    // Their rows are those of other systems: `identity::billing` and `project::git_host_api` read the pages.
    let provider = [
        "identity.v1.BillingService/ListInvoices",
        "project.v1.GitConnectionService/ListBranches",
        "project.v1.GitConnectionService/ListRepositories",
    ];
    let tested = super::LISTS.iter().map(|it| it.method).chain(METHODS).chain(provider);
    let tested: BTreeSet<String> = tested.map(|it| format!("tenantry.{it}")).collect();
    assert_eq!(of_contract, tested);
    let count = format!("{} lists are tested\n", tested.len());
    std::io::stderr().write_all(count.as_bytes()).unwrap();
}
