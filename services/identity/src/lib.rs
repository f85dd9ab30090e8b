//! Accounts, sessions, organizations, members and grants on projects; the only service that answers
//! "may X do Y?".
//!
//! | concept | file |
//! |---|---|
//! | who may do what, as one table | `policy` |
//! | accounts and their passwords | `user`, `password` |
//! | proof of signing in | `session` |
//! | tenants and their plans | `organization` |
//! | who belongs to a tenant | `member` |
//! | who may enter a project | `project_access` |
//! | decisions | `access` |

mod access;
mod member;
mod organization;
mod password;
pub mod policy;
mod project_access;
mod reactions;
mod session;
mod user;

use std::sync::Arc;

use api::identity::{
    access_service_server::AccessServiceServer, member_service_server::MemberServiceServer,
    organization_service_server::OrganizationServiceServer,
    project_access_service_server::ProjectAccessServiceServer,
    session_service_server::SessionServiceServer, user_service_server::UserServiceServer,
};
use chassis::Host;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Adds the identity service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.database("identity", &MIGRATIONS);
    let (access, pager) = (host.access(), host.pager());
    let passwords = Arc::new(password::Passwords::new());
    let links = user::Links::new(host.key(), &host.config().base_url);

    let proofs = access::proofs();
    host.authority(access::Decider::new(db.clone(), proofs.clone()));
    host.rpc(UserServiceServer::new(user::rpc::Rpc {
        db: db.clone(),
        passwords: passwords.clone(),
        links: links.clone(),
    }));
    host.rpc(SessionServiceServer::new(session::rpc::Rpc { db: db.clone(), passwords, proofs }));
    host.rpc(OrganizationServiceServer::new(organization::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        created_orgs_max: host.config().created_orgs_max,
    }));
    host.rpc(MemberServiceServer::new(member::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
    }));
    host.rpc(ProjectAccessServiceServer::new(project_access::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager,
    }));
    host.rpc(AccessServiceServer::new(access::rpc::Rpc { db: db.clone(), access }));
    host.on(&db, reactions::project_abandoned);
    host.mail(&db, &[user::VERIFY], user::mail::writer(db.clone(), links))
}
