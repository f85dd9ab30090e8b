//! Accounts, sessions, organizations, members and grants on projects. The only service that authenticates
//! callers and decides about their permissions.
//!
//! Each concept is a module, whose files form layers. A file imports only files of earlier layers, and files
//! of its own layer that are earlier in the table (`tests/it/tidy/modules.rs`). The rules are in the crate
//! `identity_rules`, which does no I/O.
//!
//! | layer | files |
//! |---|---|
//! | shared types | `column` (stored enums), `credential` (stored credentials), `password/pool` (hashing) |
//! | statements | `session/store`, `user/store`, `member/store`, then the other `*/store` |
//! | calls to other services | `organization/peers`, `provider/client`, `billing/provider` |
//! | decisions | `access`: authentication, decisions, locks of organizations |
//! | commands | `session/commands`, `member/commands`, then the other `*/commands` |
//! | entry points | `*/rpc` with `*/wire`, `session/support`, `reactions`, `retention`, |
//! | | `organization/purge`, `mailed_link/renderer`, `billing/hook`, `billing/worker` |

mod access;
mod api_key;
mod billing;
mod column;
mod credential;
mod mailed_link;
mod member;
mod organization;
mod password;
mod project_access;
mod provider;
mod reactions;
mod retention;
mod second_factor;
mod session;
mod team;
mod user;

use std::sync::Arc;

use api::identity::{
    access_service_server::AccessServiceServer, api_key_service_server::ApiKeyServiceServer,
    billing_service_server::BillingServiceServer, member_service_server::MemberServiceServer,
    organization_service_server::OrganizationServiceServer,
    project_access_service_server::ProjectAccessServiceServer,
    second_factor_service_server::SecondFactorServiceServer,
    session_service_server::SessionServiceServer, team_service_server::TeamServiceServer,
    user_service_server::UserServiceServer,
};
use chassis::{Config, Db};
use host::Host;
use identity_rules::mailed_link::LinkFactory;
use worker::reseal::{self, SealedColumn};

use crate::{billing::provider::Provider, credential::CredentialCache, organization::peers::Peers};

/// Memory of the snapshot cache, in bytes.
const SNAPSHOT_CACHE_BYTES_MAX: u64 = 64 << 20;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Adds the identity service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.database("identity", &MIGRATIONS);
    let credentials = credential::new_cache();
    let (snapshots, waiting) = access::SnapshotCache::new(db.clone(), SNAPSHOT_CACHE_BYTES_MAX);
    let loader = snapshots.clone();
    host.task("access snapshots", move |stop| loader.load_in_background(waiting, stop));
    let authority = access::LocalAuthority::new(db.clone(), credentials.clone(), snapshots.clone());
    host.set_authority(authority);
    db.retain_keys_for(&["password pepper", "verification links"]);
    host.add_sealed_columns(&db, &sealed_columns());
    install_accounts(host, &db, &credentials)?;
    install_organizations(host, &db)?;
    install_access(host, &db, credentials, snapshots);
    retention::install(host, &db);
    host.on(&db, reactions::project_abandoned);
    host.on(&db, reactions::project_deleted);
    host.on(&db, reactions::project_cleanup_finished);
    host.on(&db, reactions::invitation_cleanup_finished);
    Ok(())
}

/// Returns the columns with values that the secret key of the deployment seals.
fn sealed_columns() -> [SealedColumn; 2] {
    let column = |table, column, purpose| SealedColumn {
        table,
        column,
        key: reseal::ID,
        purpose,
        associated_data: "uuid_send(id)",
        convert: None,
    };
    [
        column("account", "totp_secret", "'second factors'"),
        column("external_login", "sealed", "'external logins'"),
    ]
}

/// Adds the services of accounts, sessions and second factors, and the mails about accounts.
fn install_accounts(host: &mut Host, db: &Db, credentials: &CredentialCache) -> anyhow::Result<()> {
    let passwords = Arc::new(password::PasswordHasher::new(host.key()));
    let links = LinkFactory::new(host.key(), host.config().base_url());
    let sign_in = Arc::new(session::commands::SignIn::new(
        db.clone(),
        passwords.clone(),
        host.key(),
        host.config().sign_ins_max,
    ));
    let settings = provider_settings(host.config());
    let provider = provider::commands::Provider::new(db.clone(), host.key(), settings)?;
    host.rpc(UserServiceServer::new(user::rpc::Rpc {
        db: db.clone(),
        passwords,
        links: links.clone(),
        credentials: credentials.clone(),
        sign_in: sign_in.clone(),
    }));
    host.rpc(SecondFactorServiceServer::new(second_factor::rpc::Rpc {
        db: db.clone(),
        credentials: credentials.clone(),
        sign_in: sign_in.clone(),
    }));
    host.set_account_sessions(Arc::new(session::support::SupportSessions {
        db: db.clone(),
        credentials: credentials.clone(),
    }));
    host.rpc(SessionServiceServer::new(session::rpc::Rpc {
        db: db.clone(),
        sign_in,
        provider,
        pager: host.pager(),
        credentials: credentials.clone(),
    }));
    host.mail(db, mailed_link::renderer::AccountMailRenderer { db: db.clone(), links })
}

/// Returns the settings of the identity provider; `None` if none is configured.
fn provider_settings(config: &Config) -> Option<provider::Settings> {
    let default_redirect = || format!("{}/callback", config.base_url());
    Some(provider::Settings {
        issuer: config.oidc_issuer.clone()?,
        client_id: config.oidc_client_id.clone()?,
        client_secret: config.oidc_client_secret.clone(),
        redirect_url: config.oidc_redirect_url.clone().unwrap_or_else(default_redirect),
    })
}

/// Adds the services of organizations, members, teams and grants, and the purge of deleted organizations.
fn install_organizations(host: &mut Host, db: &Db) -> anyhow::Result<()> {
    let access = host.access();
    let pager = host.pager();
    let peers = Peers {
        project: host.client("identity", "project"),
        invitation: host.client("identity", "invitation"),
    };
    let has_billing_provider = install_billing(host, db, &peers)?;
    host.rpc(OrganizationServiceServer::new(organization::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        created_orgs_max: host.config().created_orgs_max,
        peers: peers.clone(),
        has_billing_provider,
    }));
    host.rpc(MemberServiceServer::new(member::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        peers,
    }));
    host.rpc(TeamServiceServer::new(team::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
    }));
    host.rpc(ProjectAccessServiceServer::new(project_access::rpc::Rpc {
        db: db.clone(),
        access,
        pager,
    }));
    let db = db.clone();
    host.task("purge", |stop| organization::purge::run(db, stop));
    Ok(())
}

/// Adds billing. Returns true if there is a provider.
fn install_billing(host: &mut Host, db: &Db, peers: &Peers) -> anyhow::Result<bool> {
    let settings = billing::settings::Settings::read(host.config())?;
    let billing = billing::commands::Billing::new(db.clone(), settings, peers.clone())?;
    host.rpc(BillingServiceServer::new(billing::rpc::Rpc {
        access: host.access(),
        pager: host.pager(),
        billing: billing.clone(),
    }));
    let Provider::Stripe(stripe) = billing.provider.clone() else { return Ok(false) };
    host.site(billing::hook::PATHS, billing::hook::Hook { db: db.clone(), stripe });
    host.add_retention_step(db, billing::store::delete_old_events);
    host.task("billing", |stop| billing::worker::run(billing, stop));
    Ok(true)
}

/// Adds the services of API keys and decisions.
fn install_access(
    host: &mut Host,
    db: &Db,
    credentials: CredentialCache,
    snapshots: access::SnapshotCache,
) {
    let access = host.access();
    let pager = host.pager();
    host.rpc(ApiKeyServiceServer::new(api_key::rpc::Rpc {
        db: db.clone(),
        access: access.clone(),
        pager: pager.clone(),
        credentials: credentials.clone(),
    }));
    let reader = access::reader::AccessReader { db: db.clone(), snapshots, credentials };
    host.rpc(AccessServiceServer::new(access::rpc::Rpc { access, pager, reader }));
}
