//! Proof that a checkpoint is a leaf of the suite tree, whose own checkpoint witnesses cosign.

use data_encoding::BASE64;
use serde_json::Value;

use crate::{
    Checkpoint, Pins, VerifyError, malformed, note, read_hashes, read_number,
    tree::{Hash, leaf_hash, verify_inclusion},
};

/// Name of the suite tree.
pub const NAME: &str = "suite";

/// First line of the textual form (C2SP tlog-proof).
const TEXT_HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Inclusion proof of a checkpoint in the suite tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuiteProof {
    index: u64,
    hashes: Vec<Hash>,
    /// The checkpoint of the suite tree, as a signed note.
    checkpoint: String,
}

impl SuiteProof {
    /// Reads the field `suite` of a response or of a bundle; `None` if it is absent.
    pub fn from_json(json: &Value) -> Result<Option<Self>, VerifyError> {
        let Some(checkpoint) = json["checkpoint"].as_str() else { return Ok(None) };
        Ok(Some(Self {
            index: read_number(json, "index")?,
            hashes: read_hashes(&json["hashes"])?,
            checkpoint: checkpoint.to_owned(),
        }))
    }

    /// Parses the textual form. Its extra data is the proven checkpoint, which is returned, too.
    pub fn parse(text: &str) -> Result<(String, Self), VerifyError> {
        let (head, checkpoint) = text
            .split_once("\n\n")
            .ok_or_else(|| malformed("the proof of the suite tree has no checkpoint"))?;
        let mut lines = head.lines();
        let invalid = || malformed("the proof of the suite tree is not a C2SP tlog-proof");
        if lines.next() != Some(TEXT_HEADER) {
            return Err(invalid());
        }
        let extra = lines.next().and_then(|it| it.strip_prefix("extra ")).ok_or_else(invalid)?;
        let note = BASE64.decode(extra.as_bytes()).map_err(|_| invalid())?;
        let note = String::from_utf8(note).map_err(|_| invalid())?;
        let index = lines.next().and_then(|it| it.strip_prefix("index ")).ok_or_else(invalid)?;
        let index: u64 = index.parse().map_err(|_| invalid())?;
        let hash = |line: &str| BASE64.decode(line.as_bytes()).ok()?.try_into().ok();
        let hashes: Option<Vec<Hash>> = lines.map(hash).collect();
        let hashes = hashes.ok_or_else(invalid)?;
        Ok((note, Self { index, hashes, checkpoint: checkpoint.to_owned() }))
    }

    /// Verifies that the checkpoint `note` is a leaf of the suite tree. Returns the checkpoint of the suite
    /// tree, which has the cosignatures that the pins require.
    fn verify(&self, note: &str, pins: &Pins) -> Result<Checkpoint, VerifyError> {
        let suite_pins = Pins { org_id: Some(NAME.to_owned()), ..pins.clone() };
        let suite = note::open(&self.checkpoint, &suite_pins)?;
        if let Some(policy) = &pins.witnesses {
            policy.require(&self.checkpoint)?;
        }
        let leaf = leaf_hash(note.as_bytes());
        if verify_inclusion(self.index, leaf, &self.hashes, suite.size, &suite.root) {
            Ok(suite)
        } else {
            Err(malformed("the proof that the checkpoint is in the suite tree is invalid"))
        }
    }
}

/// Verifies the proof of a checkpoint in the suite tree, if there is one. Fails without one if the pins
/// require cosignatures, unless the checkpoint is that of the suite tree and has them itself.
pub fn verify(
    proof: Option<&SuiteProof>,
    note: &str,
    pins: &Pins,
) -> Result<Option<Checkpoint>, VerifyError> {
    match (proof, &pins.witnesses) {
        (Some(proof), _) => proof.verify(note, pins).map(Some),
        (None, Some(policy)) => policy.require(note).map(|()| None),
        (None, None) => Ok(None),
    }
}
