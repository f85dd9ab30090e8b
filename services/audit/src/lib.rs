//! The record of everything that happened. Consumes every event of the suite into one Merkle tree per
//! organization, signs the heads, proves, searches, exports, forgets people, and purges what is old.
//!
//! | concept | file |
//! |---|---|
//! | hashes, roots and proofs of a tree (RFC 6962), and how its nodes are kept | `merkle`, `tile` |
//! | signed heads (C2SP), and what the signer remembers | `note`, `memory`, `signer` |
//! | what arrives, what is found by, what is personal | `arrival`, `facts`, `seal`, `person` |
//! | one batch into the log | `log` |
//! | paths and receipts | `proof` |
//! | lists, and what comes | `entry`, `difference` |
//! | files | `export` |
//! | how long entries are kept | `retention` |
//! | deriving everything again | `fsck` |

mod arrival;
mod difference;
mod entry;
mod export;
mod facts;
mod fsck;
#[cfg(test)]
#[path = "../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each target needs a part of it")]
mod fuzz_input;
mod log;
mod memory;
mod merkle;
mod note;
mod person;
mod proof;
mod retention;
mod seal;
mod signer;
mod tile;

use std::sync::Arc;

use anyhow::Context;
use api::audit::{
    audit_service_server::AuditServiceServer, ingest_service_server::IngestServiceServer,
    log_service_server::LogServiceServer,
};
use chassis::Host;

pub use fsck::Findings;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();
/// The role of the service appends and reads.
const PRIVILEGES: &str = include_str!("../privileges.sql");

/// Adds the audit service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.restricted_database("audit", &MIGRATIONS, PRIVILEGES);
    let folder = host.folder().path().to_owned();
    let keys = signer::key::read_or_create(&folder)?;
    let signer = Arc::new(note::Signer::new(keys, &host.config().audit_origin));
    signer::key::known(&folder, &signer.verifier_keys())?;
    let ledger = Arc::new(log::ingest::Ledger::new(
        db.clone(),
        person::Vault::new(host.key()),
        host.guards().one_entry,
    )?);
    host.rpc(AuditServiceServer::new(entry::rpc::Rpc {
        reader: entry::read::Reader::new(db.clone(), ledger.clone())?,
        access: host.access(),
        pager: host.pager(),
        draining: host.draining(),
        signer: signer.clone(),
    }));
    host.rpc(LogServiceServer::new(proof::rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        signer: signer.clone(),
        ledger: ledger.clone(),
        witnesses: witnesses(host)?,
    }));
    host.rpc(IngestServiceServer::new(log::rpc::Rpc { db: db.clone(), ledger: ledger.clone() }));
    host.on_all(&db, ledger);
    let purged = db.clone();
    host.task("the purge of the audit log", move |stop| retention::job::run(purged, stop));
    host.task("the signer of the audit log", move |stop| {
        signer::run::run(db, signer, folder, stop)
    });
    Ok(())
}

/// The witnesses that the operator has named.
fn witnesses(host: &Host) -> anyhow::Result<Vec<note::Witness>> {
    let read = |it: &String| {
        note::Witness::parse(it).with_context(|| {
            format!(
                "--audit-witness-keys: {it} is no C2SP verifier key of type 4, <name>+<id>+<key>"
            )
        })
    };
    host.config().audit_witness_keys.iter().map(read).collect()
}

/// Derives the whole log again and compares it with what is stored and with what was signed. Reads only.
pub async fn fsck(host: &Host) -> anyhow::Result<Findings> {
    let db = host.databases().find(|it| it.name() == "audit").context("no audit service")?;
    let folder = host.folder().path();
    let keys = signer::key::read_or_create(folder)?;
    let keys = note::Signer::new(keys, &host.config().audit_origin).verifier_keys();
    let keys = signer::key::known(folder, &keys)?;
    let check = fsck::check::Check::new(db.clone(), &keys, &signer::key::journal(folder))?;
    Ok(check.run().await?)
}

/// Makes a new signing key in a data directory. Both keys sign until the previous one is removed.
pub fn rotate_key(folder: &std::path::Path) -> anyhow::Result<()> {
    signer::key::rotate(folder)
}
