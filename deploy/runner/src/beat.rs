//! What a runner says every few seconds: what its machine has, and how its environments are.

use std::{sync::Arc, time::Duration};

use api::project::HeartbeatRequest;
use tokio_util::sync::CancellationToken;

use crate::{Settings, desk::Desk, driver::Driver, work::Held};

/// How often.
const BEAT: Duration = Duration::from_secs(5);

/// How often it is looked after what should run.
const TEND: Duration = Duration::from_secs(2);

/// How long the rest is after it was not heard.
const REST: Duration = Duration::from_secs(1);

/// Who says it, and of what.
pub(crate) struct Beat {
    pub(crate) desk: Arc<dyn Desk>,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) settings: Settings,
    pub(crate) held: Arc<Held>,
    /// Cancelled when it was heard for the first time.
    pub(crate) heard: CancellationToken,
}

impl Beat {
    /// Says it until `stop`. First only that the server is there: a look at every environment takes a while.
    pub(crate) async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let first = !self.heard.is_cancelled();
            let pause = match self.desk.beat(self.words(first).await).await {
                Ok(answer) => {
                    self.heard.cancel();
                    self.held.heed(&answer.lost_task_ids, &answer.cancelled_task_ids);
                    for id in answer.unknown_environment_ids {
                        forget(&*self.driver, &self.held, &id).await;
                    }
                    if first { Duration::ZERO } else { BEAT }
                }
                Err(status) => {
                    let (code, message) = (status.code(), status.message());
                    tracing::warn!(?code, message, "the project service does not hear this runner");
                    REST
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn words(&self, first: bool) -> HeartbeatRequest {
        let environments = if first { vec![] } else { self.driver.environments().await };
        let about = self.driver.about();
        HeartbeatRequest {
            runner: self.settings.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capacity: Some(about.capacity),
            isolation: about.isolation,
            limits: about.limits,
            environments,
            tasks: self.held.list(),
            shared_address: self.settings.address.clone(),
            database_address: self.driver.database_address(),
        }
    }
}

/// Looks after what should run, until `stop`; apart from the words, which must not wait for it.
pub(crate) async fn tend(driver: Arc<dyn Driver>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        driver.tend().await;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(TEND) => {}
        }
    }
}

/// What lies here of an environment that is no more goes.
async fn forget(driver: &dyn Driver, held: &Held, environment_id: &str) {
    if held.is_busy(environment_id) {
        return;
    }
    tracing::info!(environment = environment_id, "an environment is no more; its files go");
    if let Err(error) = driver.destroy(environment_id).await {
        tracing::warn!(environment = environment_id, %error, "something was left behind");
    }
}
