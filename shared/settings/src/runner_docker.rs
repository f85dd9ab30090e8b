//! Settings of the container engine of the runner that belongs to the suite.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, ValueEnum};

/// Technology that runs the programs of environments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DriverKind {
    /// Containers of a Docker Engine, or of Podman at its compatible socket.
    Docker,
    /// Sandboxed processes (bubblewrap).
    Process,
}

/// Base image of a recipe, in place of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeImage {
    /// Name of the recipe.
    pub recipe: String,
    /// Name of the image; `{version}` is replaced by the version.
    pub image: String,
}

impl FromStr for RecipeImage {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('=').filter(|it| !it.0.is_empty() && !it.1.is_empty());
        let (recipe, image) = parts.ok_or("must be <recipe>=<image>")?;
        Ok(Self { recipe: recipe.to_owned(), image: image.to_owned() })
    }
}

/// Settings of the container engine of the runner. `tenantry-runner` has the same ones, without the prefix
/// `runner-`.
#[derive(Args, Clone, Debug)]
pub struct RunnerDocker {
    /// Technology that runs deployed programs: `docker` requires a container engine, `process` uses none.
    /// Default of the all-in-one: `process`. Default of `tenantry runner`, as of `tenantry-runner`: an engine
    /// where one answers at --runner-docker-host, for repositories with a Dockerfile or an image in their
    /// tenantry.toml, and with --runner-base-image for all others; sandboxed processes otherwise.
    #[arg(long, env = "TENANTRY_RUNNER_DRIVER")]
    pub runner_driver: Option<DriverKind>,
    /// Unix socket of the container engine, as a path or a URL `unix://…`.
    #[arg(long, env = "TENANTRY_RUNNER_DOCKER_HOST", default_value = "/var/run/docker.sock")]
    pub runner_docker_host: String,
    /// Image in which repositories without a Dockerfile are built and run by their tenantry.toml or Procfile.
    /// It needs `/bin/sh` and what their commands use. Default: none.
    #[arg(long, env = "TENANTRY_RUNNER_BASE_IMAGE")]
    pub runner_base_image: Option<String>,
    /// File with credentials of image registries, in the format that `docker login` writes (`config.json`,
    /// with `auths`). All environments can use their images. Default: none.
    #[arg(long, env = "TENANTRY_RUNNER_REGISTRY_CREDENTIALS")]
    pub runner_registry_credentials: Option<PathBuf>,
    /// Directory with recipes (`<name>.toml`), beside those of the suite: odoo and tryton. One of the same
    /// name replaces it. Default: none.
    #[arg(long, env = "TENANTRY_RUNNER_RECIPES")]
    pub runner_recipes: Option<PathBuf>,
    /// Base images of recipes in place of their own, comma-separated, each as `<recipe>=<image>`. `{version}`
    /// in a name is replaced by the version. For example `odoo=registry.example.com/odoo:{version}`.
    #[arg(long, env = "TENANTRY_RUNNER_RECIPE_IMAGES", value_delimiter = ',')]
    pub runner_recipe_images: Vec<RecipeImage>,
}
