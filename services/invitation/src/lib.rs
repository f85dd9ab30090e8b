//! Invitations to organizations, and everything that people and programs are told.
//!
//! | concept | file |
//! |---|---|
//! | offers of a role, their life and their uses | `invitation` |
//! | the links that are mailed and copied | `link` |
//! | the pages that a mail leads to | `page` |
//! | addresses that want no mail, or get none | `recipient` |
//! | what can be told, how, and to whom | `catalogue` |
//! | events that wait to be told | `news` |
//! | how people want to be told, and what they are | `preference`, `notification` |
//! | mails about events, to people and team inboxes | `digest`, `mail_rule` |
//! | HTTP posts about events | `webhook` |
//! | what is wrong until it recovers | `alert` |
//! | what follows from events of others | `reactions` |
//! | rows that are deleted after a while | `retention` |

mod alert;
mod catalogue;
mod digest;
mod invitation;
mod link;
mod mail_rule;
mod mails;
mod news;
mod notification;
mod page;
mod preference;
mod reactions;
mod recipient;
mod retention;
mod webhook;

use std::sync::Arc;

use api::invitation::{
    alert_service_server::AlertServiceServer, invitation_service_server::InvitationServiceServer,
    mail_rule_service_server::MailRuleServiceServer,
    notification_service_server::NotificationServiceServer,
    webhook_service_server::WebhookServiceServer,
};
use chassis::{
    Db, Host,
    throttle::{Guesses, Throttle},
};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Changes of webhooks by one API key in a minute (NO-9).
const HOOK_CHANGES_MAX: u32 = 10;

/// Adds the invitation service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.database("invitation", &MIGRATIONS);
    let links = link::Links::new(host.key(), host.config().base_url());
    install_invitations(host, &db, &links);
    install_notifications(host, &db);
    install_webhooks(host, &db)?;
    host.on(&db, reactions::member_joined);
    host.on(&db, reactions::member_role_changed);
    host.on(&db, reactions::member_removed);
    host.on(&db, reactions::member_left);
    host.on(&db, reactions::organization_deleted);
    host.on(&db, reactions::organization_purged);
    host.on(&db, reactions::subscription_changed);
    host.on(&db, reactions::account_deleted);
    host.on(&db, reactions::former_addresses_erased);
    host.on(&db, reactions::project_deleted);
    host.on_each(&db, catalogue::events(), news::editor::hear);
    retention::install(host, &db);
    let identity = host.client("invitation", "identity");
    let recipient_max = host.config().invitation_mails_max;
    let mails = mails::Mails {
        invitations: invitation::mail::Mails {
            db: db.clone(),
            links: links.clone(),
            recipient_max,
        },
        digests: digest::mail::Mails { db: db.clone(), identity, links },
    };
    host.mail(&db, mails)
}

/// Invitations, and the pages that lead to them.
fn install_invitations(host: &mut Host, db: &Db, links: &link::Links) {
    let blocked = "too many links from this address were wrong; it is blocked for 15 minutes";
    let rpc = invitation::rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        pager: host.pager(),
        identity: host.client("invitation", "identity"),
        links: links.clone(),
        guesses: Guesses::new(host.clock(), blocked),
        invitations_max: host.config().invitations_max,
    };
    host.rpc(InvitationServiceServer::new(rpc));
    let swept = db.clone();
    host.task("expiry", |stop| invitation::sweep::run(swept, stop));
    let pages = page::site::Pages {
        db: db.clone(),
        links: links.clone(),
        identity: host.client("invitation", "identity"),
        invitation: host.client("invitation", "invitation"),
    };
    host.site(page::site::PATHS, pages);
}

/// What people and team inboxes are told.
fn install_notifications(host: &mut Host, db: &Db) {
    host.rpc(NotificationServiceServer::new(notification::rpc::Rpc {
        db: db.clone(),
        pager: host.pager(),
        draining: host.draining(),
    }));
    let (access, pager) = (host.access(), host.pager());
    host.rpc(MailRuleServiceServer::new(mail_rule::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
    }));
    let identity = host.client("invitation", "identity");
    host.rpc(AlertServiceServer::new(alert::rpc::Rpc {
        db: db.clone(),
        access,
        pager,
        identity: identity.clone(),
    }));
    let editor = news::editor::Editor { db: db.clone(), identity };
    host.task("news", |stop| editor.run(stop));
}

/// HTTP posts about events.
fn install_webhooks(host: &mut Host, db: &Db) -> anyhow::Result<()> {
    let exceptions = webhook::target::Exceptions::parse(&host.config().webhook_exceptions)?;
    let sender = Arc::new(webhook::sender::Sender::new(host.config().webhook_dns, exceptions)?);
    let seal = host.key().derive("webhook secrets");
    host.rpc(WebhookServiceServer::new(webhook::rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        pager: host.pager(),
        sender: sender.clone(),
        seal,
        changes: Throttle::per_minute(HOOK_CHANGES_MAX, host.clock()),
    }));
    let dispatcher = webhook::dispatch::Dispatcher { db: db.clone(), sender, seal };
    host.task("webhooks", |stop| dispatcher.run(stop));
    Ok(())
}
