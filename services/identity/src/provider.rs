//! Sign-in with an external identity provider: OpenID Connect, authorization code flow with PKCE (RFC 7636).
//! An existing account is linked by e-mail address only if both sides have verified the address. The refusals
//! are in [`identity_rules::provider`].

mod client;
pub(crate) mod commands;
pub(crate) mod store;
mod wire;

pub(crate) use client::Settings;
