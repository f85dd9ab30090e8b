//! Accounts, sessions, organizations, members and grants on projects; the only service that answers
//! "may X do Y?".
//!
//! | concept | file |
//! |---|---|
//! | who may do what, as one table | `policy` |
//! | accounts, their passwords, and the mails about them | `user`, `password`, `mailed_link` |
//! | proof of signing in | `session`, `second_factor`, `provider` |
//! | tenants and their plans | `organization` |
//! | who belongs to a tenant | `member`, `team` |
//! | who may enter a project | `project_access` |
//! | what is true at one version, and what follows | `snapshot` |
//! | decisions, and why | `access` |
//! | credentials of programs | `api_key` |
//! | rows that are deleted after a while | `retention` |

mod access;
mod api_key;
mod mailed_link;
mod member;
mod organization;
mod password;
pub mod policy;
mod project_access;
mod provider;
mod reactions;
mod retention;
mod second_factor;
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
    second_factor_service_server::SecondFactorServiceServer,
    session_service_server::SessionServiceServer, team_service_server::TeamServiceServer,
    user_service_server::UserServiceServer,
};
use chassis::{Config, Db, Host};

/// How much memory the remembered facts of organizations may take.
const SNAPSHOTS_BYTES_MAX: u64 = 64 << 20;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Adds the identity service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.database("identity", &MIGRATIONS);
    let proofs = access::proofs();
    let snapshots = access::Snapshots::new(db.clone(), SNAPSHOTS_BYTES_MAX);
    host.authority(access::Decider::new(db.clone(), proofs.clone(), snapshots.clone()));
    install_accounts(host, &db, &proofs)?;
    install_organizations(host, &db);
    let (access, pager) = (host.access(), host.pager());
    host.rpc(ApiKeyServiceServer::new(api_key::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        proofs,
    }));
    host.rpc(AccessServiceServer::new(access::rpc::Rpc {
        db: db.clone(),
        access,
        pager,
        snapshots,
    }));
    retention::install(host, &db);
    host.on(&db, reactions::project_abandoned);
    host.on(&db, reactions::project_deleted);
    host.on(&db, reactions::project_closed);
    host.on(&db, reactions::invitation_closed);
    Ok(())
}

/// Accounts and the ways to sign in to them.
fn install_accounts(host: &mut Host, db: &Db, proofs: &access::Proofs) -> anyhow::Result<()> {
    let passwords = Arc::new(password::Passwords::new(host.key()));
    let links = mailed_link::Links::new(host.key(), host.config().base_url());
    let sources_max = host.config().sign_ins_max;
    let sign_in = session::sign_in::SignIn::new(
        db.clone(),
        passwords.clone(),
        host.key(),
        host.clock(),
        sources_max,
    );
    let sign_in = Arc::new(sign_in);
    let provider = provider::Provider::new(db.clone(), host.key(), provider_of(host.config()))?;
    host.rpc(UserServiceServer::new(user::rpc::Rpc {
        db: db.clone(),
        passwords,
        links: links.clone(),
        proofs: proofs.clone(),
        sign_in: sign_in.clone(),
    }));
    host.rpc(SecondFactorServiceServer::new(second_factor::rpc::Rpc {
        db: db.clone(),
        proofs: proofs.clone(),
        sign_in: sign_in.clone(),
    }));
    host.rpc(SessionServiceServer::new(session::rpc::Rpc {
        db: db.clone(),
        sign_in,
        provider,
        pager: host.pager(),
        proofs: proofs.clone(),
    }));
    host.mail(db, mailed_link::mail::Mails { db: db.clone(), links })
}

/// The identity provider that the settings name.
fn provider_of(config: &Config) -> Option<provider::Settings> {
    let redirect = || format!("{}/callback", config.base_url());
    Some(provider::Settings {
        issuer: config.oidc_issuer.clone()?,
        client_id: config.oidc_client_id.clone()?,
        client_secret: config.oidc_client_secret.clone(),
        redirect_url: config.oidc_redirect_url.clone().unwrap_or_else(redirect),
    })
}

/// Organizations, who belongs to them, and what they may do.
fn install_organizations(host: &mut Host, db: &Db) {
    let (access, pager) = (host.access(), host.pager());
    let deletion = organization::deletion::Deletion {
        db: db.clone(),
        project: host.client("identity", "project"),
        invitation: host.client("identity", "invitation"),
    };
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
    host.rpc(TeamServiceServer::new(team::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
    }));
    let grants = project_access::rpc::Rpc { db: db.clone(), access, pager };
    host.rpc(ProjectAccessServiceServer::new(grants));
    let purged = db.clone();
    host.task("purge", |stop| organization::purge::run(purged, stop));
}
