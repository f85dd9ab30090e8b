//! Invitations to organizations, and the mails about them.
//!
//! | concept | file |
//! |---|---|
//! | offers of a role, their life and their uses | `invitation` |
//! | the link that is mailed | `link` |
//! | what follows when an inviter loses their right | `reactions` |

mod invitation;
mod link;
mod reactions;

use api::invitation::invitation_service_server::InvitationServiceServer;
use chassis::Host;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Adds the invitation service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.database("invitation", &MIGRATIONS);
    let links = link::Links::new(host.key(), &host.config().base_url);
    let rpc = invitation::rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        pager: host.pager(),
        identity: host.client("invitation", "identity"),
        links: links.clone(),
    };
    host.rpc(InvitationServiceServer::new(rpc));
    host.on(&db, reactions::member_joined);
    host.on(&db, reactions::member_role_changed);
    host.on(&db, reactions::member_removed);
    host.on(&db, reactions::member_left);
    host.on(&db, reactions::organization_deleted);
    host.on(&db, reactions::organization_purged);
    host.mail(&db, &[invitation::MAIL], invitation::mail::writer(db.clone(), links))
}
