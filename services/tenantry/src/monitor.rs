//! `tenantry monitor`: follows a log from outside over HTTP, and raises an alarm when it does not continue
//! what was verified before. The verification itself is in the crate `verifier`.

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow};
use data_encoding::BASE64;
use verifier::{
    Pins, VerifyError,
    note::{self, VerifierKey},
    seen::SeenCheckpoints,
    suite, tiles,
};

use crate::{
    log_client::{LogAccess, LogClient},
    required_witnesses::RequiredWitnesses,
    tools::print,
};

/// Exit status when the log is refused: forked, rolled back, changed, or signed with another key.
const REFUSED: u8 = 3;

/// Arguments of `monitor`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// URL of the log: that of the all-in-one, a gateway or the audit service, with `/audit/` and the id of
    /// the organization, or with `/audit/suite`.
    url: String,
    /// Verifier key of the log, `<name>+<id>+<key>`. Get it from the log's operator, not from the log. Repeat
    /// the option while the log rotates its key.
    #[arg(long, required = true)]
    key: Vec<String>,
    /// File that stores the newest verified checkpoint, also for `tenantry verify`. Without it, each start
    /// begins with the first entry, and detects no fork of what was verified before.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Verifies the newest checkpoint and ends, for cron.
    #[arg(long)]
    once: bool,
    /// Seconds between two requests of the checkpoint.
    #[arg(long, default_value_t = 10)]
    interval_s: u64,
    #[command(flatten)]
    witnesses: RequiredWitnesses,
    #[command(flatten)]
    access: LogAccess,
}

/// A log that is followed.
struct Monitor {
    log: LogClient,
    pins: Pins,
    seen: SeenCheckpoints,
    state: Option<PathBuf>,
    /// The newest checkpoint, as evidence.
    note: String,
}

/// Follows a log. Returns the exit status.
pub(crate) async fn run(arguments: Arguments) -> Result<u8> {
    let log = LogClient::new(&arguments.url, &arguments.access)?;
    // Errors of the arguments are not refusals of the log.
    let keys = arguments.key.iter().map(|it| VerifierKey::parse(it)).collect::<Result<_, _>>();
    let keys = keys.map_err(|error| anyhow!("{error}"))?;
    let seen = arguments.state.as_deref().map(SeenCheckpoints::read).transpose();
    let seen = seen.map_err(|error| anyhow!("{error}"))?.unwrap_or_default();
    let witnesses = arguments.witnesses.policy()?;
    let pins = Pins { keys, org_id: Some(log.tree_name().to_owned()), witnesses };
    let mut monitor = Monitor { log, pins, seen, state: arguments.state, note: String::new() };
    loop {
        let result = monitor.verify_newest().await;
        if let Err(error) = result {
            if let Some(refusal) = error.downcast_ref::<VerifyError>() {
                monitor.alarm(refusal)?;
                return Ok(REFUSED);
            }
            if arguments.once {
                return Err(error);
            }
            writeln!(std::io::stderr(), "tenantry: {error:#}; it is repeated")?;
        }
        if arguments.once {
            return Ok(0);
        }
        tokio::time::sleep(Duration::from_secs(arguments.interval_s)).await;
    }
}

impl Monitor {
    /// Verifies the newest checkpoint and all entries since the one before. Prints a line if it is new.
    async fn verify_newest(&mut self) -> Result<()> {
        let (note, proof) = self.log.proven_checkpoint(&self.pins).await?;
        self.note = note;
        let checkpoint = note::open(&self.note, &self.pins)?;
        suite::verify(proof.as_ref(), &self.note, &self.pins)?;
        let seen = self.seen.get(&checkpoint.origin).cloned();
        let ignore = |_, _: &[u8]| Ok(());
        let verified = tiles::verify(&mut self.log, seen.as_ref(), &checkpoint, ignore).await?;
        if seen.is_some_and(|it| it.size == checkpoint.size) {
            return Ok(());
        }
        self.seen.record(&checkpoint);
        if let Some(path) = &self.state {
            let written = self.seen.write(path);
            written.with_context(|| format!("cannot write {}", path.display()))?;
        }
        let hash_only = match verified.hash_only {
            0 => String::new(),
            count => format!(", {count} as hashes only"),
        };
        print(&format!(
            "VERIFIED: {}: {} entries, {} new{hash_only}, root {}\n",
            checkpoint.origin,
            checkpoint.size,
            verified.entries,
            BASE64.encode(&checkpoint.root),
        ))
    }

    /// Prints the refusal with its evidence.
    fn alarm(&self, refusal: &VerifyError) -> Result<()> {
        let reason = match refusal {
            // The message of the other commands names an option of theirs.
            VerifyError::RolledBack { size, seen } => format!(
                "ROLLED_BACK: the checkpoint covers {size} entries, but {seen} were covered by one that was \
                 verified before"
            ),
            _ => refusal.to_string(),
        };
        let mut text = format!("tenantry: THE LOG IS REFUSED: {reason}\n");
        let tree = self.pins.org_id.as_deref().unwrap_or_default();
        let origins = self.pins.keys.iter().map(|it| format!("{}/{tree}", it.name));
        for seen in origins.filter_map(|it| self.seen.get(&it).cloned()) {
            let root = BASE64.encode(&seen.root);
            text += &format!("verified before: {} entries with the root {root}\n", seen.size);
        }
        let note = chassis::foreign_text::clean_block(self.note.trim_end(), 4_000);
        text += &format!("the refused checkpoint:\n{note}\n");
        Ok(std::io::stderr().write_all(text.as_bytes())?)
    }
}
