//! Mailed links: SQL, and the texts of the mails. The rules are in [`identity_rules::mailed_link`].

pub(crate) mod renderer;
pub(crate) mod store;
