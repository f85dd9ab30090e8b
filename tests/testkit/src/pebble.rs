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
    child: Child,
}

impl Pebble {
    /// Starts an authority that resolves names with the DNS server at 127.0.0.1 and a port. Its certificates
    /// are valid for `validity_s` seconds.
    pub async fn start(dns_port: u16, validity_s: u32) -> Self {
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
            "certificate": certificate, "privateKey": key, "httpPort": 80, "tlsPort": 443,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "certificateValidityPeriod": validity_s,
        } });
        let config = write("config.json", config.to_string());
        let log = fs::File::create(folder.path().join("log")).expect("the file can be created");
        let mut command = Command::new("pebble");
        command.arg("-config").arg(config).arg("-dnsserver").arg(format!("127.0.0.1:{dns_port}"));
        // Without the random pause before each check of a challenge.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "20");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a copy")).stderr(log);
        let child = command.spawn().expect("Pebble starts; `cargo xtask test` installs it");
        let pebble = Self { folder, port, management_port, child };
        eventually("the start of Pebble", async || pebble.root().await).await;
        pebble
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
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
