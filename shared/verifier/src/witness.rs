//! Cosignatures of witnesses, and policies about them (C2SP tlog-cosignature, tlog-policy).

mod policy;

use data_encoding::{BASE64, HEXLOWER};

pub use policy::{PolicyError, Witness, WitnessPolicy};

use crate::{
    VerifyError,
    note::{NoteParts, SignatureLine, VerifierKey, key_id},
};

/// Signature type of timestamped Ed25519 cosignatures.
const COSIGNATURE_TYPE: u8 = 4;

/// Length in bytes of the time before a signature.
const TIME_LEN: usize = 8;

/// Public key of a witness, with the witness's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessKey(VerifierKey);

/// A valid cosignature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cosignature<'n> {
    /// Signature line, without its line feed.
    pub line: &'n str,
    /// Unix time of the cosignature in seconds.
    pub time: u64,
}

impl WitnessKey {
    /// Parses `<name>+<key id in hex>+<base64 of type and key>`. Only cosignature/v1 (type 4) is supported.
    pub fn parse(text: &str) -> Result<Self, VerifyError> {
        VerifierKey::parse_type(text, COSIGNATURE_TYPE).map(Self)
    }

    /// Name of the witness.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns the valid cosignature of this witness under a checkpoint; `None` if there is none. A malformed
    /// note has none.
    pub fn cosignature<'n>(&self, note: &'n str) -> Option<Cosignature<'n>> {
        let NoteParts { text, signatures } = NoteParts::parse(note).ok()?;
        signatures.iter().find_map(|line| self.verify(text, line))
    }

    /// Returns the valid cosignature among signature lines, each with a line feed, that a witness returned
    /// for the text of a checkpoint. Lines of unknown keys are ignored.
    pub fn cosignature_in<'n>(&self, text: &str, lines: &'n str) -> Option<Cosignature<'n>> {
        let mut lines = lines.lines().filter_map(|it| SignatureLine::parse(it).ok());
        lines.find_map(|line| self.verify(text, &line))
    }

    fn verify<'n>(&self, text: &str, line: &SignatureLine<'n>) -> Option<Cosignature<'n>> {
        let (time, signature) = self.0.signature(line)?.split_at_checked(TIME_LEN)?;
        let time = u64::from_be_bytes(time.try_into().ok()?);
        // The specification limits the time; zero would mean that the witness does not state one.
        let is_stated = time > 0 && i64::try_from(time).is_ok();
        let is_valid = self.0.has_signed(&cosigned_message(text, time), signature);
        (is_stated && is_valid).then_some(Cosignature { line: line.line, time })
    }
}

/// Returns the message that a cosignature signs, for the text of a checkpoint with its last line feed.
pub fn cosigned_message(text: &str, time: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {time}\n{text}").into_bytes()
}

/// Formats a signature line, without its line feed, of a witness with this Ed25519 key.
pub fn cosignature_line(name: &str, public: &[u8], time: u64, signature: &[u8]) -> String {
    let bytes = [&id(name, public)[..], &time.to_be_bytes(), signature].concat();
    format!("\u{2014} {name} {}", BASE64.encode(&bytes))
}

/// Formats the verifier key of a witness with this Ed25519 key.
pub fn verifier_key(name: &str, public: &[u8]) -> String {
    let typed_key = [&[COSIGNATURE_TYPE], public].concat();
    format!("{name}+{}+{}", HEXLOWER.encode(&id(name, public)), BASE64.encode(&typed_key))
}

fn id(name: &str, public: &[u8]) -> [u8; 4] {
    key_id(name, &[&[COSIGNATURE_TYPE], public].concat())
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
