//! Rules of a cosignature: a checkpoint is cosigned if its log is known and has signed it, and if it
//! continues the newest checkpoint of the log that this witness has cosigned.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use chassis::{clock::Clock, key::write_private};
use verifier::{
    Checkpoint,
    note::{self, SignedCheckpoint, VerifierKey},
    tree::{RootBuilder, verify_consistency},
    witness::{WitnessKey, cosignature_line, cosigned_message, verifier_key},
};

use super::{
    logs::Logs,
    request::{AddCheckpoint, MalformedBody},
    state::{StateDir, origin_hash},
};

/// File of the key (PKCS #8), in the data directory.
const KEY_FILE: &str = "witness.key";

/// A witness: its key, and the logs that it cosigns.
pub(super) struct Cosigner {
    name: String,
    key: Ed25519KeyPair,
    /// By origin.
    logs: BTreeMap<String, Log>,
    state: StateDir,
    clock: Clock,
}

/// A log that is cosigned.
struct Log {
    keys: Vec<VerifierKey>,
    /// The newest cosigned checkpoint. The lock is held from the comparison with it until the new one is on
    /// disk.
    newest: Mutex<Option<Cosigned>>,
}

/// A cosigned checkpoint.
#[derive(Clone)]
struct Cosigned {
    head: Checkpoint,
    /// Signed note with the signatures of the log and the cosignature.
    note: String,
}

/// Refusal of a cosignature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// The body is malformed, or the old size is above the new one.
    #[error("{0}")]
    Invalid(String),
    /// The log is not configured.
    #[error("this witness does not cosign a log with this origin")]
    UnknownOrigin,
    /// No configured key of the log has signed the checkpoint, or a signature is forged.
    #[error("no key of the log that this witness knows has signed the checkpoint")]
    NotSigned,
    /// The old size differs from the newest cosigned checkpoint.
    #[error("the newest cosigned checkpoint has {size} entries")]
    OtherSize {
        /// Its size.
        size: u64,
    },
    /// The checkpoint does not continue the newest cosigned one: a proof that fails, or a fork.
    #[error("{0}")]
    Inconsistent(&'static str),
}

impl From<MalformedBody> for Refusal {
    fn from(error: MalformedBody) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl Cosigner {
    /// Creates a witness. Fails if the name cannot be that of a key, or if a stored checkpoint is damaged.
    pub(super) fn new(
        name: &str,
        key: Ed25519KeyPair,
        logs: Logs,
        state: StateDir,
    ) -> Result<Self> {
        let is_valid =
            !name.is_empty() && !name.contains(|it: char| it.is_whitespace() || it == '+');
        ensure!(is_valid, "--name {name:?} is empty, or contains a space or a plus sign");
        let public = WitnessKey::parse(&verifier_key(name, key.public_key().as_ref()))?;
        let mut known = BTreeMap::new();
        for (origin, keys) in logs.into_inner() {
            let newest = match state.read(&origin)? {
                Some(note) => Some(Cosigned::parse(note, &origin, &public).with_context(|| {
                    let path = state.path(&origin);
                    format!(
                        "{} is not a checkpoint of {origin} that this witness has cosigned; it is \
                         damaged, or of another key or name: a new witness needs a new --data-dir",
                        path.display()
                    )
                })?),
                None => None,
            };
            known.insert(origin, Log { keys, newest: Mutex::new(newest) });
        }
        Ok(Self { name: name.to_owned(), key, logs: known, state, clock: Clock::default() })
    }

    /// Returns the verifier key of the witness.
    pub(super) fn verifier_key(&self) -> String {
        verifier_key(&self.name, self.key.public_key().as_ref())
    }

    /// Cosigns a checkpoint (`add-checkpoint`). Returns the signature line. The outer error is a failure of
    /// the disk: nothing is cosigned then.
    pub(super) fn add_checkpoint(&self, body: &[u8]) -> Result<Result<String, Refusal>> {
        match self.checked(body) {
            Ok(checked) => checked.cosign(self).map(Ok),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Compares a checkpoint with the newest cosigned one, which stays locked.
    fn checked<'c>(&'c self, body: &'c [u8]) -> Result<Checked<'c>, Refusal> {
        let AddCheckpoint { old_size, proof, checkpoint } = AddCheckpoint::parse(body)?;
        let origin = note::unverified_origin(checkpoint);
        let log = self.logs.get(origin).ok_or(Refusal::UnknownOrigin)?;
        let signed = note::open_with_keys(checkpoint, &log.keys).map_err(|error| match error {
            verifier::VerifyError::Malformed(_) => Refusal::Invalid(error.to_string()),
            _ => Refusal::NotSigned,
        })?;
        let head = &signed.head;
        if old_size > head.size {
            let text = format!("the old size {old_size} is above the new size {}", head.size);
            return Err(Refusal::Invalid(text));
        }
        let newest = log.newest();
        let newest_head = newest.as_ref().map(|it| &it.head);
        let newest_size = newest_head.map_or(0, |it| it.size);
        if old_size != newest_size {
            return Err(Refusal::OtherSize { size: newest_size });
        }
        if head.size == 0 && head.root != RootBuilder::default().root() {
            return Err(Refusal::Inconsistent("the root of the empty tree is wrong"));
        }
        let (continues, refusal) = match newest_head.filter(|it| it.size > 0) {
            Some(it) => (
                verify_consistency(it.size, &it.root, head.size, &head.root, &proof),
                "the checkpoint does not continue the newest cosigned one",
            ),
            None => (proof.is_empty(), "the proof from size 0 must be empty"),
        };
        if !continues {
            return Err(Refusal::Inconsistent(refusal));
        }
        Ok(Checked { signed, newest })
    }

    /// Returns the newest cosigned checkpoint of the log with this hash of its origin; `None` if there is
    /// none.
    pub(super) fn newest(&self, hash: &str) -> Option<String> {
        let (_, log) = self.logs.iter().find(|(origin, _)| origin_hash(origin) == hash)?;
        log.newest().as_ref().map(|it| it.note.clone())
    }
}

impl Log {
    fn newest(&self) -> MutexGuard<'_, Option<Cosigned>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cosigned {
    /// Reads a stored checkpoint. Its cosignature protects it; the log may have new keys.
    fn parse(note: String, origin: &str, key: &WitnessKey) -> Result<Self> {
        key.cosignature(&note).context("the cosignature is not valid")?;
        let head = note::unverified_head(&note)?;
        ensure!(head.origin == origin, "the origin is {}", head.origin);
        Ok(Self { head, note })
    }
}

/// A checkpoint that continues the newest cosigned one.
struct Checked<'c> {
    signed: SignedCheckpoint<'c>,
    newest: MutexGuard<'c, Option<Cosigned>>,
}

impl Checked<'_> {
    /// Stores the checkpoint, then returns the signature line.
    fn cosign(mut self, cosigner: &Cosigner) -> Result<String> {
        let SignedCheckpoint { head, text, lines } = self.signed;
        let time = u64::try_from(cosigner.clock.now().unix_timestamp())?;
        let signature = cosigner.key.sign(&cosigned_message(text, time));
        let public = cosigner.key.public_key().as_ref();
        let line = cosignature_line(&cosigner.name, public, time, signature.as_ref());
        let log_lines: String = lines.iter().map(|it| format!("{it}\n")).collect();
        let note = format!("{text}\n{log_lines}{line}\n");
        cosigner.state.write(&head.origin, &note)?;
        *self.newest = Some(Cosigned { head, note });
        Ok(format!("{line}\n"))
    }
}

/// Reads the key of the witness; generates one on the first start.
pub(super) fn read_or_generate_key(data_dir: &Path) -> Result<Ed25519KeyPair> {
    let path = data_dir.join(KEY_FILE);
    if !path.exists() {
        let key = Ed25519KeyPair::generate().context("cannot generate an Ed25519 key")?;
        let document = key.to_pkcs8v1().context("cannot generate an Ed25519 key")?;
        let written = write_private(&path, document.as_ref());
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let key = Ed25519KeyPair::from_pkcs8(&bytes);
    key.with_context(|| format!("{} is not an Ed25519 key in PKCS #8", path.display()))
}
