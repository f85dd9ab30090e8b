//! An image registry (CNCF Distribution) on loopback that needs a password.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use bollard::{
    auth::DockerCredentials,
    query_parameters::{
        PushImageOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
    },
};
use futures::StreamExt;
use tempfile::TempDir;

use crate::{BASE_IMAGE, Engine, ReservedPort, eventually};

/// An image registry; stops with the test. Engines use loopback registries without TLS.
pub struct Registry {
    folder: TempDir,
    port: ReservedPort,
    child: Child,
}

impl Registry {
    /// Name of its only user.
    pub const USER: &str = "puller";
    /// Password of the user.
    pub const PASSWORD: &str = "s3cret-of-pulls";
    /// bcrypt hash of the password, of the lowest cost but one.
    const PASSWORD_HASH: &str = "$2y$05$abcdefghijklmnopqrstuuu3Zluwql0/OY721GdM/EIlYr4CTd63C";

    /// Starts an empty registry.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let port = ReservedPort::new();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let users = format!("{}:{}\n", Self::USER, Self::PASSWORD_HASH);
        fs::write(path("users"), users).expect("the file can be written");
        let config = format!(
            "version: 0.1\nlog: {{ level: warn }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
             http: {{ addr: '127.0.0.1:{}' }}\nauth: {{ htpasswd: {{ realm: images, path: {} }} }}\n",
            path("images"),
            port.number(),
            path("users"),
        );
        fs::write(path("config.yml"), config).expect("the file can be written");
        let log = fs::File::create(path("log")).expect("the file can be created");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path("config.yml")).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a copy")).stderr(log);
        let child = command.spawn().expect("the registry starts; `cargo xtask test` installs it");
        let registry = Self { folder, port, child };
        eventually("the start of the registry", async || {
            reqwest::get(format!("http://{}/v2/", registry.host())).await.ok()
        })
        .await;
        registry
    }

    /// Host name and port.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Pushes the base image under a name, and leaves none of that name in the engine; returns the name.
    pub async fn push_base_image(&self, engine: &Engine) -> String {
        let repository = format!("{}/base", self.host());
        let client = engine.client();
        let tag = TagImageOptionsBuilder::new().repo(&repository).tag("1").build();
        client.tag_image(BASE_IMAGE, Some(tag)).await.expect("the base image gets a name");
        let credentials = DockerCredentials {
            username: Some(Self::USER.to_owned()),
            password: Some(Self::PASSWORD.to_owned()),
            ..DockerCredentials::default()
        };
        let options = PushImageOptionsBuilder::new().tag("1").build();
        let mut push =
            std::pin::pin!(client.push_image(&repository, Some(options), Some(credentials)));
        while let Some(step) = push.next().await {
            step.expect("the image is pushed");
        }
        let image = format!("{repository}:1");
        Self::forget(engine, &image).await;
        image
    }

    /// Removes a name of an image from the engine, if it has it.
    pub async fn forget(engine: &Engine, image: &str) {
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        let _ = engine.client().remove_image(image, Some(options), None).await;
    }

    /// Writes a file like that of `docker login` with a password of the user; returns its path.
    pub fn write_credentials(&self, password: &str) -> std::path::PathBuf {
        let pair = data_encoding::BASE64.encode(format!("{}:{password}", Self::USER).as_bytes());
        let text = format!(r#"{{ "auths": {{ "{}": {{ "auth": "{pair}" }} }} }}"#, self.host());
        let file = self.folder.path().join("credentials.json");
        fs::write(&file, text).expect("the file can be written");
        file
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
