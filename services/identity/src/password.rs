//! Password hashing. The rules are in [`identity_rules::password`].

mod pool;

pub(crate) use pool::{Match, PasswordHasher};
