//! Appending to the log: each event of the suite becomes exactly one leaf, in the order of its producer.

pub(crate) mod append;
mod effects;
pub(crate) mod known_terms;
mod order;
pub(crate) mod rpc;
pub(crate) mod store;

/// Anomalies of an entry, as stored bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryFlags(pub(crate) i16);

impl EntryFlags {
    /// The clocks of the service and of the log differ by more than five seconds.
    pub(crate) const CLOCK_SKEW: Self = Self(1);
    /// Another event of the service had the same sequence number: the service's database was restored.
    pub(crate) const SEQUENCE_REUSED: Self = Self(2);

    /// Returns the flags of both.
    #[must_use]
    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the names of the flags that are set, as the API lists them.
    pub(crate) fn names(self) -> Vec<String> {
        let names = [(Self::CLOCK_SKEW, "CLOCK_SKEW"), (Self::SEQUENCE_REUSED, "SEQUENCE_REUSED")];
        let set = names.into_iter().filter(|(flag, _)| self.0 & flag.0 != 0);
        set.map(|(_, name)| name.to_owned()).collect()
    }
}
