//! Build of a repository's Dockerfile by the engine's classic builder. Layers are cached for the environment
//! only: a layer that another one has built may differ from what the same instruction would give here.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bollard::{
    body_try_stream,
    models::{BuildInfo, ContainerUpdateBody},
    query_parameters::{BuildImageOptionsBuilder, ListContainersOptionsBuilder},
};
use futures::{Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use super::{
    Docker, ENVIRONMENT_LABEL, Image, engine_error,
    image::{checked, image_repository},
};

/// Timeout of a build; callers have a shorter one.
const BUILD_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Period of the CPU limit, in microseconds.
const CPU_PERIOD_US: i32 = 100_000;

/// Interval at which new steps of a build are looked for.
const STEP_INTERVAL: Duration = Duration::from_millis(100);

/// Size of the chunks of a build context, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// A build of a Dockerfile.
pub(crate) struct ImageBuild {
    pub(crate) environment: Uuid,
    /// Deployment (`release` of a lease).
    pub(crate) version: String,
    /// Memory of each step, in bytes.
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_cores: f64,
    /// Processes and threads of each step.
    pub(crate) processes: u32,
    /// File to which the ids of layers are written, for [`Docker::remove_recorded_layers`].
    pub(crate) layers: PathBuf,
}

/// Output of a build.
enum BuildOutput {
    /// A part of the text.
    Text(String),
    /// Id of the image.
    Built(String),
}

impl Docker {
    /// Builds an image from a tar archive with the code and its Dockerfile; writes the output of the build.
    pub(crate) async fn build_image(
        &self,
        build: &ImageBuild,
        context: impl AsyncRead + Unpin + Send + 'static,
        mut log: impl AsyncWrite + Unpin,
    ) -> Result<Image> {
        let network = self.create_network(build.environment).await?;
        let cached = self.images_of(build.environment).await?;
        let client = self.client.clone().with_timeout(BUILD_TIMEOUT);
        let options = Self::options(build, &network, &cached);
        let body = body_try_stream(chunks(context));
        let mut output =
            std::pin::pin!(client.build_image(options, self.credentials.all(), Some(body)));
        let mut built = None;
        let mut layers: Vec<String> = vec![];
        let limit_steps = self.limit_steps(&network, build.processes);
        tokio::pin!(limit_steps);
        let result = loop {
            let step = tokio::select! {
                step = output.next() => step,
                never = &mut limit_steps => match never {},
            };
            match step {
                Some(Ok(step)) => match output_of(step) {
                    Ok(Some(BuildOutput::Text(text))) => {
                        let new = text.lines().filter_map(layer_of).map(str::to_owned);
                        let count = layers.len();
                        layers.extend(new);
                        if layers.len() > count {
                            tokio::fs::write(&build.layers, layers.join("\n")).await?;
                        }
                        log.write_all(text.as_bytes()).await?;
                    }
                    Ok(Some(BuildOutput::Built(id))) => built = Some(id),
                    Ok(None) => {}
                    Err(error) => break Err(error),
                },
                Some(Err(error)) => break Err(engine_error(error)),
                None => break built.clone().context("the build ended without an image"),
            }
        };
        // Layers of a failed build, and of stages that the image does not contain.
        if self.remove_unused_layers(&layers).await.is_ok() {
            let _ = tokio::fs::remove_file(&build.layers).await;
        }
        let id = result?;
        checked(self.client.inspect_image(&id).await.map_err(engine_error)?)
    }

    /// Removes the layers of a build that ended with its runner or its engine.
    pub(crate) async fn remove_recorded_layers(&self, file: &Path) {
        let Ok(layers) = tokio::fs::read_to_string(file).await else { return };
        let layers: Vec<_> = layers.lines().map(str::to_owned).collect();
        if self.remove_unused_layers(&layers).await.is_ok() {
            let _ = tokio::fs::remove_file(file).await;
        }
    }

    /// Limits the processes of the steps of a build, for which the builder has no option. Never ends.
    async fn limit_steps(&self, network: &str, processes: u32) -> Infallible {
        let filters = HashMap::from([("network", vec![network])]);
        let options = ListContainersOptionsBuilder::new().filters(&filters).build();
        let limits = ContainerUpdateBody {
            pids_limit: Some(i64::from(processes)),
            ..ContainerUpdateBody::default()
        };
        let mut limited = HashSet::new();
        loop {
            // Fails while the engine is restarting, which ends the build.
            let listed = self.client.list_containers(Some(options.clone())).await;
            for container in listed.unwrap_or_default() {
                // Programs have labels, and had the limit from their start on.
                let is_step = container.labels.is_none_or(|it| !it.contains_key(ENVIRONMENT_LABEL));
                if let Some(id) = container.id.filter(|it| is_step && !limited.contains(it)) {
                    let updated = self.client.update_container(&id, limits.clone()).await;
                    // Fails for a step that has ended.
                    if updated.is_ok() {
                        limited.insert(id);
                    }
                }
            }
            tokio::time::sleep(STEP_INTERVAL).await;
        }
    }

    fn options(
        build: &ImageBuild,
        network: &str,
        cached: &[String],
    ) -> bollard::query_parameters::BuildImageOptions {
        // The API of the engine has 32 bits here in its client.
        let memory = i32::try_from(build.memory_bytes).unwrap_or(i32::MAX);
        #[expect(clippy::cast_possible_truncation, reason = "some thousand cores at most")]
        let quota = (build.cpu_cores * f64::from(CPU_PERIOD_US)) as i32;
        BuildImageOptionsBuilder::new()
            .dockerfile("Dockerfile")
            .t(&format!("{}:{}", image_repository(build.environment), build.version))
            // The builder takes layers of any image if this list is empty.
            .nocache(cached.is_empty())
            .cachefrom(&cached.to_vec())
            .rm(true)
            .forcerm(true)
            .memory(memory)
            .memswap(memory)
            .cpuperiod(CPU_PERIOD_US)
            .cpuquota(quota)
            .networkmode(network)
            // No labels, each of which is a step after the last one of the Dockerfile: the name of the image
            // has the environment and the version.
            .build()
    }
}

/// Returns the output of a step; fails with the error of the build.
fn output_of(step: BuildInfo) -> Result<Option<BuildOutput>> {
    if let Some(error) = step.error_detail {
        bail!("{}", error.message.unwrap_or_default());
    }
    if let Some(id) = step.aux.and_then(|it| it.id) {
        return Ok(Some(BuildOutput::Built(id)));
    }
    Ok(step.stream.map(BuildOutput::Text))
}

/// Returns the id of the layer that a line of the output names: ` ---> 0123456789ab`.
fn layer_of(line: &str) -> Option<&str> {
    let id = line.trim().strip_prefix("---> ")?;
    (id.len() == 12 && id.bytes().all(|it| it.is_ascii_hexdigit())).then_some(id)
}

/// Returns the contents of a reader in chunks.
fn chunks(
    reader: impl AsyncRead + Unpin + Send + 'static,
) -> impl Stream<Item = std::io::Result<bytes::Bytes>> + Send {
    stream::try_unfold(reader, |mut reader| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        let length = reader.read(&mut chunk).await?;
        chunk.truncate(length);
        Ok((length > 0).then_some((bytes::Bytes::from(chunk), reader)))
    })
}
