//! Damage of the stored log: its kinds, with the messages for readers and operators.

use api::error::Reason;
use chassis::{Code, Error, Refusal};

/// Damage of the stored tree of one organization. The message is shown to readers of the log, and stored for
/// the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    /// The tree has fewer entries than were signed.
    #[error(
        "the log has {size} entries, but {signed} were signed: the database was restored from an older \
         backup, or entries were deleted; the operator has to restore the newest backup"
    )]
    RolledBack {
        /// Entries in the database.
        size: u64,
        /// Signed entries.
        signed: u64,
    },
    /// The first entries are not those that were signed.
    #[error(
        "the first {signed} entries of the log differ from those that were signed; the operator has to \
         restore them"
    )]
    Rewritten {
        /// Signed entries.
        signed: u64,
    },
    /// The column `tree.edge` has another length than a tree of the stored size needs.
    #[error(
        "the hashes at the right edge of the tree do not fit its size; the operator has to restore them"
    )]
    MalformedEdge,
    /// The column `tree.edge` has other hashes than the entries.
    #[error(
        "the hashes at the right edge of the tree do not match the entries; the operator has to restore them"
    )]
    ChangedEdge,
    /// A tile is missing or too short.
    #[error("hashes of the tree are missing; the operator has to restore them")]
    MissingHashes,
    /// The bytes of an entry do not match the leaf hash of the tree.
    #[error("entry {index} of the log was changed; the operator has to restore it")]
    ChangedEntry {
        /// Index of the entry.
        index: u64,
    },
    /// An entry is missing.
    #[error("entry {index} of the log is missing; the operator has to restore it")]
    MissingEntry {
        /// Index of the entry.
        index: u64,
    },
    /// There is an entry beyond the size of the tree.
    #[error(
        "an entry was added beyond the {size} entries of the log; the operator has to remove it"
    )]
    AddedEntry {
        /// Entries of the tree.
        size: u64,
    },
    /// A stored checkpoint is not a valid checkpoint of this log.
    #[error("a checkpoint of the log is not valid; the operator has to restore it")]
    InvalidCheckpoint,
    /// The check of the whole log found a difference.
    #[error("a check of the log found a difference: {difference}; the operator has to restore it")]
    FailedCheck {
        /// The difference, one sentence.
        difference: String,
    },
    /// The tree is in quarantine; `detail` is the message of the damage that was found.
    #[error("{detail}")]
    Quarantined {
        /// Code of the damage.
        cause: String,
        /// Message of the damage.
        detail: String,
    },
}

impl Damage {
    /// Returns the damage of a log that is in quarantine, from its row; `None` if it has none.
    pub(crate) fn of_quarantine(cause: Option<String>, detail: Option<String>) -> Option<Self> {
        Some(Self::Quarantined { cause: cause?, detail: detail.unwrap_or_default() })
    }

    /// Stable code, for the table `quarantine`, metrics and the metadata `cause` of errors.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::RolledBack { .. } => "ROLLED_BACK",
            Self::Rewritten { .. } => "REWRITTEN",
            Self::MalformedEdge => "MALFORMED_EDGE",
            Self::ChangedEdge => "CHANGED_EDGE",
            Self::MissingHashes => "MISSING_HASHES",
            Self::ChangedEntry { .. } => "CHANGED_ENTRY",
            Self::MissingEntry { .. } => "MISSING_ENTRY",
            Self::AddedEntry { .. } => "ADDED_ENTRY",
            Self::InvalidCheckpoint => "INVALID_CHECKPOINT",
            Self::FailedCheck { .. } => "FAILED_CHECK",
            Self::Quarantined { cause, .. } => cause,
        }
    }
}

impl Refusal for Damage {
    fn code(&self) -> Code {
        Code::DataLoss
    }

    fn reason(&self) -> Reason {
        Reason::LogCorrupted
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![("cause", self.code().to_owned())]
    }
}

/// True if an error is a [`Damage`].
pub(crate) fn is_damage(error: &Error) -> bool {
    error.reason() == Reason::LogCorrupted
}
