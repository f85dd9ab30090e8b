//! Projects: the blueprint of an application. Programs run in its environments.
//!
//! | concept | file |
//! |---|---|
//! | creation, of which identity and this service each store a part | `creation` |
//! | update and deletion | `commands` |
//! | lists of the projects that a caller may see | `listing` |
//! | overview of a project | `overview` |
//! | calls to identity | `client` |

mod client;
pub(crate) mod commands;
pub(crate) mod creation;
mod listing;
mod overview;
pub(crate) mod rpc;
