//! `tenantry verify`: verifies that entries are in the audit log. Reads the files, or the log over HTTP, and
//! prints the result; the verification itself is in the crate `verifier`.

mod export_folder;

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;
use verifier::{
    Checkpoint, Pins, bundle,
    note::{self, VerifierKey},
    receipt::{ProvenEntry, Receipt, decode_leaf},
    sealed::Keys,
    seen::{ConsistencyProof, SeenCheckpoints},
    suite, tiles,
    tree::Hash,
};

use crate::{
    log_client::{LogAccess, LogClient},
    required_witnesses::RequiredWitnesses,
    tools::print,
};

/// Arguments of `verify`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Response of `GetReceipt` or `GetInclusionProof` as printed by grpcurl, an exported bundle, a folder
    /// with the objects of a continuous export, or the URL of a log as for `tenantry monitor`.
    file: PathBuf,
    /// Verifier key of the log, `<name>+<id>+<key>`. Get it from the log's operator, not from the log. Repeat
    /// the option while the log rotates its key.
    #[arg(long, required = true)]
    key: Vec<String>,
    /// Organization whose log it must be. Default: any organization of the suite.
    #[arg(long)]
    org: Option<String>,
    /// File that stores the newest verified checkpoint. With it, verification fails if the log was rolled
    /// back or forked.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Response of `GetConsistencyProof` between the stored checkpoint and the one of FILE.
    #[arg(long)]
    consistency: Option<PathBuf>,
    /// Prints every entry of a bundle, an export or a log.
    #[arg(long)]
    entries: bool,
    #[command(flatten)]
    witnesses: RequiredWitnesses,
    #[command(flatten)]
    access: LogAccess,
}

/// Result of a successful verification.
struct Verified {
    checkpoint: Checkpoint,
    /// Root at the size of the stored checkpoint, if a complete bundle was verified.
    root_at_seen: Option<Hash>,
    /// Description for the console.
    text: String,
}

/// Verifies a file and prints the result.
pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let keys = arguments.key.iter().map(|it| VerifierKey::parse(it)).collect::<Result<_, _>>()?;
    let witnesses = arguments.witnesses.policy()?;
    let pins = Pins { keys, org_id: arguments.org.clone(), witnesses };
    let mut seen = match &arguments.state {
        Some(path) => SeenCheckpoints::read(path)?,
        None => SeenCheckpoints::default(),
    };
    let proof = arguments.consistency.as_deref().map(read_json).transpose()?;
    let proof = proof.as_ref().map(ConsistencyProof::from_json).transpose()?;
    let url = arguments.file.to_str().filter(|it| it.contains("://"));
    let verified = if let Some(url) = url {
        verify_log(url, arguments, &pins, &seen).await?
    } else if arguments.file.is_dir() {
        verify_bundle(export_folder::read(&arguments.file)?, arguments, &pins, &seen)?
    } else if is_bundle(&arguments.file)? {
        let lines = BufReader::new(open(&arguments.file)?);
        verify_bundle(lines, arguments, &pins, &seen)?
    } else {
        verify_receipt(&arguments.file, &pins)?
    };
    seen.check(&verified.checkpoint, verified.root_at_seen, proof.as_ref())?;
    seen.record(&verified.checkpoint);
    if let Some(path) = &arguments.state {
        seen.write(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print(&verified.text)
}

fn verify_receipt(file: &Path, pins: &Pins) -> Result<Verified> {
    let (checkpoint, entry) = Receipt::from_json(&read_json(file)?)?.verify(pins)?;
    let text = format!(
        "VERIFIED: entry {} of {} in {}\n  {}, event {}\n",
        entry.index,
        checkpoint.size,
        checkpoint.origin,
        describe(&entry),
        entry.event_id
    );
    Ok(Verified { checkpoint, root_at_seen: None, text })
}

fn verify_bundle(
    lines: impl BufRead,
    arguments: &Arguments,
    pins: &Pins,
    seen: &SeenCheckpoints,
) -> Result<Verified> {
    let mut text = String::new();
    let on_entry = |entry: &ProvenEntry| {
        if arguments.entries {
            text += &format!("  {} {}\n", entry.index, describe(entry));
        }
    };
    let prior_size = |origin: &str| seen.get(origin).map(|it| it.size);
    let report = bundle::verify(lines, pins, prior_size, on_entry)?;
    let checkpoint = report.checkpoint;
    text += &format!(
        "VERIFIED: {} entries of {} in {}\n",
        report.entries, checkpoint.size, checkpoint.origin
    );
    if report.hash_only > 0 {
        text += &format!("  {} more entries are kept as hashes only\n", report.hash_only);
    }
    if report.complete {
        text += "  complete: contains every entry up to the signed checkpoint\n";
        for (source, range) in report.sources {
            text += &format!("  {source}: no gap from {} to {}\n", range.first, range.last);
        }
    } else {
        text += "  each entry is in the log; this bundle does not prove that there are no others\n";
    }
    if let Some(suite) = report.suite {
        text += &format!(
            "  the checkpoint is included in the suite tree {} of size {}\n",
            suite.origin, suite.size
        );
    }
    Ok(Verified { checkpoint, root_at_seen: report.root_at_prior_size, text })
}

/// Verifies a log by its tiles: all entries, or those after the stored checkpoint.
async fn verify_log(
    url: &str,
    arguments: &Arguments,
    pins: &Pins,
    seen: &SeenCheckpoints,
) -> Result<Verified> {
    let mut log = LogClient::new(url, &arguments.access)?;
    let tree = log.tree_name().to_owned();
    let pins = Pins { org_id: pins.org_id.clone().or(Some(tree)), ..pins.clone() };
    let (note, proof) = log.proven_checkpoint(&pins).await?;
    let checkpoint = note::open(&note, &pins)?;
    suite::verify(proof.as_ref(), &note, &pins)?;
    let seen = seen.get(&checkpoint.origin).filter(|it| it.size <= checkpoint.size);
    let mut text = String::new();
    let on_entry = |index, leaf: &[u8]| {
        if arguments.entries {
            // A tile has no keys of sealed fields, so names of people are not shown.
            let entry = decode_leaf(index, leaf, &Keys::new())?;
            text += &format!("  {index} {}, event {}\n", entry.event, entry.event_id);
        }
        Ok(())
    };
    let verified = tiles::verify(&mut log, seen, &checkpoint, on_entry).await?;
    let Checkpoint { origin, size, .. } = &checkpoint;
    text += &format!("VERIFIED: {} entries of {size} in {origin}\n", verified.entries);
    if verified.hash_only > 0 {
        text += &format!("  {} more entries are shown as hashes only\n", verified.hash_only);
    }
    text += &match seen {
        Some(seen) => format!("  continues the checkpoint of {} entries\n", seen.size),
        None => "  complete: every entry up to the signed checkpoint\n".to_owned(),
    };
    let root_at_seen = seen.map(|it| it.root);
    Ok(Verified { checkpoint, root_at_seen, text })
}

fn describe(entry: &ProvenEntry) -> String {
    format!("{} by {}: {}", entry.event, entry.actor, entry.resource)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot read {}", path.display()))
}

fn read_json(path: &Path) -> Result<Value> {
    let json = serde_json::from_reader(BufReader::new(open(path)?));
    json.with_context(|| format!("{} must be JSON", path.display()))
}

/// Returns true if a file is a bundle: JSON lines, the first of which has the version of the format.
fn is_bundle(path: &Path) -> Result<bool> {
    let mut values = serde_json::Deserializer::from_reader(BufReader::new(open(path)?)).into_iter();
    let first: Option<Result<Value, _>> = values.next();
    let first = first.with_context(|| format!("{} is empty", path.display()))?;
    let first = first.with_context(|| format!("{} must be JSON", path.display()))?;
    Ok(first.get("tenantry_audit_bundle").is_some())
}
