//! Broken installations, each refused at the start by one sentence with the cause and the remedy, and found
//! by `doctor` with the same sentence.

use std::path::{Path, PathBuf};

use sqlx::{Connection, Executor, PgConnection};
use testkit::{Database, Process};

use super::startup::data_dir;

/// A broken installation.
struct Broken {
    /// Arguments besides those of a working installation.
    arguments: Vec<String>,
    /// Parts of the sentence: the cause and the remedy.
    sentence: &'static [&'static str],
}

fn broken(argument: impl Into<String>, sentence: &'static [&'static str]) -> Broken {
    Broken { arguments: vec![argument.into()], sentence }
}

/// Files with contents that no setting accepts.
struct BadFiles {
    folder: tempfile::TempDir,
}

impl BadFiles {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("short.key", "abc"), ("text.key", "this is no key")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The broken installations. `url` is that of a working database, `latin` that of one with another encoding.
fn installations(files: &BadFiles, url: &str, latin: &str, occupied: &str) -> Vec<Broken> {
    let path = |name: &str| files.path(name).display().to_string();
    let on_database = |argument: String, sentence| Broken {
        arguments: vec![format!("--database-url={url}"), argument],
        sentence,
    };
    let unknown_user = url.replace("//tenantry@", "//nobody_of_that_name@");
    let unknown_database = url.replace("/t_", "/missing_");
    vec![
        broken(
            format!("--listen={occupied}"),
            &["cannot listen on", "another address with --listen"],
        ),
        broken(
            format!("--health-listen={occupied}"),
            &["cannot listen on", "another address with --health-listen"],
        ),
        broken("--listen=0.0.0.0:0", &["can be reached from other machines", "--tls-cert"]),
        broken("--tls-cert=tls.pem", &["--tls-key", "--tls-ca", "required"]),
        broken("--database-url=127.0.0.1", &["--database-url is not a valid URL", "postgres://"]),
        broken(
            format!("--database-url={unknown_user}"),
            &["the database refuses the connection", "--database-url", "nobody_of_that_name"],
        ),
        broken(
            format!("--database-url={unknown_database}"),
            &["the database refuses the connection", "--database-url", "does not exist"],
        ),
        broken(format!("--database-url={latin}"), &["SQL_ASCII", "create it with UTF8"]),
        broken(
            format!("--key-file={}", path("missing.key")),
            &["cannot read the key file", "missing.key"],
        ),
        broken(
            format!("--key-file={}", path("short.key")),
            &["short.key does not have 64 hexadecimal digits", "openssl rand -hex 32"],
        ),
        on_database(
            format!("--audit-key-file={}", path("text.key")),
            &["text.key is not an Ed25519 key", "set --audit-key-file"],
        ),
        on_database(
            format!("--audit-witnesses={}", path("text.key")),
            &["--audit-witnesses: ", "text.key", "line 1: expected `log <key> [<url>]`"],
        ),
        on_database(
            "--nats-url=nats://host:x".to_owned(),
            &["--nats-url has an invalid URL", "nats://127.0.0.1:4222"],
        ),
        on_database("--smtp-url=mail.example.com".to_owned(), &["--smtp-url", "smtps://"]),
        broken("--trusted-proxies=proxy", &["proxy is not an address or a network", "192.0.2.1"]),
        broken("--web-origins=app.example.com", &["app.example.com is not an origin", "https://"]),
        on_database("--base-url=tenantry".to_owned(), &["--base-url", "https://"]),
        broken("--data-dir=/dev/null/tenantry", &["/dev/null/tenantry", "--data-dir"]),
        broken("--pg-bin=/nonexistent", &["contains no postgres", "apt-get install postgresql"]),
    ]
}

/// Arguments of a start with a broken installation.
fn arguments(folder: &Path, broken: &Broken) -> Vec<String> {
    let mut arguments = vec![data_dir(folder), "--database-patience-s=0".to_owned()];
    let is_own = |flag: &str| broken.arguments.iter().any(|it| it.starts_with(flag));
    if !is_own("--listen") {
        arguments.push("--listen=127.0.0.1:0".to_owned());
    }
    if is_own("--data-dir") {
        arguments.remove(0);
    }
    arguments.extend_from_slice(&broken.arguments);
    arguments
}

/// Returns the findings of `tenantry doctor` that are errors, or the refusal of the command line.
fn diagnosis(folder: &Path, broken: &Broken) -> String {
    let mut arguments = arguments(folder, broken);
    arguments.splice(0..0, ["doctor".to_owned(), "--json".to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = Process::run("tenantry", &arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "doctor found nothing with {arguments:?}: {error}");
    let Ok(report) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
        return error;
    };
    let findings = report["findings"].as_array().unwrap().iter();
    let errors = findings.filter(|it| it["level"] == "error");
    errors.map(|it| it["message"].to_string()).collect::<Vec<_>>().join("\n")
}

/// Starts `tenantry`, which must fail within one message; returns the message.
fn refusal(folder: &Path, broken: &Broken) -> String {
    let arguments = arguments(folder, broken);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = Process::run("tenantry", &arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "tenantry started with {arguments:?}: {error}");
    let message: Vec<&str> = error
        .lines()
        .skip_while(|it| !it.starts_with("tenantry: ") && !it.starts_with("error: "))
        .collect();
    message.join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_installation_is_refused_with_its_remedy() {
    let database = Database::new().await;
    let mut admin = PgConnection::connect(&database.url()).await.unwrap();
    let latin = format!("latin_{}", database.options.get_database().unwrap());
    let create =
        format!("create database {latin} encoding sql_ascii locale 'C' template template0");
    admin.execute(sqlx::AssertSqlSafe(create)).await.unwrap();
    let name = database.options.get_database().unwrap().to_owned();
    let latin_url = database.url().replace(&name, &latin);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let occupied = listener.local_addr().unwrap().to_string();
    let files = BadFiles::new();
    let installations = installations(&files, &database.url(), &latin_url, &occupied);
    assert!(installations.len() >= 15);
    let mut insufficient = vec![];
    for broken in &installations {
        let folder = tempfile::tempdir().unwrap();
        let message = refusal(folder.path(), broken);
        if !broken.sentence.iter().all(|it| message.contains(it)) {
            insufficient.push(format!("{:?}: {message}", broken.arguments));
        }
        let diagnosis = diagnosis(folder.path(), broken);
        if !broken.sentence.iter().all(|it| diagnosis.contains(it)) {
            insufficient.push(format!("doctor {:?}: {diagnosis}", broken.arguments));
        }
    }
    assert!(insufficient.is_empty(), "{}", insufficient.join("\n"));
    admin.execute(sqlx::AssertSqlSafe(format!("drop database {latin}"))).await.unwrap();
    database.drop().await;
}
