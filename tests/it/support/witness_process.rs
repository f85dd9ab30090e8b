//! The program `tenantry witness` as a process, which a test kills and starts again on the same directory.

use std::path::{Path, PathBuf};

use reqwest::StatusCode;
use tempfile::TempDir;
use testkit::{Process, ReservedPort, eventually};
use verifier::witness::WitnessKey;

/// A verifier key of no log, for a witness that has no log yet.
const NO_LOG: &str =
    "none tenantry.localhost/audit+4419620e+AfYwYSymMpBlHYFGcNoxlTWpWArGBc3BEc6qqVqTDgCw\n";

/// The process, its directory and its address, which stays the same after a restart.
pub(crate) struct WitnessProcess {
    /// Verifier key.
    pub(crate) key: String,
    name: String,
    folder: TempDir,
    port: ReservedPort,
    /// `None` between [`Self::kill`] and [`Self::start_again`].
    process: Option<Process>,
}

/// A response of a witness.
#[derive(Debug)]
pub(crate) struct WitnessAnswer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: String,
    pub(crate) text: String,
}

impl WitnessProcess {
    /// Starts a witness without logs.
    pub(crate) async fn start(name: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let mut witness = Self {
            key: String::new(),
            name: name.to_owned(),
            folder,
            port: ReservedPort::new(),
            process: None,
        };
        witness.set_logs(NO_LOG);
        witness.start_again().await;
        let output = witness.output();
        let key = output.lines().next().unwrap();
        assert_eq!(WitnessKey::parse(key).unwrap().name(), name);
        key.clone_into(&mut witness.key);
        witness
    }

    /// Replaces the file of the logs, which the next start reads.
    pub(crate) fn set_logs(&self, lines: &str) {
        std::fs::write(self.folder.path().join("logs"), lines).unwrap();
    }

    /// Starts the witness on its directory and waits until it answers.
    pub(crate) async fn start_again(&mut self) {
        let folder = self.folder.path();
        let arguments = [
            "witness".to_owned(),
            format!("--name={}", self.name),
            format!("--logs={}", folder.join("logs").display()),
            format!("--data-dir={}", self.data_dir().display()),
            format!("--listen=127.0.0.1:{}", self.port.number()),
        ];
        self.process = Some(Process::start("tenantry", &arguments, &folder.join("output")));
        let url = format!("{}/livez", self.url());
        eventually("the start of the witness", async || reqwest::get(&url).await.ok()).await;
    }

    /// Kills the process (`SIGKILL`).
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("the process is running").kill();
    }

    /// Terminates the process, which must end with 0.
    pub(crate) fn stop(&mut self) {
        let process = self.process.take().expect("the process is running");
        assert!(process.stop(), "{}", self.output());
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Directory of the stored checkpoints.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.data_dir().join("checkpoints")
    }

    /// Output of the process since its first start.
    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("output")).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// Sends a request for a cosignature; fails if the process ends meanwhile.
    pub(crate) async fn add_checkpoint(
        &self,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Result<WitnessAnswer> {
        let url = format!("{}/add-checkpoint", self.url());
        answer(reqwest::Client::new().post(url).body(body).send().await?).await
    }

    /// Returns the newest cosigned checkpoint of a log.
    pub(crate) async fn newest(&self, origin: &str) -> WitnessAnswer {
        let hash = data_encoding::HEXLOWER.encode(&chassis::key::hash(origin.as_bytes()));
        let url = format!("{}/{hash}/checkpoint", self.url());
        answer(reqwest::get(url).await.unwrap()).await.unwrap()
    }
}

async fn answer(response: reqwest::Response) -> reqwest::Result<WitnessAnswer> {
    let status = response.status();
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    Ok(WitnessAnswer { status, content_type, text: response.text().await? })
}

/// Copies the files of a folder into another one, which is emptied first.
pub(crate) fn replace_files(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
