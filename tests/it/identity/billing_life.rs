//! The life of a customer of Stripe, from the trial to the end: state, mails and audit entries of each step.
//! The table is in `docs/guides/billing.md`.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};
use testkit::Person;
use time::Duration;

use crate::support::{
    billing::Customer,
    world::{new_member, text},
};

/// Beginnings of the audit actions in the table.
const ACTIONS: [&str; 5] =
    ["subscription.", "checkout.", "billing_portal.", "invoice.", "member.joined"];

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    name: &'static str,
    /// State and plan.
    state: String,
    /// Members, and paid seats if the plan charges by members.
    seats: String,
    mails: Vec<String>,
    entries: Vec<String>,
}

/// The life so far.
struct Life {
    customer: Customer,
    steps: Vec<Step>,
    seen_mails: BTreeSet<String>,
    seen_entries: usize,
}

impl Life {
    /// Moves the clock, signs the Owner in again, and waits for the daily comparison with the provider, which
    /// would find the next change before the webhook about it.
    async fn advance(&mut self, by: Duration) {
        let suite = &self.customer.suite;
        suite.clock.advance(by);
        self.customer.owner = self.customer.owner.sign_in_again().await;
        let now = suite.clock.now();
        testkit::eventually("the daily comparison", async || {
            let due = "select count(*) from identity.subscription where synced_at <= $1 - interval '1 day'";
            let due = sqlx::query_scalar::<_, i64>(due).bind(now).fetch_one(&suite.pool).await;
            (due.unwrap() == 0).then_some(())
        })
        .await;
    }

    /// Records a step after a mail with this subject; empty for none.
    async fn record(&mut self, name: &'static str, mail: &str) {
        self.customer.wait_for_webhooks().await;
        self.customer.suite.wait_for_log().await;
        if !mail.is_empty() {
            self.wait_for_notification(mail).await;
            // Mails that are not urgent wait for 15 minutes.
            self.advance(Duration::minutes(16)).await;
            testkit::eventually(mail, async || {
                self.new_mails().iter().any(|(_, subject)| subject == mail).then_some(())
            })
            .await;
        }
        let subscription = self.customer.subscription().await;
        let field = |name: &str, prefix: &str| text(&subscription[name]).replace(prefix, "");
        let mut seats = text(&subscription["seatsUsed"]);
        if let Some(paid) = subscription["seatsPaid"].as_str() {
            seats += &format!(" of {paid}");
        }
        let mails = self.new_mails();
        self.seen_mails.extend(mails.iter().map(|it| it.0.clone()));
        let entries = self.entries().await;
        let new_entries = entries[self.seen_entries..].to_vec();
        self.seen_entries = entries.len();
        self.steps.push(Step {
            name,
            state: format!("{} {}", field("state", "SUBSCRIPTION_"), field("plan", "PLAN_")),
            seats,
            mails: mails.into_iter().map(|it| it.1).collect(),
            entries: new_entries,
        });
    }

    /// Waits until the inbox of the Owner has a notification. The time of its mail is then determined, too.
    async fn wait_for_notification(&self, title: &str) {
        let list = "notification.v1.NotificationService/ListNotifications";
        testkit::eventually(title, async || {
            let listed = self.customer.owner.call_ok(list, json!({ "pageSize": 100 })).await;
            let rows = listed["notifications"].as_array().cloned().unwrap_or_default();
            rows.iter().any(|it| it["title"] == title).then_some(())
        })
        .await;
    }

    /// File names and subjects of mails to the Owner about the subscription that no step has recorded.
    fn new_mails(&self) -> Vec<(String, String)> {
        let folder = self.customer.suite.data_dir().join("mail");
        let mut mails = vec![];
        for file in fs::read_dir(folder).unwrap().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let mail = fs::read_to_string(file.path()).unwrap_or_default();
            let header = |name: &str| {
                mail.lines().find_map(|it| it.strip_prefix(name)).unwrap_or_default().to_owned()
            };
            let subject = header("Subject: [Acme] ");
            let is_about = header("To: ").contains("owner@") && subject.contains("subscription");
            if is_about && !self.seen_mails.contains(&name) {
                mails.push((name, subject));
            }
        }
        mails.sort();
        mails
    }

    /// Audit actions about billing, oldest first.
    async fn entries(&self) -> Vec<String> {
        let sql = "select value from audit.entry join audit.term on term.number = entry.action
                   order by entry.tree, entry.index";
        let actions: Vec<String> =
            sqlx::query_scalar(sql).fetch_all(&self.customer.suite.pool).await.unwrap();
        let is_billing = |it: &String| ACTIONS.iter().any(|start| it.starts_with(start));
        actions.into_iter().filter(is_billing).collect()
    }

    fn table(&self) -> String {
        let mut table =
            "| Step | State and plan | Members | Mails about the subscription | Audit entries |\n\
                         |---|---|---|---|---|\n"
                .to_owned();
        for Step { name, state, seats, mails, entries } in &self.steps {
            let entries: Vec<_> = entries.iter().map(|it| format!("`{it}`")).collect();
            let (mails, entries) = (mails.join("<br>"), entries.join("<br>"));
            table += &format!("| {name} | {state} | {seats} | {mails} | {entries} |\n");
        }
        table
    }

    async fn join(&self, email: &str) -> Person {
        let Customer { suite, owner, org, .. } = &self.customer;
        new_member(suite, owner, org, email, "DEVELOPER").await
    }

    /// Pays or fails to pay an invoice, and delivers the event about it.
    async fn invoice(&self, kind: &str, status: &str, state: &str) {
        let account = self.customer.customer_id().await;
        let invoice_status = if kind == "invoice.paid" { "paid" } else { "open" };
        let now = self.customer.now();
        let id = self.customer.stripe.add_invoice(&account, invoice_status, 3_900, now);
        self.customer.stripe.change(|it| status.clone_into(&mut it.status));
        assert_eq!(self.customer.deliver(kind, &id, &account).await, 200);
        self.customer.wait_for(state).await;
    }
}

/// PL-4, PL-46, PL-47, PL-48, PL-49, ID-13.
#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_customer() {
    let customer = Customer::new().await;
    let mut life = Life { customer, steps: vec![], seen_mails: BTreeSet::new(), seen_entries: 0 };
    let refused = life.customer.refusal("ChangePlan", json!({ "plan": "PLAN_PRO" })).await;
    assert_eq!(refused, "CHECKOUT_REQUIRED");
    life.record("created", "").await;

    life.customer.call("CreateCheckoutSession", json!({ "plan": "PLAN_PRO" })).await;
    life.record("checkout begun", "").await;

    let account = life.customer.stripe.complete_checkout(life.customer.now());
    life.customer.deliver("checkout.session.completed", "cs_1", &account).await;
    life.customer.wait_for("SUBSCRIPTION_TRIALING").await;
    life.record("checkout completed: trial", "").await;

    life.advance(Duration::days(14)).await;
    let now = life.customer.now();
    life.customer.stripe.change(|it| it.renew(now));
    life.invoice("invoice.paid", "active", "SUBSCRIPTION_ACTIVE").await;
    life.record("trial over: first payment", "").await;

    life.customer.call("UpdateSeats", json!({ "seatPolicy": "SEAT_POLICY_BUY" })).await;
    life.join("bob@example.com").await;
    life.customer.wait_until("the second seat", |it| it["seatsPaid"] == "2").await;
    life.record("a join buys a seat", "").await;

    life.advance(Duration::days(29)).await;
    life.invoice("invoice.payment_failed", "past_due", "SUBSCRIPTION_PAST_DUE").await;
    life.record("the card fails", "The subscription is past due").await;

    life.advance(Duration::days(7)).await;
    life.join("carl@example.com").await;
    life.customer.wait_until("the third seat", |it| it["seatsPaid"] == "3").await;
    life.record("grace: everything works", "").await;

    life.advance(Duration::days(7)).await;
    life.customer.wait_for("SUBSCRIPTION_BLOCKED").await;
    let team = json!({ "orgId": life.customer.org, "name": "Late" });
    let refused = life.customer.owner.call_err("identity.v1.TeamService/CreateTeam", team).await;
    assert_eq!(refused, "SUBSCRIPTION_BLOCKED");
    life.record("grace over: blocked", "The subscription is blocked").await;

    // The portal is open while the organization is blocked: there the Owner changes the card.
    life.customer.call("CreatePortalSession", json!({})).await;
    let now = life.customer.now();
    life.customer.stripe.change(|it| it.renew(now));
    life.invoice("invoice.paid", "active", "SUBSCRIPTION_ACTIVE").await;
    life.record("paid", "The subscription is active again").await;

    for (name, seats) in [("dora", "4"), ("emil", "5"), ("fred", "6")] {
        life.join(&format!("{name}@example.com")).await;
        life.customer.wait_until("the next seat", |it| it["seatsPaid"] == seats).await;
    }
    let preview = life.customer.call("PreviewPlanChange", json!({ "plan": "PLAN_STARTER" })).await;
    let rows = preview["preview"]["resources"].as_array().unwrap();
    let members = rows.iter().find(|it| it["key"] == "members").unwrap();
    assert_eq!(members["excess"], "1", "{preview}");
    life.customer.call("ChangePlan", json!({ "plan": "PLAN_STARTER" })).await;
    life.record("six members, smaller plan ordered", "").await;

    life.advance(Duration::days(30) - Duration::minutes(50)).await;
    let met = |it: &Value| it["plan"] == "PLAN_STARTER";
    life.customer.wait_until("the smaller plan", met).await;
    let org = &life.customer.org;
    let invite = json!({ "orgId": org, "email": "gina@example.com", "role": "ORG_ROLE_VIEWER" });
    let method = "invitation.v1.InvitationService/CreateInvitation";
    assert_eq!(life.customer.owner.call_err(method, invite).await, "MEMBER_LIMIT_REACHED");
    life.record("end of the period: downgraded, six members stay", "").await;

    life.customer.call("CancelSubscription", json!({})).await;
    life.record("cancelled for the end of the period", "").await;

    life.advance(Duration::days(31)).await;
    life.customer.change(|it| "canceled".clone_into(&mut it.status)).await;
    life.customer.wait_for("SUBSCRIPTION_CANCELED").await;
    life.record("ended", "The subscription has ended").await;

    let table = life.table();
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guides/billing.md");
    let guide = fs::read_to_string(guide).unwrap();
    assert!(guide.contains(&table), "docs/guides/billing.md has another table than:\n{table}");
    life.customer.suite.finish().await;
}
