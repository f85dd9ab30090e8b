//! Accounts, sessions, organizations, members and grants on projects; the only service that answers
//! "may X do Y?".
//!
//! | concept | file |
//! |---|---|
//! | who may do what, as one table | `policy` |
//! | accounts and their passwords | `user`, `password` |
//! | proof of signing in | `session` |
//! | tenants and their plans | `organization` |
//! | who belongs to a tenant | `member`, `team` |
//! | who may enter a project | `project_access` |
//! | what is true at one version, and what follows | `snapshot` |
//! | decisions, and why | `access` |
//! | credentials of programs | `api_key` |

mod access;
mod api_key;
mod member;
mod organization;
mod password;
pub mod policy;
mod project_access;
mod reactions;
mod session;
mod snapshot;
mod team;
mod user;

use std::sync::Arc;

use api::identity::{
    access_service_server::AccessServiceServer, api_key_service_server::ApiKeyServiceServer,
    member_service_server::MemberServiceServer,
    organization_service_server::OrganizationServiceServer,
    project_access_service_server::ProjectAccessServiceServer,
    session_service_server::SessionServiceServer, team_service_server::TeamServiceServer,
    user_service_server::UserServiceServer,
};
use chassis::Host;

/// How much memory the remembered facts of organizations may take.
const SNAPSHOTS_BYTES_MAX: u64 = 64 << 20;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Adds the identity service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.database("identity", &MIGRATIONS);
    let (access, pager) = (host.access(), host.pager());
    let passwords = Arc::new(password::Passwords::new());
    let links = user::Links::new(host.key(), &host.config().base_url);

    let deletion = organization::deletion::Deletion {
        db: db.clone(),
        project: host.client("identity", "project"),
        invitation: host.client("identity", "invitation"),
    };
    let proofs = access::proofs();
    let snapshots = access::Snapshots::new(db.clone(), SNAPSHOTS_BYTES_MAX);
    host.authority(access::Decider::new(db.clone(), proofs.clone(), snapshots.clone()));
    host.rpc(UserServiceServer::new(user::rpc::Rpc {
        db: db.clone(),
        passwords: passwords.clone(),
        links: links.clone(),
    }));
    host.rpc(SessionServiceServer::new(session::rpc::Rpc {
        db: db.clone(),
        passwords,
        proofs: proofs.clone(),
    }));
    host.rpc(ApiKeyServiceServer::new(api_key::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        proofs,
    }));
    host.rpc(TeamServiceServer::new(team::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
    }));
    host.rpc(OrganizationServiceServer::new(organization::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        created_orgs_max: host.config().created_orgs_max,
        deletion,
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
    host.rpc(AccessServiceServer::new(access::rpc::Rpc { db: db.clone(), access, snapshots }));
    host.on(&db, reactions::project_abandoned);
    host.on(&db, reactions::project_closed);
    host.on(&db, reactions::invitation_closed);
    let purged = db.clone();
    host.task("purge", |stop| organization::deletion::purge_all(purged, stop));
    host.mail(&db, &[user::VERIFY], user::mail::writer(db.clone(), links))
}
