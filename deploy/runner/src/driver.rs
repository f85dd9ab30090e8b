//! What a driver does for a runner. The first one runs processes of this machine; one for a container engine
//! or a cluster has the same few verbs.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use api::project::{Capacity, EnvironmentReport, Lease, Observed};
use tokio::sync::mpsc::Sender;

/// What a driver is like.
#[derive(Clone, Debug)]
pub struct About {
    /// What the machine has.
    pub capacity: Capacity,
    /// What keeps environments apart.
    pub isolation: String,
    /// How limits are enforced.
    pub limits: String,
}

/// What is there after a task.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// The commit that serves.
    pub commit: String,
    /// The first line of its message, and who wrote it.
    pub about: (String, String),
    /// Where it serves; empty if nothing does.
    pub url: String,
    /// What a look found.
    pub observed: Option<Observed>,
}

/// How far a task is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) percent: i32,
    pub(crate) step: &'static str,
    pub(crate) steps: (i32, i32),
    pub(crate) lines: Vec<String>,
}

/// Takes what a driver says of a task.
#[derive(Clone)]
pub struct Reporter {
    to: Sender<Progress>,
    settled: Arc<AtomicBool>,
}

impl Reporter {
    pub(crate) fn new(to: Sender<Progress>) -> Self {
        Self { to, settled: Arc::default() }
    }

    /// The step of so many that begins, and a line about it.
    pub async fn step(&self, step: &'static str, number: i32, of: i32, line: impl Into<String>) {
        let (percent, lines) = (number * 90 / of, vec![line.into()]);
        self.send(Progress { percent, step, steps: (number, of), lines }).await;
    }

    /// What was said.
    pub async fn say(&self, lines: Vec<String>) {
        self.send(Progress { lines, ..Progress::default() }).await;
    }

    /// From here on the task can no longer be let go of.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    async fn send(&self, progress: Progress) {
        // Nobody listens only when the lease is lost, and then this work ends, too.
        let _ = self.to.send(progress).await;
    }
}

/// Runs environments. Each method brings about a state, also if half of it is there already: a task can come
/// again after its runner died. No two run at once for one environment.
#[tonic::async_trait]
pub trait Driver: Send + Sync + 'static {
    /// What it is like.
    fn about(&self) -> About;
    /// Puts a branch, or a commit, in place of what serves, which goes on until the new one is healthy. A
    /// rollback names a `release` that was there before.
    async fn deploy(&self, lease: &Lease, report: &Reporter) -> Result<Done>;
    /// Starts what was deployed, unless it runs.
    async fn start(&self, lease: &Lease, report: &Reporter) -> Result<Done>;
    /// Ends what runs.
    async fn stop(&self, lease: &Lease, report: &Reporter) -> Result<Done>;
    /// Freezes what runs.
    async fn pause(&self, lease: &Lease, report: &Reporter) -> Result<Done>;
    /// Lets go on what is frozen.
    async fn resume(&self, lease: &Lease, report: &Reporter) -> Result<Done>;
    /// Looks what is there.
    async fn look(&self, lease: &Lease, report: &Reporter) -> Result<Done>;
    /// Copies another environment of this server here, with its data.
    async fn copy(&self, lease: &Lease, report: &Reporter) -> Result<Done>;
    /// Gives an environment its extra services, or takes them away.
    async fn provision(&self, lease: &Lease, report: &Reporter) -> Result<Done>;
    /// Where programs reach their databases; empty if there are none.
    fn database_address(&self) -> String;
    /// Removes everything of an environment.
    async fn destroy(&self, environment_id: &str) -> Result<()>;
    /// Cleans up after a deployment that was let go of.
    async fn abandon(&self, lease: &Lease) -> Result<()>;
    /// Starts again what ended by itself; called every few seconds.
    async fn tend(&self);
    /// What is there of every environment.
    async fn environments(&self) -> Vec<EnvironmentReport>;
}
