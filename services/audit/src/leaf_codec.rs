//! Shared context of everything that writes or reads leaves: the personal fields and action names of the
//! contract, its descriptors, and the vault of subject keys. Loaded once per process.

use prost_reflect::DescriptorPool;

use crate::{seal::PersonalFields, search_index::ActionNames, subject_key::KeyVault};

/// Context of writing and reading leaves.
pub(crate) struct LeafCodec {
    pub(crate) personal_fields: PersonalFields,
    pub(crate) action_names: ActionNames,
    pub(crate) vault: KeyVault,
    pub(crate) descriptors: DescriptorPool,
}

impl LeafCodec {
    /// Reads the contract.
    pub(crate) fn load(vault: KeyVault) -> anyhow::Result<Self> {
        Ok(Self {
            personal_fields: PersonalFields::load(api::DESCRIPTORS)?,
            action_names: ActionNames::load(api::DESCRIPTORS)?,
            vault,
            descriptors: DescriptorPool::decode(api::DESCRIPTORS)?,
        })
    }
}
