//! Conversion of the use of a plan to the contract.

use api::identity as pb;

use super::commands::Usage;

impl From<Usage> for pb::Usage {
    fn from(usage: Usage) -> Self {
        Self { key: usage.key.to_owned(), used: usage.used, limit: usage.limit }
    }
}
