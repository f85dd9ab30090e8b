//! Arguments of `verify` and `monitor` about witnesses.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use verifier::witness::WitnessPolicy;

/// Witnesses that must have cosigned a checkpoint.
#[derive(clap::Args)]
pub(crate) struct RequiredWitnesses {
    /// Verifier key of a witness that must have cosigned the checkpoint of the suite, `<name>+<id>+<key>`.
    /// Repeat the option for several witnesses. Get the keys from the witnesses, not from the log.
    #[arg(long)]
    witness: Vec<String>,
    /// Number of these witnesses whose cosignatures are enough. Default: all.
    #[arg(long, requires = "witness")]
    witnesses_required: Option<usize>,
    /// File with the witnesses and their quorum (C2SP tlog-policy), instead of --witness.
    #[arg(long, conflicts_with = "witness")]
    policy: Option<PathBuf>,
}

impl RequiredWitnesses {
    /// Returns the policy; `None` if no cosignatures are required.
    pub(crate) fn policy(&self) -> Result<Option<WitnessPolicy>> {
        if let Some(path) = &self.policy {
            let file = || path.display().to_string();
            let text = std::fs::read_to_string(path).with_context(file)?;
            return WitnessPolicy::parse(&text).with_context(file).map(Some);
        }
        if self.witness.is_empty() {
            return Ok(None);
        }
        let required = self.witnesses_required.unwrap_or(self.witness.len());
        let policy = WitnessPolicy::of_keys(&self.witness, required);
        // Errors of the arguments are not refusals of the log.
        policy.map(Some).map_err(|error| anyhow!("{error}"))
    }
}
