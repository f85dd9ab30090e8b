//! Invitations to organizations, and notifications of people, team inboxes and programs.
//!
//! | concept | module |
//! |---|---|
//! | invitations, their links, mails and pages | `invitation` |
//! | notifications, mail rules, webhooks and alerts | `notification` |
//! | e-mail addresses that opted out, or reject mail | `recipient` |
//! | the mails of both halves, by template | `mails` |
//! | names of roles in texts | `role` |
//! | enums of the contract in columns and JSON | `db_enum` |
//!
//! The halves `invitation` and `notification` do not use each other.

mod db_enum;
mod invitation;
mod mails;
mod notification;
mod recipient;
mod role;

use host::Host;
use worker::reseal::{self, SealedColumn};

use crate::{
    invitation::{link::Links, mail::InvitationMails},
    mails::Mails,
    notification::digest::mail::DigestMails,
    recipient::OptOutLinks,
};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Adds the invitation service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.database("invitation", &MIGRATIONS);
    db.retain_keys_for(&["invitation links", "copied invitation links", "opt-out links"]);
    let secret = |column| SealedColumn {
        table: "webhook",
        column,
        key: reseal::ID,
        purpose: "'webhook secrets'",
        associated_data: "uuid_send(id)",
        convert: None,
    };
    host.add_sealed_columns(&db, &[secret("secret"), secret("old_secret")]);
    let links = Links::new(host.key(), host.config().base_url());
    let opt_out_links = OptOutLinks::new(host.key(), host.config().base_url());
    invitation::install::install(host, &db, &links, &opt_out_links);
    notification::install(host, &db)?;
    let mails = Mails {
        invitations: InvitationMails {
            db: db.clone(),
            links,
            opt_out_links: opt_out_links.clone(),
            per_recipient_max: host.config().invitation_mails_max,
        },
        digests: DigestMails {
            db: db.clone(),
            identity: host.client("invitation", "identity"),
            opt_out_links,
        },
    };
    host.mail(&db, mails)
}
