//! Acceptance of cosignatures: witnesses sign the checkpoints of the suite tree (C2SP tlog-cosignature).

use api::error::Reason;
use chassis::{Code, Error, Result, Tx};

use super::{refusal, store};
use crate::{
    db_int::to_db_int,
    note::{self, CheckpointSigner, Witness},
    tree::SUITE_TREE_NAME,
};

/// A checkpoint of the suite tree with valid cosignatures.
pub(super) struct CosignedCheckpoint<'n> {
    size: i64,
    note: &'n str,
    /// Valid signature lines of configured witnesses.
    lines: Vec<&'n str>,
}

impl<'n> CosignedCheckpoint<'n> {
    /// Verifies that this log signed the checkpoint and that at least one configured witness cosigned it.
    pub(super) fn verify(
        note: &'n str,
        signer: &CheckpointSigner,
        witnesses: &[Witness],
    ) -> Result<Self> {
        let is_of_suite = note.lines().next() == Some(&signer.origin(SUITE_TREE_NAME));
        let size = note::unverified_head(note).map(|it| it.size);
        let size = size.filter(|_| is_of_suite && signer.has_signed(note));
        let size = to_db_int(size.ok_or_else(unknown_checkpoint)?)?;
        let lines: Vec<_> = witnesses.iter().filter_map(|it| it.cosignature_line(note)).collect();
        if lines.is_empty() {
            return Err(unknown_witness());
        }
        Ok(Self { size, note, lines })
    }

    /// Stores the new cosignatures. Returns the number of witnesses that have signed the checkpoint.
    pub(super) async fn store(&self, tx: &mut Tx, witnesses: &[Witness]) -> Result<usize> {
        let stored = store::lock_cosigned(tx, self.size).await?;
        let mut note = stored.unwrap_or_else(|| without_cosignatures(self.note, witnesses));
        for line in &self.lines {
            if !note.lines().any(|it| it == *line) {
                note += &format!("{line}\n");
            }
        }
        store::upsert_cosigned(tx, self.size, &note).await?;
        Ok(witnesses.iter().filter(|it| it.cosignature_line(&note).is_some()).count())
    }
}

/// Removes the cosignatures of configured witnesses from a note.
fn without_cosignatures(note: &str, witnesses: &[Witness]) -> String {
    let cosignatures: Vec<_> =
        witnesses.iter().filter_map(|it| it.cosignature_line(note)).collect();
    let lines = note.lines().filter(|line| !cosignatures.contains(line));
    lines.map(|line| format!("{line}\n")).collect()
}

fn unknown_checkpoint() -> Error {
    let message = "this log has not signed such a checkpoint of the suite tree; get one from \
                   GetSuiteCheckpoint";
    refusal(Code::FailedPrecondition, Reason::CheckpointUnknown, message)
}

fn unknown_witness() -> Error {
    let message = "no line is a valid cosignature of a configured witness; the operator adds witnesses with \
                   --audit-witness-keys";
    refusal(Code::PermissionDenied, Reason::WitnessUnknown, message)
}
