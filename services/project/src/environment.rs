//! Environments: isolated deployments of a branch of a project.
//!
//! | concept | file |
//! |---|---|
//! | operations: enqueue a task, update, promote, roll back, suspend, set variables | `commands` |
//! | creation, also as a clone | `commands/create` |
//! | destruction | `commands/destroy` |
//! | end of a task | `commands/finish` |
//! | locks on several environments | `locking` |
//! | permission to deploy to PRODUCTION | `production_gate` |

pub(crate) mod commands;
pub(crate) mod locking;
pub(crate) mod production_gate;
pub(crate) mod rpc;
