//! What is known here of organizations, which identity owns.

pub(crate) mod store;
