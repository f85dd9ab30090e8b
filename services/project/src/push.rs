//! Push webhooks: a signed delivery of a git server deploys the environments with `auto_deploy` on the
//! branch (PE-46).

pub(crate) mod commands;
pub(crate) mod hook;
pub(crate) mod install;
pub(crate) mod secret;
