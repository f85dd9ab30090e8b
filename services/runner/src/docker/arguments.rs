//! Command line of the container engine.

use std::path::PathBuf;

use clap::Args;
use settings::{DriverKind, RecipeImage};

use crate::settings::{DockerSettings, RecipeSettings};

/// Settings of the container engine on the command line.
#[derive(Args, Clone, Debug)]
pub struct DockerArguments {
    /// Technology that runs programs: `docker` requires a container engine, `process` uses none. Default: an
    /// engine where one answers at --docker-host, for repositories with a Dockerfile or an image in their
    /// tenantry.toml, and with --base-image for all others; sandboxed processes otherwise.
    #[arg(long, env = "TENANTRY_RUNNER_DRIVER")]
    pub driver: Option<DriverKind>,
    /// Unix socket of the container engine, as a path or a URL `unix://…`.
    #[arg(long, env = "TENANTRY_RUNNER_DOCKER_HOST", default_value = "/var/run/docker.sock")]
    pub docker_host: String,
    /// Image in which repositories without a Dockerfile are built and run by their tenantry.toml or Procfile.
    /// It needs `/bin/sh` and what their commands use. Default: none.
    #[arg(long, env = "TENANTRY_RUNNER_BASE_IMAGE")]
    pub base_image: Option<String>,
    /// File with credentials of image registries, in the format that `docker login` writes (`config.json`,
    /// with `auths`). All environments of this server can use their images. Default: none.
    #[arg(long, env = "TENANTRY_RUNNER_REGISTRY_CREDENTIALS")]
    pub registry_credentials: Option<PathBuf>,
    /// Directory with recipes (`<name>.toml`), beside those of the suite: odoo and tryton. One of the same
    /// name replaces it. Default: none.
    #[arg(long, env = "TENANTRY_RUNNER_RECIPES")]
    pub recipes: Option<PathBuf>,
    /// Base images of recipes in place of their own, comma-separated, each as `<recipe>=<image>`. `{version}`
    /// in a name is replaced by the version. For example `odoo=registry.example.com/odoo:{version}`.
    #[arg(long, env = "TENANTRY_RUNNER_RECIPE_IMAGES", value_delimiter = ',')]
    pub recipe_images: Vec<RecipeImage>,
}

impl DockerArguments {
    /// Returns the settings; `None` without containers.
    #[must_use]
    pub fn settings(self) -> Option<DockerSettings> {
        if self.driver == Some(DriverKind::Process) {
            return None;
        }
        Some(DockerSettings {
            socket: PathBuf::from(self.docker_host.trim_start_matches("unix://")),
            base_image: self.base_image,
            credentials_file: self.registry_credentials,
            is_required: self.driver == Some(DriverKind::Docker),
            recipes: RecipeSettings { directory: self.recipes, images: self.recipe_images },
        })
    }
}
