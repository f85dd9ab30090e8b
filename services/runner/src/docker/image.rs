//! Images: those of registries, and those of versions, which are named `tenantry/<environment>:<version>`.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bollard::{
    models::ImageInspect,
    query_parameters::{
        CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
        TagImageOptionsBuilder,
    },
};
use futures::StreamExt;
use uuid::Uuid;

use super::{
    Docker,
    dockerfile::{IMAGE_PREFIX, check_reference},
    engine_error, optional,
};

/// Timeout of a pull.
const PULL_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Names of the account root in the field `USER` of an image.
const ROOT_USERS: [&str; 2] = ["root", "0"];

/// An image of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Id, `sha256:…`.
    pub(crate) id: String,
    /// TCP port that it exposes; `None` if it exposes none or several.
    pub(crate) port: Option<u16>,
}

impl Docker {
    /// Returns an image that the operator has named or that is in use; pulls it if the engine does not have
    /// it.
    pub(crate) async fn image(&self, name: &str) -> Result<Image> {
        if let Some(found) = optional(self.client.inspect_image(name).await)? {
            return checked(found);
        }
        self.pull(name).await?;
        checked(self.client.inspect_image(name).await.map_err(engine_error)?)
    }

    /// Returns an image that a manifest names. It is pulled again, because its tag may name another image
    /// than before; without its registry, the one that the engine has is used.
    pub(crate) async fn named_image(&self, name: &str) -> Result<Image> {
        check_reference(name)?;
        if let Err(error) = self.pull(name).await {
            let found = optional(self.client.inspect_image(name).await)?;
            return checked(found.ok_or(error)?);
        }
        self.image(name).await
    }

    async fn pull(&self, name: &str) -> Result<()> {
        let last = name.rsplit('/').next().unwrap_or_default();
        // Without a tag the engine pulls all tags.
        let tag = if last.contains([':', '@']) { "" } else { "latest" };
        let options = CreateImageOptionsBuilder::new().from_image(name).tag(tag).build();
        let client = self.client.clone().with_timeout(PULL_TIMEOUT);
        let mut progress = std::pin::pin!(client.create_image(
            Some(options),
            None,
            self.credentials.of_image(name)
        ));
        while let Some(step) = progress.next().await {
            step.map_err(engine_error)
                .with_context(|| format!("the image {name} cannot be pulled"))?;
        }
        Ok(())
    }

    /// Gives an image of an environment to a version of another one.
    pub(crate) async fn copy_image(
        &self,
        id: &str,
        environment: Uuid,
        version: &str,
    ) -> Result<()> {
        let repository = image_repository(environment);
        let options = TagImageOptionsBuilder::new().repo(&repository).tag(version).build();
        self.client.tag_image(id, Some(options)).await.map_err(engine_error)
    }

    /// Removes the images of an environment's versions, but for those of these versions.
    pub(crate) async fn remove_images(&self, environment: Uuid, kept: &[String]) -> Result<()> {
        let repository = image_repository(environment);
        let filters = std::collections::HashMap::from([("reference", vec![repository.clone()])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let images = self.client.list_images(Some(options)).await.map_err(engine_error)?;
        for name in images.into_iter().flat_map(|it| it.repo_tags) {
            // Podman puts the registry before the name.
            let short = name.strip_prefix("docker.io/").unwrap_or(&name);
            let version = short.strip_prefix(&format!("{repository}:"));
            if version.is_some_and(|it| !kept.iter().any(|kept| kept == it)) {
                self.remove_image(&name).await?;
            }
        }
        Ok(())
    }

    /// Returns the images of an environment's versions.
    pub(super) async fn images_of(&self, environment: Uuid) -> Result<Vec<String>> {
        let filters =
            std::collections::HashMap::from([("reference", vec![image_repository(environment)])]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let images = self.client.list_images(Some(options)).await.map_err(engine_error)?;
        Ok(images.into_iter().map(|it| it.id).collect())
    }

    /// Removes a name of an image, and the image with its last one. An image in use is left.
    pub(super) async fn remove_image(&self, name: &str) -> Result<()> {
        let options = RemoveImageOptionsBuilder::new().build();
        match self.client.remove_image(name, Some(options), None).await {
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. }) => {
                Ok(())
            }
            other => optional(other).map(|_| ()),
        }
    }

    /// Removes layers of builds that no image has. Others are left. Fails if the engine does not answer.
    pub(super) async fn remove_unused_layers(&self, ids: &[String]) -> Result<()> {
        for id in ids.iter().rev() {
            let Some(image) = optional(self.client.inspect_image(id).await)? else { continue };
            let has_name = image.repo_tags.is_some_and(|it| !it.is_empty())
                || image.repo_digests.is_some_and(|it| !it.is_empty());
            if !has_name {
                // Fails for a layer that another image has.
                let _ = self.remove_image(id).await;
            }
        }
        Ok(())
    }
}

/// Name of the images of an environment's versions, without the tag.
pub(super) fn image_repository(environment: Uuid) -> String {
    format!("{IMAGE_PREFIX}{environment}")
}

/// Fails if an image insists on the account root.
pub(super) fn checked(image: ImageInspect) -> Result<Image> {
    let Some(id) = image.id else { bail!("the image has no id") };
    let configuration = image.config.unwrap_or_default();
    let user = configuration.user.unwrap_or_default();
    let user = user.split(':').next().unwrap_or_default();
    ensure!(
        !ROOT_USERS.contains(&user),
        "the image insists on the account root (USER {user}), which no program has on this server; remove \
         the line USER, or name another account in it"
    );
    let ports = configuration.exposed_ports.unwrap_or_default();
    let mut ports = ports.iter().filter_map(|it| it.strip_suffix("/tcp")?.parse().ok());
    let port = ports.next().filter(|_| ports.next().is_none());
    Ok(Image { id, port })
}
