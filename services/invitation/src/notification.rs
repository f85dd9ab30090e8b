//! Notifications: which events of the suite reach people, team inboxes and webhooks, and by which channel.
//!
//! | concept | module |
//! |---|---|
//! | notification types and their texts | `catalogue` |
//! | accounts that may receive a notification | `audience` |
//! | events that wait for delivery, and their delivery to every channel | `fanout` |
//! | notifications in the application | `inbox` |
//! | channels that people choose, and quiet hours | `preference` |
//! | mails to people and team inboxes | `digest`, `mail_rule` |
//! | HTTP requests to receivers | `webhook` |
//! | open problems of servers and environments | `alert` |
//! | organization or project of a webhook, a mail rule or an alert; common code of their stores | `scope` |
//! | reactions to events of other services | `reactions` |
//! | deletion with an organization, project or account, or after the retention | `deletion` |

mod alert;
mod audience;
mod catalogue;
mod deletion;
pub(crate) mod digest;
mod fanout;
mod inbox;
mod mail_rule;
mod preference;
mod reactions;
mod scope;
mod webhook;

use std::sync::Arc;

use api::notification::{
    alert_service_server::AlertServiceServer, mail_rule_service_server::MailRuleServiceServer,
    notification_service_server::NotificationServiceServer,
    webhook_service_server::WebhookServiceServer,
};
use chassis::{Db, public_address::Exceptions, rate_limit::RateLimit};
use host::Host;
use time::Duration;
use worker::partition::PartitionedTable;

/// Changes of webhooks by one API key in a minute (NO-9).
const WEBHOOK_CHANGES_MAX: u32 = 10;

/// Adds the notification half of the service to a process.
pub(crate) fn install(host: &mut Host, db: &Db) -> anyhow::Result<()> {
    install_inbox(host, db);
    install_webhooks(host, db)?;
    host.on(db, reactions::organization_purged);
    host.on(db, reactions::project_deleted);
    host.on(db, reactions::account_deleted);
    host.on_each(db, catalogue::event_names(), fanout::worker::enqueue);
    install_retention(host, db);
    Ok(())
}

/// Adds the tables of this half to the retention job.
fn install_retention(host: &mut Host, db: &Db) {
    let retention = host.config().retention;
    host.add_retention_step(db, deletion::store::delete_old);
    host.add_partitioned_table(
        db,
        PartitionedTable {
            name: "notification",
            interval: Duration::days(28),
            retention: Duration::days(retention.notification_retention_days.into()),
            age_column: None,
        },
    );
    host.add_partitioned_table(
        db,
        PartitionedTable {
            name: "webhook_delivery",
            interval: Duration::days(7),
            retention: Duration::days(retention.webhook_delivery_retention_days.into()),
            // The next attempt of a delivery that is replayed.
            age_column: Some("due_at"),
        },
    );
}

/// Adds the inbox, mail rules, alerts and the fan-out worker.
fn install_inbox(host: &mut Host, db: &Db) {
    let access = host.access();
    let pager = host.pager();
    let identity = host.client("invitation", "identity");
    host.rpc(NotificationServiceServer::new(inbox::rpc::Rpc {
        db: db.clone(),
        pager: pager.clone(),
        draining: host.draining(),
    }));
    host.rpc(MailRuleServiceServer::new(mail_rule::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
    }));
    host.rpc(AlertServiceServer::new(alert::rpc::Rpc {
        db: db.clone(),
        access,
        pager,
        identity: identity.clone(),
    }));
    host.queue("notification", db, fanout::queue);
    let worker = fanout::worker::FanoutWorker { db: db.clone(), identity };
    host.task("notification fan-out", |stop| worker.run(stop));
}

/// Adds webhooks and the dispatcher of their deliveries.
fn install_webhooks(host: &mut Host, db: &Db) -> anyhow::Result<()> {
    let exceptions = &host.config().webhook_exceptions;
    let exceptions = Exceptions::parse("--webhook-exceptions", exceptions)?;
    let sender = Arc::new(webhook::sender::Sender::new(host.config().webhook_dns, exceptions)?);
    let secret_keys = host.key().derive("webhook secrets");
    host.rpc(WebhookServiceServer::new(webhook::rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        pager: host.pager(),
        sender: sender.clone(),
        secret_keys: secret_keys.clone(),
        changes: RateLimit::per_minute(
            db,
            "changes of webhooks by an API key",
            WEBHOOK_CHANGES_MAX,
            "this API key changed webhooks ten times within a minute; retry later",
        ),
    }));
    host.queue("webhook_delivery", db, webhook::delivery::store::queue);
    let dispatcher = webhook::dispatcher::Dispatcher { db: db.clone(), sender, secret_keys };
    host.task("webhooks", |stop| dispatcher.run(stop));
    Ok(())
}
