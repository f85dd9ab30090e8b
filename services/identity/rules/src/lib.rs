//! Rules of the identity service: values, decisions and state changes with their events, without I/O. The
//! service `identity` authenticates, locks and reads rows, calls a rule, and stores its result.
//!
//! A module imports only modules above it:
//!
//! | module | contents |
//! |---|---|
//! | `types` | principals, project references, consistency tokens |
//! | `policy` | roles, and the permission matrix |
//! | `password`, `session`, `second_factor`, `provider` | credentials of people |
//! | `user`, then `mailed_link` | accounts, and the links that are mailed to them |
//! | `project_access`, then `member`, `team` | grants on projects, members, teams |
//! | `organization`, then `api_key` | tenants, and the credentials of their programs |
//! | `billing` | subscriptions of tenants at the billing provider |
//! | `snapshot`, then `access` | access data of one organization, and the decisions on it |
//!
//! The files `wire` convert between these values and the contract. They implement traits only, so nothing
//! imports them.

#![expect(
    missing_docs,
    reason = "fields and variants that the contract documents have no other comment"
)]

pub mod access;
pub mod api_key;
pub mod billing;
pub mod mailed_link;
pub mod member;
pub mod organization;
pub mod password;
pub mod policy;
pub mod project_access;
pub mod provider;
pub mod second_factor;
pub mod session;
pub mod snapshot;
pub mod team;
pub mod types;
pub mod user;
