//! DNS servers whose records can be changed: BIND with dynamic updates, and PowerDNS with its HTTP API. Both
//! have the zone `apps.example.com` on loopback ports.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{ReservedPort, eventually};

/// Zone of the servers.
const ZONE: &str = "apps.example.com";

/// Directory of a server, and its process.
struct Daemon {
    folder: TempDir,
    child: Option<Child>,
}

impl Daemon {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary directory"), child: None }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("the file can be written");
    }

    async fn start(&mut self, command: &mut Command, port: u16) {
        let log = fs::File::create(self.file("log")).expect("the file can be created");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the DNS server starts; `cargo xtask test` installs it");
        self.child = Some(child);
        eventually("the start of the DNS server", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// BIND. Its key `tenantry` may change every record, `text-only` TXT records only.
pub struct Named {
    daemon: Daemon,
    port: ReservedPort,
}

impl Named {
    /// Secret of both keys, in Base64.
    pub const SECRET: &str = "dHNpZy1zM2NyZXQtb2YtYm90aC1rZXlzLW9mLXRlc3Rz";

    /// Starts a server.
    pub async fn start() -> Self {
        let mut server = Self { daemon: Daemon::new(), port: ReservedPort::new() };
        let config = format!(
            "options {{ directory \"{folder}\"; listen-on port {port} {{ 127.0.0.1; }}; \
             listen-on-v6 {{ none; }}; pid-file none; session-keyfile none; recursion no; \
             dnssec-validation no; allow-query {{ any; }}; reuseport no; }};\n\
             controls {{ }};\n\
             key \"tenantry\" {{ algorithm hmac-sha256; secret \"{secret}\"; }};\n\
             key \"text-only\" {{ algorithm hmac-sha512; secret \"{secret}\"; }};\n\
             zone \"{ZONE}\" {{ type primary; file \"zone\"; update-policy {{ \
             grant tenantry zonesub ANY; grant text-only zonesub TXT; }}; }};\n",
            folder = server.daemon.folder.path().display(),
            port = server.port.number(),
            secret = Self::SECRET,
        );
        server.daemon.write("named.conf", &config);
        let zone = format!(
            "$TTL 60\n@ SOA ns.{ZONE}. admin.{ZONE}. 1 60 60 3600 60\n@ NS ns\nns A 127.0.0.1\n"
        );
        server.daemon.write("zone", &zone);
        server.run().await;
        server
    }

    /// Starts the stopped server again, with its records.
    pub async fn run(&mut self) {
        let mut command = Command::new("/usr/sbin/named");
        command.arg("-g").arg("-c").arg(self.daemon.file("named.conf"));
        self.daemon.start(&mut command, self.port.number()).await;
        // It accepts connections before its zone is loaded.
        let name = format!("ns.{ZONE}");
        eventually("the zone", async || (self.records(&name, "A") == ["127.0.0.1"]).then_some(()))
            .await;
    }

    /// Stops the server.
    pub fn stop(&mut self) {
        self.daemon.stop();
    }

    /// Port of the server at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Address and port, for the setting of connection exceptions.
    pub fn exception(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// Values of the records with a name and a type, as dig prints them.
    pub fn records(&self, name: &str, record_type: &str) -> Vec<String> {
        let port = self.port().to_string();
        let mut dig = Command::new("dig");
        dig.args(["+short", "+tcp", "@127.0.0.1", "-p", &port, name, record_type]);
        let output = dig.output().expect("dig runs").stdout;
        String::from_utf8_lossy(&output).lines().map(str::to_owned).collect()
    }

    /// Every record of the zone, by a zone transfer.
    pub fn zone(&self) -> String {
        self.records(ZONE, "AXFR").join("\n")
    }

    /// Changes records by a command of nsupdate, for example `add www.apps.example.com 60 A 192.0.2.1`.
    pub fn update(&self, command: &str) {
        let key = format!("hmac-sha256:tenantry:{}", Self::SECRET);
        let mut nsupdate = Command::new("nsupdate");
        nsupdate.args(["-y", &key]).stdin(Stdio::piped());
        let mut child = nsupdate.spawn().expect("nsupdate runs");
        let input =
            format!("server 127.0.0.1 {}\nzone {ZONE}\nupdate {command}\nsend\n", self.port());
        let mut stdin = child.stdin.take().expect("the input of nsupdate");
        stdin.write_all(input.as_bytes()).expect("nsupdate reads");
        drop(stdin);
        assert!(child.wait().expect("nsupdate ends").success(), "{command}");
    }
}

/// PowerDNS.
pub struct PowerDnsServer {
    _daemon: Daemon,
    _dns_port: ReservedPort,
    port: ReservedPort,
    client: Client,
}

impl PowerDnsServer {
    /// API key.
    pub const API_KEY: &str = "powerdns-s3cret-key";

    /// Starts a server with the zone.
    pub async fn start() -> Self {
        let mut daemon = Daemon::new();
        let (dns_port, port) = (ReservedPort::new(), ReservedPort::new());
        let database = daemon.file("pdns.db");
        let schema = "/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql";
        let schema = fs::File::open(schema).expect("the schema; `cargo xtask test` installs it");
        let mut sqlite = Command::new("sqlite3");
        let status = sqlite.arg(&database).stdin(schema).status();
        assert!(status.expect("sqlite3 runs").success());
        let mut command = Command::new("/usr/sbin/pdns_server");
        command.args(["--no-config", "--launch=gsqlite3", "--local-address=127.0.0.1"]);
        command.arg(format!("--gsqlite3-database={}", database.display()));
        command.arg(format!("--local-port={}", dns_port.number()));
        command.args(["--webserver=yes", "--webserver-address=127.0.0.1", "--api=yes"]);
        command.args(["--webserver-allow-from=127.0.0.1", "--daemon=no", "--guardian=no"]);
        command.arg(format!("--webserver-port={}", port.number()));
        command.arg(format!("--api-key={}", Self::API_KEY));
        command.arg(format!("--socket-dir={}", daemon.folder.path().display()));
        command.arg("--security-poll-suffix=");
        daemon.start(&mut command, port.number()).await;
        let server = Self { _daemon: daemon, _dns_port: dns_port, port, client: Client::new() };
        let zone = json!({
            "name": format!("{ZONE}."), "kind": "Native", "nameservers": [format!("ns.{ZONE}.")],
        });
        server.request(reqwest::Method::POST, "", Some(zone)).await;
        server
    }

    /// URL of the API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// Address and port, for the setting of connection exceptions.
    pub fn exception(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    async fn request(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}/api/v1/servers/localhost/zones{path}", self.url());
        let mut request = self.client.request(method, url).header("x-api-key", Self::API_KEY);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("the API responds");
        let status = response.status();
        let text = response.text().await.expect("a complete response");
        assert!(status.is_success(), "{status}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Values of the records with a name and a type.
    pub async fn records(&self, name: &str, record_type: &str) -> Vec<String> {
        let zone = self.request(reqwest::Method::GET, &format!("/{ZONE}."), None).await;
        let rrsets = zone["rrsets"].as_array().cloned().unwrap_or_default();
        let name = format!("{name}.");
        let rrsets =
            rrsets.into_iter().filter(|it| it["name"] == name && it["type"] == record_type);
        let values = rrsets.flat_map(|it| it["records"].as_array().cloned().unwrap_or_default());
        values.map(|it| it["content"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Names of the zone that have records.
    pub async fn names(&self) -> Vec<String> {
        let zone = self.request(reqwest::Method::GET, &format!("/{ZONE}."), None).await;
        let rrsets = zone["rrsets"].as_array().cloned().unwrap_or_default();
        rrsets.iter().map(|it| it["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Replaces the record with a name and a type.
    pub async fn replace(&self, name: &str, record_type: &str, content: &str) {
        let rrset = json!({
            "name": format!("{name}."), "type": record_type, "ttl": 60, "changetype": "REPLACE",
            "records": [{ "content": content, "disabled": false }],
        });
        let body = json!({ "rrsets": [rrset] });
        self.request(reqwest::Method::PATCH, &format!("/{ZONE}."), Some(body)).await;
    }
}
