//! Invitations to organizations, and the mails about them.
//!
//! | concept | file |
//! |---|---|
//! | offers of a role, their life and their uses | `invitation` |
//! | the links that are mailed and copied | `link` |
//! | the pages that a mail leads to | `page` |
//! | addresses that want no mail, or get none | `recipient` |
//! | what follows when an inviter loses their right | `reactions` |

mod invitation;
mod link;
mod mails;
mod page;
mod reactions;
mod recipient;

use api::invitation::invitation_service_server::InvitationServiceServer;
use chassis::{Host, throttle::Guesses};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Adds the invitation service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.database("invitation", &MIGRATIONS);
    let links = link::Links::new(host.key(), host.config().base_url());
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
    host.on(&db, reactions::member_joined);
    host.on(&db, reactions::member_role_changed);
    host.on(&db, reactions::member_removed);
    host.on(&db, reactions::member_left);
    host.on(&db, reactions::organization_deleted);
    host.on(&db, reactions::organization_purged);
    host.on(&db, reactions::subscription_changed);
    let swept = db.clone();
    host.task("expiry", |stop| invitation::sweep::run(swept, stop));
    let pages = page::site::Pages {
        db: db.clone(),
        links: links.clone(),
        identity: host.client("invitation", "identity"),
        invitation: host.client("invitation", "invitation"),
    };
    host.site(page::site::PATHS, pages);
    let recipient_max = host.config().invitation_mails_max;
    let invitations = invitation::mail::Mails { db: db.clone(), links, recipient_max };
    host.mail(&db, mails::Mails { invitations })
}
