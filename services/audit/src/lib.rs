//! Audit log: appends every event of the suite to one Merkle tree per organization, signs checkpoints, and
//! serves lists, proofs and exports. Erases people, and purges entries past their retention.
//!
//! | concept | module |
//! |---|---|
//! | Merkle trees (RFC 6962): hashes, proof nodes, storage as tiles | `merkle`, `tile`, `tree` |
//! | checkpoints (C2SP signed notes), the signing loop | `note`, `signer` |
//! | journal of signed tree heads | `head_journal` |
//! | damage of a log, its quarantine, the stop of all signing | `damage`, `integrity` |
//! | event decoding, search index, sealing of personal data | `decode`, `search_index`, `seal` |
//! | keys of people, and their erasure | `subject_key` |
//! | appending of events | `log` |
//! | credentials in URLs of old events | `url_credential` |
//! | inclusion and consistency proofs, receipts | `proof` |
//! | publication of signed heads, cosignatures of witnesses | `publication`, `witness` |
//! | tiles over HTTP (C2SP tlog-tiles) | `tlog_tiles` |
//! | lists, searches and streams of entries | `entry`, `diff` |
//! | exports as files | `export` |
//! | continuous export to storage | `export_sink` |
//! | retention, purge and legal hold | `retention` |
//! | gRPC surface: `AuditService`, `LogService`, `IngestService` | `rpc`, `proof::rpc`, `log::rpc` |
//! | gRPC surface: `AuditExportService` | `export_sink::rpc` |
//! | consistency check of the stored log, on request and by time, and the release of repaired logs | `fsck` |

mod damage;
mod db_int;
mod decode;
mod diff;
mod entry;
mod export;
mod export_sink;
mod fsck;
#[cfg(test)]
#[path = "../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each fuzz target uses a part of it")]
mod fuzz_input;
mod head_journal;
mod integrity;
mod leaf_codec;
mod log;
mod merkle;
mod note;
mod proof;
mod publication;
mod retention;
mod rpc;
mod seal;
mod search_index;
mod signer;
mod subject_key;
mod tile;
mod tlog_tiles;
mod tree;
mod url_credential;
mod witness;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use api::audit::{
    audit_service_server::AuditServiceServer, ingest_service_server::IngestServiceServer,
    log_service_server::LogServiceServer,
};
use host::Host;
use tokio::sync::watch;

pub use fsck::Findings;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();
/// Grants of the service's database role, which may append and read, but not change or delete.
const PRIVILEGES: &str = include_str!("../privileges.sql");

/// Adds the audit service to a process.
pub fn install(host: &mut Host) -> anyhow::Result<()> {
    let db = host.restricted_database("audit", &MIGRATIONS, PRIVILEGES);
    db.retain_keys_for(&["audit pseudonyms"]);
    host.add_sealed_columns(&db, &subject_key::SEALED_COLUMNS);
    let data_dir = host.data_dir().path().to_owned();
    let key_file = host.config().audit_key_file.as_deref();
    let keys = signer::key::read_or_generate(&data_dir, key_file)?;
    let signer = Arc::new(note::CheckpointSigner::new(keys, &host.config().audit_origin));
    let verifier_keys = signer::key::record_verifier_keys(&data_dir, &signer.verifier_keys())?;
    let journal = head_journal::HeadJournal::read(&data_dir)?;
    let heads = head_journal::SignedHeads::new(journal);
    let policy = host.config().audit_witnesses.as_deref().map(publication::read_policy);
    let policy = policy.transpose()?.map(Arc::new);
    let log_name = &host.config().audit_origin;
    let guard = integrity::guard::LogGuard::new(db.clone(), heads, log_name, policy.clone());
    let vault = subject_key::KeyVault::new(host.key());
    let codec = Arc::new(leaf_codec::LeafCodec::load(vault)?);
    let record_duplicates = host.faults().record_duplicates;
    let appender = Arc::new(log::append::LogAppender::new(
        db.clone(),
        codec.clone(),
        guard.clone(),
        record_duplicates,
    ));
    let reader = entry::read::EntryReader::new(db.clone(), codec.clone(), guard.clone());
    export_sink::install(host, &db, &reader);
    host.rpc(AuditServiceServer::new(rpc::Rpc {
        reader,
        access: host.access(),
        pager: host.pager(),
        draining: host.draining(),
        signer: signer.clone(),
    }));
    let tiles = tlog_tiles::page::Tiles::new(host, &db, &guard, &codec);
    host.site(tlog_tiles::page::PATHS, tiles);
    host.rpc(LogServiceServer::new(proof::rpc::Rpc {
        db: db.clone(),
        access: host.access(),
        guard: guard.clone(),
        signer: signer.clone(),
        codec,
        policy: policy.clone(),
    }));
    host.rpc(IngestServiceServer::new(log::rpc::Rpc {
        db: db.clone(),
        appender: appender.clone(),
        subscriber: eventing::Subscriber::recording(db.clone(), appender.clone()),
    }));
    host.queue("unsigned_entry", &db, tree::store::unsigned_entries);
    host.on_all(&db, appender.clone());
    let terms_db = db.clone();
    host.task("index terms of the audit log", move |stop| {
        log::known_terms::run(terms_db, appender, stop)
    });
    let purge_db = db.clone();
    host.task("purge of the audit log", move |stop| retention::purge::run(purge_db, stop));
    install_fsck(host, &db, &guard, &verifier_keys);
    let checkpoints = policy.map(|policy| install_cosigning(host, &db, &guard, policy));
    let signing = signer::run::SigningConfig {
        db,
        guard,
        signer,
        verifier_keys,
        data_dir,
        is_only_process: host.is_only_process(),
        checkpoints,
    };
    host.task("signing of the audit log", move |stop| signer::run::run(signing, stop));
    Ok(())
}

/// Adds the check of the whole log in the background.
fn install_fsck(
    host: &mut Host,
    db: &chassis::Db,
    guard: &integrity::guard::LogGuard,
    verifier_keys: &[String],
) {
    let interval = Duration::from_secs(host.config().fsck_interval_s);
    let job = Arc::new(fsck::job::FsckJob {
        db: db.clone(),
        guard: guard.clone(),
        vault: subject_key::KeyVault::new(host.key()),
        verifier_keys: verifier_keys.to_vec(),
        interval: Some(interval).filter(|it| !it.is_zero()),
        requested: Mutex::default(),
        meter: fsck::job::Meter::new(),
    });
    host.set_log_checks(job.clone());
    host.task("check of the audit log", move |stop| fsck::job::run(job, stop));
}

/// Adds the publication of heads that witnesses cosign. Returns the channel for signed checkpoints of the
/// suite tree.
fn install_cosigning(
    host: &mut Host,
    db: &chassis::Db,
    guard: &integrity::guard::LogGuard,
    policy: Arc<verifier::witness::WitnessPolicy>,
) -> watch::Sender<Option<publication::SuiteCheckpoint>> {
    host.queue("unpublished_head", db, publication::store::unpublished_heads);
    let (sender, checkpoints) = watch::channel(None);
    let cosigning = witness::cosigning::CosigningConfig {
        db: db.clone(),
        guard: guard.clone(),
        policy,
        checkpoints,
    };
    host.task("cosigning of the audit log", move |stop| witness::cosigning::run(cosigning, stop));
    sender
}

/// Rebuilds the whole log from its entries, and compares it with the stored trees and with everything that
/// was signed. With [`Release::Intact`], lifts the quarantine of logs without differences, and the stop of
/// signing if no log has any; otherwise it does not write to the database.
pub async fn fsck(host: &Host, release: Release) -> anyhow::Result<Findings> {
    let db = host.databases().find(|it| it.name() == "audit");
    let db = db.context("this process does not run the audit service")?;
    let data_dir = host.data_dir().path();
    let log_name = &host.config().audit_origin;
    let key_file = host.config().audit_key_file.as_deref();
    let keys = signer::key::read_or_generate(data_dir, key_file)?;
    let signer = note::CheckpointSigner::new(keys, log_name);
    let verifier_keys = signer::key::record_verifier_keys(data_dir, &signer.verifier_keys())?;
    // Before the trees, which then have at least these entries.
    let journal = head_journal::HeadJournal::read(data_dir)?;
    let mut check = fsck::check::Fsck::start(db, &verifier_keys, journal).await?;
    while check.next_slice().await? {}
    let mut findings = check.finish();
    if let Err(error) = db.require_key(host.key()).await {
        findings.unreadable_keys.push(format!("keys of people: {error:#}"));
    } else {
        let vault = subject_key::KeyVault::new(host.key());
        fsck::subject_keys::check(db, &vault, &mut findings).await?;
    }
    if release == Release::Intact {
        fsck::release::release_intact(db, log_name, &mut findings).await?;
    }
    fsck::release::list_restrictions(db, log_name, &mut findings).await?;
    Ok(findings)
}

/// Action of [`fsck`] on logs in quarantine and on the stop of signing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Only list them.
    None,
    /// Lift them for trees without differences.
    Intact,
}

/// Starts a rotation of the signing key: the configured file, or the one in the data directory. Both keys
/// sign until the previous one is removed.
pub fn rotate_key(data_dir: &Path, configured: Option<&Path>) -> anyhow::Result<()> {
    signer::key::rotate(&signer::key::path(data_dir, configured))
}

/// Generates a signing key and writes it to a file (PKCS #8).
pub fn generate_key(path: &Path) -> anyhow::Result<()> {
    signer::key::generate(path)
}
