//! Pebble, an ACME authority for tests, which checks challenges at a DNS server of the test.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};

use reqwest::{Certificate, Client};
use serde_json::json;
use tempfile::TempDir;

use crate::{ReservedPort, eventually};

/// An ACME authority on loopback ports; stops with the test.
pub struct Pebble {
    folder: TempDir,
    port: ReservedPort,
    management_port: ReservedPort,
    dns_port: u16,
    /// `None` while it is stopped.
    child: Option<Child>,
}

/// Share of requests that Pebble answers with the problem `badNonce`, in percent. Clients repeat them.
const REJECTED_NONCES: u8 = 20;

impl Pebble {
    /// Starts an authority that resolves names with the DNS server at 127.0.0.1 and a port, and connects to
    /// these ports for HTTP-01 and TLS-ALPN-01. Its certificates are valid for `validity_s` seconds.
    pub async fn start(dns_port: u16, http_port: u16, tls_port: u16, validity_s: u32) -> Self {
        // Of the clients of `reqwest`; a test may start no suite before.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a temporary directory");
        // Unprivileged runners read the certificate.
        let mode = PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), mode).expect("the mode can be changed");
        let own =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let write = |name: &str, text: String| {
            let file = folder.path().join(name);
            fs::write(&file, text).expect("the file can be written");
            file
        };
        let certificate = write("server.pem", own.cert.pem());
        let key = write("server.key", own.signing_key.serialize_pem());
        let (port, management_port) = (ReservedPort::new(), ReservedPort::new());
        let address = |port: &ReservedPort| format!("127.0.0.1:{}", port.number());
        let config = json!({ "pebble": {
            "listenAddress": address(&port), "managementListenAddress": address(&management_port),
            "certificate": certificate, "privateKey": key, "httpPort": http_port, "tlsPort": tls_port,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "certificateValidityPeriod": validity_s,
        } });
        write("config.json", config.to_string());
        let mut pebble = Self { folder, port, management_port, dns_port, child: None };
        pebble.run(REJECTED_NONCES).await;
        pebble
    }

    /// Starts it again with new keys and without accounts. `rejected_nonces`: share of requests that it
    /// answers with `badNonce`, in percent.
    pub async fn restart(&mut self, rejected_nonces: u8) {
        self.stop();
        self.run(rejected_nonces).await;
    }

    async fn run(&mut self, rejected_nonces: u8) {
        let folder = self.folder.path();
        let log = fs::File::create(folder.join("log")).expect("the file can be created");
        let mut command = Command::new("pebble");
        command.arg("-config").arg(folder.join("config.json"));
        command.arg("-dnsserver").arg(format!("127.0.0.1:{}", self.dns_port));
        // Without the random pause before each check of a challenge.
        command.env("PEBBLE_VA_NOSLEEP", "1");
        command.env("PEBBLE_WFE_NONCEREJECT", rejected_nonces.to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a copy")).stderr(log);
        self.child = Some(command.spawn().expect("Pebble starts; `cargo xtask test` installs it"));
        eventually("the start of Pebble", async || self.root().await).await;
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// URL of its directory.
    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port.number())
    }

    /// File with the certificate of its server.
    pub fn ca_file(&self) -> String {
        self.folder.path().join("server.pem").display().to_string()
    }

    /// Root of the certificates that it issues, as PEM; `None` before it has started.
    pub async fn root(&self) -> Option<Certificate> {
        let own = fs::read(self.ca_file()).expect("the certificate was written");
        let own = Certificate::from_pem(&own).expect("a certificate");
        let client = Client::builder().tls_certs_only([own]).no_proxy().build().expect("a client");
        let url = format!("https://localhost:{}/roots/0", self.management_port.number());
        let root = client.get(url).send().await.ok()?.bytes().await.ok()?;
        Certificate::from_pem(&root).ok()
    }

    /// Number of certificates that it has issued.
    pub fn issued_count(&self) -> usize {
        let log = fs::read_to_string(self.folder.path().join("log")).expect("a log");
        log.matches("Issued certificate serial").count()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.stop();
    }
}
