//! Proves offline that entries are in the audit log: reads files, prints what they prove. What is checked is
//! in the crate `verifier`.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;
use verifier::{
    Head, Pins, bundle,
    note::VerifierKey,
    receipt::{Proven, Receipt},
    seen::{Consistency, Seen},
    tree::Hash,
};

use crate::tools::print;

/// What is to be proven, and whose word is taken.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The answer of `GetReceipt` or `GetInclusionProof` as grpcurl prints it, or an exported bundle.
    file: PathBuf,
    /// The log's verifier key, from its operator and not from the log: `<name>+<id>+<key>`. Several while the
    /// log changes its key.
    #[arg(long, required = true)]
    key: Vec<String>,
    /// The organization whose log it must be. Without it any organization of the log will do.
    #[arg(long)]
    org: Option<String>,
    /// Remembers the newest head here, and refuses a log that goes back or is another one.
    #[arg(long)]
    state: Option<PathBuf>,
    /// The answer of `GetConsistencyProof` between the head that is remembered and this one.
    #[arg(long)]
    consistency: Option<PathBuf>,
    /// Prints every entry of a bundle.
    #[arg(long)]
    entries: bool,
}

/// Reads, checks and reports.
pub(crate) fn run(it: &Arguments) -> Result<()> {
    let keys = it.key.iter().map(|it| VerifierKey::parse(it)).collect::<Result<_, _>>()?;
    let pins = Pins { keys, org_id: it.org.clone() };
    let mut seen = it.state.as_deref().map_or_else(|| Ok(Seen::default()), Seen::read)?;
    let proof = it.consistency.as_deref().map(json).transpose()?;
    let proof = proof.as_ref().map(Consistency::from_json).transpose()?;
    let (head, root_at, text) = if is_bundle(&it.file)? {
        of_bundle(it, &pins, &seen)?
    } else {
        let (head, proven) = Receipt::from_json(&json(&it.file)?)?.verify(&pins)?;
        let text = format!(
            "VERIFIED: entry {} of {} in {}\n  {}, event {}\n",
            proven.index,
            head.size,
            head.origin,
            sentence(&proven),
            proven.event_id
        );
        (head, None, text)
    };
    seen.check(&head, root_at, proof.as_ref())?;
    seen.remember(&head);
    if let Some(path) = &it.state {
        seen.write(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print(&text)
}

fn of_bundle(it: &Arguments, pins: &Pins, seen: &Seen) -> Result<(Head, Option<Hash>, String)> {
    let mut text = String::new();
    let tell = |proven: &Proven| {
        if it.entries {
            text += &format!("  {} {}\n", proven.index, sentence(proven));
        }
    };
    let at = |origin: &str| seen.of(origin).map(|it| it.size);
    let report = bundle::verify(BufReader::new(open(&it.file)?), pins, at, tell)?;
    let head = report.head;
    text += &format!("VERIFIED: {} entries of {} in {}\n", report.entries, head.size, head.origin);
    if report.hidden > 0 {
        text += &format!("  of {} more only the hashes are kept\n", report.hidden);
    }
    if report.whole {
        text += "  every entry up to the signed head is accounted for\n";
        for (source, (first, last)) in report.sources {
            text += &format!("  {source}: no gap from {first} to {last}\n");
        }
    } else {
        text += "  each is in the log; this bundle does not say that there are no others\n";
    }
    if let Some(suite) = report.suite {
        text += &format!("  the head is one of {} in {}\n", suite.size, suite.origin);
    }
    Ok((head, report.root_at, text))
}

fn sentence(it: &Proven) -> String {
    format!("{} by {}: {}", it.event, it.actor, it.resource)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot read {}", path.display()))
}

fn json(path: &Path) -> Result<Value> {
    let read = serde_json::from_reader(BufReader::new(open(path)?));
    read.with_context(|| format!("{} is no JSON", path.display()))
}

/// A bundle has one object per line, the first with its version.
fn is_bundle(path: &Path) -> Result<bool> {
    let mut values = serde_json::Deserializer::from_reader(BufReader::new(open(path)?)).into_iter();
    let first: Option<Result<Value, _>> = values.next();
    let first = first.with_context(|| format!("{} is empty", path.display()))?;
    let first = first.with_context(|| format!("{} is no JSON", path.display()))?;
    Ok(first.get("tenantry_audit_bundle").is_some())
}
