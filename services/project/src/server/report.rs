//! What a server says about its environments.

pub(crate) mod store;

use time::OffsetDateTime;

use crate::{environment, task::Observed};

/// What its server last said of an environment.
pub(crate) struct Report {
    pub(crate) observed: Observed,
    pub(crate) http_ok: bool,
    pub(crate) cpu_cores: f64,
    pub(crate) memory_bytes: i64,
    pub(crate) disk_bytes: i64,
    pub(crate) process_count: i32,
    pub(crate) limits: String,
    pub(crate) isolation: String,
    pub(crate) reported_at: OffsetDateTime,
}

impl store::Placed {
    /// Whether what a server found is not what is believed.
    pub(crate) fn doubts(&self, what: Observed) -> bool {
        self.state == environment::State::Running && what == Observed::Failed
    }
}
