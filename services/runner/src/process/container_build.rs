//! Images of versions: those of Dockerfiles, of registries and of recipes, and the base image.

use std::{os::unix::ffi::OsStrExt, process::Stdio};

use anyhow::{Context, Result, ensure};
use api::project::Lease;
use tokio_util::sync::CancellationToken;

use super::{
    DEPLOY_STEPS, Processes,
    bubblewrap::{Access, Mount},
    build::{BUILD_TIMEOUT, report_output},
    directory::EnvironmentDir,
    dockerignore::Patterns,
    launch::{Launch, ProgramImage},
    limits::{PROCESSES_MAX, ResourceLimits},
    manifest::{Manifest, Program},
    sandbox::{Output, SandboxCommand},
    usage::disk_limit_exceeded,
};
use crate::{docker::ImageBuild, driver::ProgressReporter, text::read_bounded};

/// Size of the buffer between a build and the task's log, in bytes.
const OUTPUT_BUFFER: usize = 64 << 10;

/// Maximum length of `.dockerignore`, in bytes.
const IGNORE_BYTES_MAX: u64 = 64 << 10;

/// Maximum length of the error output of `tar`, in bytes.
const ERROR_BYTES_MAX: usize = 8 << 10;

impl Processes {
    /// Returns the image in which a version is built and run; `None` if it must be built, and for a sandbox.
    pub(super) async fn image_before_build(
        &self,
        manifest: &Manifest,
    ) -> Result<Option<ProgramImage>> {
        let Some(docker) = &self.docker else { return Ok(None) };
        let (image, has_program) = match &manifest.program {
            Program::Dockerfile => return Ok(None),
            Program::Image(name) => (docker.named_image(name).await?, true),
            Program::Code => match docker.base_image()? {
                Some(name) => (docker.image(name).await?, false),
                None => return Ok(None),
            },
            Program::Recipe(recipe) => return Ok(Some(self.image_of_recipe(recipe).await?)),
        };
        Ok(Some(ProgramImage {
            id: image.id,
            port: image.port.filter(|_| has_program),
            has_program,
            recipe: None,
        }))
    }

    /// Builds the Dockerfile of a version. The build context is the checked-out code without the repository,
    /// archived as the account of the environment, which follows no symbolic links.
    pub(super) async fn build_dockerfile(
        &self,
        lease: &Lease,
        environment: &EnvironmentDir,
        report: &ProgressReporter,
    ) -> Result<ProgramImage> {
        report.step("build", 2, DEPLOY_STEPS, "building: Dockerfile").await;
        let limits = self.build_limits(lease);
        let archive = self.archive_of_context(lease, environment, limits).await?;
        let output = Output { stdout: Stdio::piped(), stderr: Stdio::piped() };
        let mut archiving = self.sandbox.spawn("context", archive, output).await?;
        let context = archiving.child.stdout.take().context("no standard output")?;
        let errors = archiving.child.stderr.take().context("no error output")?;
        let build = ImageBuild {
            environment: environment.id(),
            version: lease.release.clone(),
            memory_bytes: limits.memory_bytes(),
            cpu_cores: limits.cpu_cores,
            processes: PROCESSES_MAX,
            layers: environment.layers(),
        };
        let (reader, writer) = tokio::io::duplex(OUTPUT_BUFFER);
        let has_ended = CancellationToken::new();
        // The client of the engine has large futures.
        let building = Box::pin(async {
            let built = self.docker()?.build_image(&build, context, writer).await;
            has_ended.cancel();
            built
        });
        let build = async {
            tokio::join!(
                report_output(reader, report, &has_ended),
                building,
                read_bounded(errors, ERROR_BYTES_MAX),
            )
        };
        let build_within_limits = async {
            tokio::select! {
                built = build => Ok(built),
                error = disk_limit_exceeded(environment, limits) => Err(error),
            }
        };
        let result = tokio::time::timeout(BUILD_TIMEOUT, build_within_limits).await;
        let (last_lines, built, errors) =
            result.context("the build did not end within 30 minutes")??;
        let archived = archiving.wait().await?;
        environment.clear_starting_process().await;
        environment.remove_sandbox("context").await?;
        ensure!(archived.success(), "the code cannot be archived: {}", errors?.trim());
        let image = built.map_err(|error| {
            anyhow::anyhow!("the build failed ({error:#}); its last output:\n{last_lines}")
        })?;
        Ok(ProgramImage { id: image.id, port: image.port, has_program: true, recipe: None })
    }

    /// Returns the command that archives a build context.
    async fn archive_of_context<'a>(
        &self,
        lease: &Lease,
        environment: &'a EnvironmentDir,
        limits: ResourceLimits,
    ) -> Result<SandboxCommand<'a>> {
        let code = environment.release_dir(&lease.release)?;
        let patterns =
            environment.read_release_file(&lease.release, ".dockerignore", IGNORE_BYTES_MAX)?;
        let patterns = Patterns::parse(&patterns.map(|it| it.text).unwrap_or_default())?;
        let directory = code.clone();
        let excluded =
            tokio::task::spawn_blocking(move || patterns.excluded_below(&directory)).await?;
        let mut list = vec![];
        for path in excluded {
            // One path per line; a name with a line break cannot be excluded.
            if !path.as_os_str().as_bytes().contains(&b'\n') {
                list.extend([b"./", path.as_os_str().as_bytes(), b"\n"].concat());
            }
        }
        let file = environment.context_excludes();
        tokio::fs::write(&file, list).await?;
        let archive = [
            "tar",
            "--create",
            "--file=-",
            "--exclude=.git",
            "--anchored",
            "--no-wildcards",
            "--exclude-from=/excluded",
            ".",
        ];
        Ok(SandboxCommand {
            mounts: vec![
                Mount::new(code, "/data", Access::ReadOnly),
                Mount::new(file, "/excluded", Access::ReadOnly),
            ],
            arguments: archive.map(str::to_owned).into(),
            ..Self::tool(environment, limits)
        })
    }

    /// Stores the image of a copied version for its new environment.
    pub(super) async fn copy_image(
        &self,
        lease: &Lease,
        target: &EnvironmentDir,
        image: Option<ProgramImage>,
    ) -> Result<()> {
        let Some(image) = image else { return Ok(()) };
        if image.has_program {
            self.docker()?.copy_image(&image.id, target.id(), &lease.release).await?;
        }
        let context = self.context_of_built(Some(&image))?;
        let manifest = Manifest::read(target, &lease.release, &context)?;
        let launch = Launch::new(lease, &lease.release, &manifest, Some(image));
        target.write_release_launch(&launch).await
    }
}
