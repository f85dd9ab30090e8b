//! Addresses: who wants no mail from strangers, and whose server refuses it. Told by canonical address, for
//! every organization alike.

pub(crate) mod store;
