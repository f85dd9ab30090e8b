//! Broken installations: each is refused at the start, or reported, with a sentence that has the remedy.

use std::{net::SocketAddr, path::Path};

use rcgen::{CertificateParams, KeyPair};
use rustix::process::Signal;
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use testkit::{Database, Options, Person, Process, ReservedPort, Suite, eventually};

use super::startup::{data_dir, start_error};

const UNUSED_PORT: &str = "--listen=127.0.0.1:0";

/// Starts `tenantry` on a database with a key file, and stops it when it serves.
async fn serve_once(database: &Database, folder: &Path, key_file: &Path) {
    let log = folder.join("log");
    // Of an earlier start.
    let _ = std::fs::remove_file(&log);
    let arguments = [
        data_dir(folder),
        UNUSED_PORT.to_owned(),
        format!("--database-url={}", database.url()),
        format!("--key-file={}", key_file.display()),
        "--allow-weak-isolation=true".to_owned(),
    ];
    let process = Process::start("tenantry", &arguments, &log);
    eventually("the start", async || {
        std::fs::read_to_string(&log).unwrap_or_default().contains("Tenantry listens").then_some(())
    })
    .await;
    assert!(process.stop(), "{}", std::fs::read_to_string(&log).unwrap());
    testkit::stop_deployments(&folder.join("runner"));
}

/// A start with another secret key than that of the database is refused before anything is written.
#[tokio::test(flavor = "multi_thread")]
async fn another_secret_key_is_refused() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (folder.path().join("right.key"), folder.path().join("wrong.key"));
    std::fs::write(&right, "1".repeat(64)).unwrap();
    std::fs::write(&wrong, "2".repeat(64)).unwrap();
    serve_once(&database, folder.path(), &right).await;

    let url = format!("--database-url={}", database.url());
    let data = data_dir(folder.path());
    let key = format!("--key-file={}", wrong.display());
    let error = start_error(&[&data, UNUSED_PORT, &url, &key]);
    for part in
        ["wrong.key is not the key file of this database", "--key-file", "nothing was written"]
    {
        assert!(error.contains(part), "{error}");
    }
    let mut owner = PgConnection::connect(&database.url()).await.unwrap();
    let keys = "select count(*) from identity.deployment_key";
    assert_eq!(sqlx::query_scalar::<_, i64>(keys).fetch_one(&mut owner).await.unwrap(), 1);
    serve_once(&database, folder.path(), &right).await;
    database.drop().await;
}

/// Environment variables with an empty value count as not set; flags with an empty value are refused; unknown
/// variables are reported.
#[test]
fn empty_and_unknown_settings_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    let empty_flag = Process::run("tenantry", &[&data, "--nats-url="]);
    let error = String::from_utf8_lossy(&empty_flag.stderr).into_owned();
    assert!(error.contains("--nats-url has an empty value; leave the flag out"), "{error}");

    let variables = [
        ("TENANTRY_PG_BIN", "/nonexistent"),
        ("NATS_URL", ""),
        ("TENANTRY_BASE_URL", ""),
        ("TENANTRY_SIGN_INS_MAX", ""),
        ("TENANTRY_LISTN", "127.0.0.1:1"),
    ];
    let output = Process::run_with_env("tenantry", &[&data, UNUSED_PORT], &variables);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("/nonexistent contains no postgres"), "{error}");
    assert!(
        error.contains("TENANTRY_LISTN is not a setting; did you mean TENANTRY_LISTEN?"),
        "{error}"
    );
}

/// A certificate authority and one certificate in a folder.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().to_string_lossy().into_owned();
        assert!(Process::run("tenantry", &["certs", "--out", &out]).status.success());
        Self { folder }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Error of a start with these files.
    fn error(&self, certificate: &str, key: &str, authority: &str) -> String {
        let data = tempfile::tempdir().unwrap();
        let path = |flag: &str, name: &str| {
            format!("--tls-{flag}={}", self.folder.path().join(name).display())
        };
        // The TLS files are checked before the database is reached.
        start_error(&[
            &data_dir(data.path()),
            UNUSED_PORT,
            "--database-url=postgres://nobody@127.0.0.1:1/x",
            &path("cert", certificate),
            &path("key", key),
            &path("ca", authority),
        ])
    }
}

/// Expired, foreign, swapped, encrypted and empty TLS files are refused with the flag, the file and the
/// remedy.
#[test]
fn unusable_tls_files_are_refused() {
    let files = Certificates::new();
    let other = Certificates::new();
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["identity".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let expired = parameters.self_signed(&key).unwrap();
    files.write("expired.pem", &expired.pem());
    files.write("expired.key", &key.serialize_pem());
    files.write("empty.pem", "");
    files.write(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    std::fs::copy(other.folder.path().join("ca.pem"), files.folder.path().join("other-ca.pem"))
        .unwrap();
    for (certificate, key, authority, parts) in [
        ("expired.pem", "expired.key", "expired.pem", ["--tls-cert", "has expired"]),
        ("identity.pem", "identity.key", "other-ca.pem", ["--tls-ca", "was not signed by"]),
        ("identity.pem", "project.key", "ca.pem", ["--tls-key", "do not belong together"]),
        ("identity.key", "identity.pem", "ca.pem", ["--tls-cert", "contains no certificate"]),
        ("identity.pem", "identity.pem", "ca.pem", ["--tls-key", "contains no private key"]),
        ("identity.pem", "encrypted.key", "ca.pem", ["--tls-key", "is encrypted; decrypt it"]),
        ("empty.pem", "identity.key", "ca.pem", ["--tls-cert", "contains no certificate"]),
        ("identity.pem", "identity.key", "empty.pem", ["--tls-ca", "contains no certificate"]),
    ] {
        let error = files.error(certificate, key, authority);
        for part in parts {
            assert!(error.contains(part), "{certificate}, {key}, {authority}: {error}");
        }
        assert!([certificate, key, authority].iter().any(|it| error.contains(it)), "{error}");
    }
}

/// A start as another account than the owner of the data changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn data_of_another_account_is_not_touched() {
    // Only root can give files away.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    let postgres = folder.path().join("postgres");
    start_and_stop(folder.path(), Signal::TERM).await;
    std::os::unix::fs::chown(&postgres, Some(4711), Some(4711)).unwrap();
    let error = start_error(&[&data, UNUSED_PORT]);
    assert!(error.contains("belongs to the account with the uid 4711"), "{error}");
    assert!(error.contains("set --data-dir"), "{error}");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&postgres).unwrap());
    assert_eq!(owner, 4711);
}

/// Starts `tenantry` with a private database server, and stops it with a signal as soon as that server
/// starts.
async fn start_and_stop(folder: &Path, signal: Signal) {
    let log = folder.join("log");
    let arguments =
        [data_dir(folder), UNUSED_PORT.to_owned(), "--allow-weak-isolation=true".to_owned()];
    let process = Process::start("tenantry", &arguments, &log);
    let pid_file = folder.join("postgres/postmaster.pid");
    eventually("the database server", async || pid_file.exists().then_some(())).await;
    assert!(process.stop_by(signal), "{}", std::fs::read_to_string(&log).unwrap());
    assert!(!pid_file.exists(), "PostgreSQL runs after {signal:?}");
}

/// Ctrl-C, SIGTERM and SIGHUP during the start end the private PostgreSQL, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_during_the_start_leaves_no_database_server() {
    for signal in [Signal::INT, Signal::HUP, Signal::TERM] {
        start_and_stop(tempfile::tempdir().unwrap().path(), signal).await;
    }
}

/// After a fail-over, calls to the former primary, which is read-only, fail with UNAVAILABLE and readiness is
/// lost; when there is a primary again, it is found without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_an_outage() {
    let suite = Suite::start_with(Options::default()).await;
    let ann = suite.person("ann@example.com").await;
    let set_read_only = async |is_read_only: &str| {
        let mut admin = suite.pool.acquire().await.unwrap();
        let name: String =
            sqlx::query_scalar("select current_database()").fetch_one(&mut *admin).await.unwrap();
        let set =
            format!("alter database {name} set default_transaction_read_only = {is_read_only}");
        admin.execute("set default_transaction_read_only = off").await.unwrap();
        admin.execute(sqlx::AssertSqlSafe(set)).await.unwrap();
    };
    let end_sessions = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                        where datname = current_database() and application_name <> ''
                          and pid <> pg_backend_pid()";
    set_read_only("on").await;
    suite.count(end_sessions).await;
    // Sessions that were ended fail once with UNAVAILABLE, too.
    eventually("a refused change", async || {
        let error = ann.create_organization("acme").await.unwrap_err();
        assert_eq!(error.reason, "DEPENDENCY_UNAVAILABLE", "{error:?}");
        let new: i64 = suite
            .count("select count(*) from pg_stat_activity where application_name = 'identity'")
            .await;
        (new > 0).then_some(())
    })
    .await;
    let address = suite.address;
    let is_serving = async |expected: bool| {
        eventually("health", async || {
            let check = ["healthcheck", &format!("--endpoint=http://{address}")].map(str::to_owned);
            let check: Vec<&str> = check.iter().map(String::as_str).collect();
            (Process::run("tenantry", &check).status.success() == expected).then_some(())
        })
        .await;
    };
    is_serving(false).await;
    set_read_only("off").await;
    is_serving(true).await;
    eventually("a change", async || ann.create_organization("acme").await.ok()).await;
    suite.finish().await;
}

/// Requests in other protocols and compressed ones are refused before anything is done.
#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_execute_nothing() {
    let suite = Suite::start().await;
    let ann: Person = suite.person("ann@example.com").await;
    let method = "tenantry.identity.v1.OrganizationService/CreateOrganization";
    let url = format!("http://{}/{method}", suite.address);
    let body = json!({ "name": "Acme" }).to_string();
    let before = suite.count("select count(*) from identity.organization").await;
    for content_type in [
        "application/json",
        "application/connect+json",
        "application/proto",
        "application/grpc+json",
        "application/grpc-web+json",
        "application/grpc-web-text+json",
        "",
    ] {
        let request = reqwest::Client::new().post(&url).bearer_auth(&ann.token).body(body.clone());
        let response = request.header("content-type", content_type).send().await.unwrap();
        assert_eq!(response.status(), 415, "{content_type}");
        assert!(response.text().await.unwrap().contains("use a gRPC client"), "{content_type}");
    }
    let connect = reqwest::Client::new().post(&url).bearer_auth(&ann.token).body(body.clone());
    let connect = connect.header("content-type", "application/json");
    let connect = connect.header("connect-protocol-version", "1").send().await.unwrap();
    assert_eq!(connect.status(), 415);
    let error: serde_json::Value = connect.json().await.unwrap();
    assert_eq!(error["code"], "unimplemented");
    assert!(error["message"].as_str().unwrap().contains("buf curl --protocol grpc"), "{error}");
    let refused = reqwest::Client::new()
        .post(&url)
        .bearer_auth(&ann.token)
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "gzip")
        .send()
        .await
        .unwrap();
    let header =
        |name: &str| refused.headers().get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
    assert_eq!(header("grpc-status").as_deref(), Some("12"));
    assert_eq!(header("grpc-accept-encoding").as_deref(), Some("identity"));
    assert_eq!(suite.count("select count(*) from identity.organization").await, before);
    suite.finish().await;
}

/// A connection pooler that ignores start-up options is refused before a table is created.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_ignores_start_up_options_is_refused() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let reserved = ReservedPort::new();
    let port = reserved.number();
    let name = database.options.get_database().unwrap();
    let socket = database.options.get_socket().unwrap().display().to_string();
    let data = data_dir(folder.path());
    for (mode, ignored, remedy) in [
        ("session", "options", "set --database-url to PostgreSQL itself"),
        ("transaction", "options", "set --database-url to PostgreSQL itself"),
        ("session", "extra_float_digits", "the database refuses the connection"),
    ] {
        let settings = format!(
            "[databases]\n{name} = host={socket} port=5432\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
             ignore_startup_parameters = {ignored},extra_float_digits\n"
        );
        let file = folder.path().join("pgbouncer.ini");
        // `auth_type = any` needs a user in the database line.
        let settings = settings.replace("port=5432", "port=5432 user=tenantry");
        std::fs::write(&file, settings).unwrap();
        let mut command = std::process::Command::new("/usr/sbin/pgbouncer");
        command.arg(&file).current_dir("/").stdout(std::process::Stdio::null());
        command.stderr(std::fs::File::create(folder.path().join("pgbouncer.log")).unwrap());
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "postgres"]);
        }
        let mut pooler = command.spawn().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually("the pooler", async || tokio::net::TcpStream::connect(address).await.ok()).await;
        let url = format!("--database-url=postgres://tenantry@{address}/{name}?sslmode=disable");
        let error = start_error(&[&data, UNUSED_PORT, "--database-patience-s=0", &url]);
        pooler.kill().unwrap();
        pooler.wait().unwrap();
        assert!(error.contains(remedy), "{mode}, {ignored}: {error}");
    }
    let mut owner = PgConnection::connect(&database.url()).await.unwrap();
    let tables = "select count(*) from pg_tables where schemaname = 'public'";
    assert_eq!(sqlx::query_scalar::<_, i64>(tables).fetch_one(&mut owner).await.unwrap(), 0);
    database.drop().await;
}

/// A billing provider without its key, signing secret or prices, or with settings that no request could use.
#[tokio::test(flavor = "multi_thread")]
async fn incomplete_settings_of_billing_are_refused() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    let file = |flag: &str, name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("--stripe-{flag}-file={}", path.display())
    };
    let key = file("key", "stripe.key", "sk_test_1");
    let public_key = file("key", "public.key", "pk_test_1");
    let secret = file("webhook-secret", "stripe.webhook", "whsec_1");
    let empty = file("webhook-secret", "empty", "\n");
    let url = format!("--database-url={}", database.url());
    let common = [&data, UNUSED_PORT, &url, "--billing-provider=stripe"];
    let prices = "--stripe-prices=pro=price_1";
    let cases: [(&[&str], &str); 10] = [
        (&[], "needs --stripe-key-file"),
        (&[&public_key], "must have a secret key (sk_…) or a restricted key (rk_…)"),
        (&[&key], "needs --stripe-webhook-secret-file"),
        (&[&key, &empty, prices], "empty is empty"),
        (&[&key, &secret], "needs --stripe-prices"),
        (&[&key, &secret, "--stripe-prices=pro"], "use for example starter=price_1,pro=price_2"),
        (&[&key, &secret, "--stripe-prices=free=price_1"], "no price for the plan free"),
        (&[&key, &secret, "--stripe-prices=big=price_1"], "unknown plan \"big\""),
        (&[&key, &secret, prices, "--stripe-seat-plans=big"], "unknown plan \"big\""),
        (&[&key, &secret, prices, "--stripe-url=http://a.example.com"], "must use https"),
    ];
    for (arguments, part) in cases {
        let error = start_error(&[&common[..], arguments].concat());
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    database.drop().await;
}
