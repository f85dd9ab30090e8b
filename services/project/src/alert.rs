//! Alerts about problems of environments and servers that last, and their reports to the invitation service,
//! which notifies people.
//!
//! | concept | file |
//! |---|---|
//! | conditions, from heartbeats and missing ones | `evaluate` |
//! | background job that reports openings and closings | `reporter` |

pub(crate) mod evaluate;
pub(crate) mod reporter;
