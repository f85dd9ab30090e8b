//! Installation of the invitation half of the service.

use api::invitation::invitation_service_server::InvitationServiceServer;
use chassis::{Db, rate_limit::FailureLimit};
use host::Host;

use super::{
    acceptance::cleanup::ReservationCleanup, expiry, link::Links, page, reactions, rpc, store,
};
use crate::recipient::OptOutLinks;

/// Adds the invitation half of the service to a process.
pub(crate) fn install(host: &mut Host, db: &Db, links: &Links, opt_out_links: &OptOutLinks) {
    let identity = host.client("invitation", "identity");
    let blocked = "too many wrong links from this network address; retry in 15 minutes";
    host.rpc(InvitationServiceServer::new(rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        pager: host.pager(),
        identity: identity.clone(),
        links: links.clone(),
        wrong_links: FailureLimit::new(db, "wrong invitation links", blocked),
        invitations_per_hour_max: host.config().invitations_max,
    }));
    let pages = page::site::Pages {
        db: db.clone(),
        opt_out_links: opt_out_links.clone(),
        identity: identity.clone(),
        invitation: host.client("invitation", "invitation"),
    };
    host.site(page::site::PATHS, pages);
    let expiry_db = db.clone();
    host.task("invitation expiry", |stop| expiry::run(expiry_db, stop));
    let cleanup = ReservationCleanup { db: db.clone(), identity };
    host.task("reservation cleanup", |stop| cleanup.run(stop));
    install_reactions(host, db);
    host.add_retention_step(db, store::delete_old);
}

fn install_reactions(host: &mut Host, db: &Db) {
    host.on(db, reactions::member_joined);
    host.on(db, reactions::member_role_changed);
    host.on(db, reactions::member_removed);
    host.on(db, reactions::member_left);
    host.on(db, reactions::organization_deleted);
    host.on(db, reactions::organization_purged);
    host.on(db, reactions::subscription_changed);
    host.on(db, reactions::account_deleted);
    host.on(db, reactions::former_addresses_erased);
    host.on(db, reactions::project_deleted);
}
