//! The record of everything that happened. Consumes every event of the suite into one Merkle tree per
//! organization and signs the heads.
//!
//! | concept | file |
//! |---|---|
//! | hashes, roots and paths of a tree (RFC 6962) | `merkle` |
//! | signed heads (C2SP tlog-checkpoint) | `checkpoint` |
//! | entries: appending, listing, proving | `log` |

mod checkpoint;
mod log;
mod merkle;
mod reactions;

use std::sync::Arc;

use api::audit::audit_service_server::AuditServiceServer;
use chassis::Host;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Adds the audit service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.database("audit", &MIGRATIONS);
    let key = log::key::read_or_create(&host.folder().path().join("audit.key"))?;
    let signer = Arc::new(checkpoint::Signer::new(key, &host.config().audit_origin));
    let rpc = log::rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        pager: host.pager(),
        signer: signer.clone(),
    };
    host.rpc(AuditServiceServer::new(rpc));
    host.on_all(&db, reactions::record);
    host.task("the signer of the audit log", move |stop| log::signing::run(db, signer, stop));
    Ok(())
}
