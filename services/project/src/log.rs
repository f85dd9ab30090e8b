//! Output of the programs of environments, which their servers keep.

pub(crate) mod rpc;
