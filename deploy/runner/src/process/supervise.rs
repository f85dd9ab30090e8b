//! Looks after what should run: starts again what ended by itself, and says how everything is.

use std::{net::SocketAddr, time::Duration};

use api::project::{EnvironmentReport, Observed};
use futures::future::join_all;
use tokio::fs;

use super::{
    Processes,
    figures::Snapshot,
    home::{Home, Known, Wanted},
    http,
};

/// A program that ended so often in a row is not started again.
const RESTARTS_MAX: u32 = 3;

/// How long a program that is started again may take until it serves.
const PATIENCE: Duration = Duration::from_secs(20);

impl Processes {
    /// Starts again what ended by itself.
    pub(super) async fn mend_all(&self) {
        let homes = self.homes().await;
        join_all(homes.iter().map(|home| self.mend(home))).await;
    }

    /// How every environment of this machine is.
    pub(super) async fn reports(&self) -> Vec<EnvironmentReport> {
        let homes = self.homes().await;
        let ids: Vec<_> = homes.iter().map(Home::id).collect();
        self.figures.forget_but(&ids);
        let all = Snapshot::take();
        let reports = homes.iter().map(|home| self.report(home, &all));
        join_all(reports).await
    }

    async fn homes(&self) -> Vec<Home> {
        let mut homes = vec![];
        let Ok(mut entries) = fs::read_dir(&self.settings.folder).await else { return homes };
        while let Ok(Some(entry)) = entries.next_entry().await {
            // Named by their ids; the databases lie beside them.
            let is_home = entry.file_name().len() == 36;
            if is_home && entry.file_type().await.is_ok_and(|it| it.is_dir()) {
                homes.push(Home::new(entry.path()));
            }
        }
        homes
    }

    /// Starts again what ended by itself, some times.
    async fn mend(&self, home: &Home) {
        home.rotate_log().await;
        let known = home.read().await;
        let ended = known.wanted == Wanted::Running && !known.runs() && known.failure.is_empty();
        if !ended || self.is_busy(&home.id()) {
            if known.runs() && known.restarts > 0 && !self.is_busy(&home.id()) {
                self.calm(home, known).await;
            }
            return;
        }
        let _busy = self.hold(&home.id());
        let mut known = home.read().await;
        known.restarts += 1;
        let said = home.last_lines().await;
        tracing::warn!(
            environment = home.id(),
            restarts = known.restarts,
            "a program ended by itself"
        );
        let failure = if known.restarts > RESTARTS_MAX {
            format!("it ended {RESTARTS_MAX} times in a row; {said}")
        } else {
            self.again(home, &mut known).await.err().map(|it| format!("{it:#}")).unwrap_or_default()
        };
        // Another try comes with the next look, unless there were enough.
        known.failure = if known.restarts > RESTARTS_MAX { failure } else { String::new() };
        let _ = home.write(&known).await;
    }

    /// It has served for a while: what was before is forgotten.
    async fn calm(&self, home: &Home, mut known: Known) {
        let address = SocketAddr::new(self.settings.bind, known.port);
        if http::get_status(address, "/").await.is_some() {
            known.restarts = known.restarts.saturating_sub(1);
            let _ = home.write(&known).await;
        }
    }

    async fn again(&self, home: &Home, known: &mut Known) -> anyhow::Result<()> {
        let launch = home.read_launch().await;
        let launch = launch.ok_or_else(|| anyhow::anyhow!("it is not known how to start it"))?;
        let process = self.serve(home, &launch, known.port, PATIENCE).await?;
        known.serves(process, known.port);
        home.forget_starting().await
    }

    async fn report(&self, home: &Home, all: &Snapshot) -> EnvironmentReport {
        let known = home.read().await;
        let group = known.process.as_ref().map(|it| it.pid);
        let account = self.accounts.get(home);
        let used = self.figures.of(all, &home.id(), home.path(), (account, group));
        let observed = match known.observed() {
            // It will be started again.
            Observed::Failed if known.failure.is_empty() => Observed::Running,
            other => other,
        };
        let asked = if known.runs() {
            let path = home.read_launch().await.map_or_else(|| "/".to_owned(), |it| it.health);
            http::get_status(SocketAddr::new(self.settings.bind, known.port), &path).await
        } else {
            None
        };
        EnvironmentReport {
            environment_id: home.id(),
            observed: observed.into(),
            http_ok: asked.is_some_and(|it| it < 500),
            cpu_cores: used.cpu_cores,
            memory_bytes: used.memory_bytes,
            disk_bytes: used.disk_bytes,
            process_count: used.processes,
            release: known.release,
            detail: known
                .failure
                .chars()
                .filter(|it| !it.is_control() || *it == '\n')
                .take(1_900)
                .collect(),
        }
    }
}
