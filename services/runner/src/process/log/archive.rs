//! Copies of the output of containers, which the engine deletes with them.

use anyhow::Result;
use futures::TryStreamExt;
use tokio::{fs, io::AsyncWriteExt};

use super::{CURRENT, ProgramLog};
use crate::{
    docker::{ContainerOutput, OutputQuery},
    process::directory::EnvironmentDir,
};

/// Size at which lines are written, in bytes.
const BUFFER_BYTES: usize = 256 << 10;

impl ProgramLog {
    /// Copies the output of the containers of an environment, but for those with the ids `kept`. Errors are
    /// logged: a container is removed also if its output cannot be read.
    pub(in crate::process) async fn archive_containers(
        environment: &EnvironmentDir,
        engine: &ContainerOutput,
        kept: &[&str],
    ) {
        for log in Self::list(environment) {
            let Some(id) = log.record().container.filter(|it| !kept.contains(&&**it)) else {
                continue;
            };
            if log.path.join(CURRENT).exists() {
                continue;
            }
            if let Err(error) = log.archive(engine, &id).await {
                let error = format!("{error:#}");
                tracing::debug!(environment = %environment.id(), error, "output of a container not kept");
            }
        }
    }

    async fn archive(&self, engine: &ContainerOutput, id: &str) -> Result<()> {
        let new = self.path.join("new");
        let mut file = fs::File::create(&new).await?;
        let query = OutputQuery { id, tail: None, since: 0, follow: false };
        let mut lines = std::pin::pin!(engine.lines(&query));
        let mut buffer = vec![];
        while let Some(line) = lines.try_next().await? {
            line.as_raw().write(&mut buffer);
            if buffer.len() >= BUFFER_BYTES {
                file.write_all(&buffer).await?;
                buffer.clear();
            }
        }
        file.write_all(&buffer).await?;
        file.flush().await?;
        Ok(fs::rename(new, self.path.join(CURRENT)).await?)
    }
}
