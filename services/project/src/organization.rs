//! Organizations, which identity owns.

pub(crate) mod client;
