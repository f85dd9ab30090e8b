//! `tenantry monitor` and `tenantry verify` over HTTP: growth, restarts, outages, forks, rollbacks and
//! changed bytes.

use std::path::{Path, PathBuf};

use api::identity::Plan;
use serde_json::json;
use sqlx::PgPool;
use tempfile::TempDir;
use testkit::{Person, Process, Suite, eventually};
use uuid::Uuid;

use crate::support::{
    audit_client::AuditClient,
    large_log::{LargeLog, write_tree},
    tampering::{back_up, restore, tamper},
    tiles_client::TilesClient,
    world::text,
};

/// Exit status of a refused log.
const REFUSED: i32 = 3;

/// The log of an organization, and what is needed to follow it.
struct Followed {
    suite: Suite,
    owner: Person,
    log: AuditClient,
    key: String,
    folder: TempDir,
}

/// Result of a run of `tenantry`.
struct Run {
    status: Option<i32>,
    output: String,
    errors: String,
}

impl Followed {
    async fn new() -> Self {
        let suite = Suite::start().await;
        let owner = suite.person("ann@example.com").await;
        let org = owner.create_organization("acme").await.unwrap();
        // A plan that shows all entries of a large log.
        owner.change_plan(&org, Plan::Agency).await.unwrap();
        let log = AuditClient::new(&suite, &owner, &org).await;
        log.checkpoint(&suite).await;
        let keys = owner.call_ok("audit.v1.LogService/GetVerifierKeys", json!({})).await;
        let key = text(&keys["verifierKeys"][0]);
        Self { suite, owner, log, key, folder: tempfile::tempdir().unwrap() }
    }

    fn url(&self) -> String {
        TilesClient::new(&self.suite, &self.owner, &self.log.org).url
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Runs a command about the log, with the token of the owner.
    fn run(&self, arguments: &[&str]) -> Run {
        let token = [("TENANTRY_TOKEN", &*self.owner.token)];
        let run = Process::run_with_env("tenantry", arguments, &token);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { status: run.status.code(), output: text(run.stdout), errors: text(run.stderr) }
    }

    /// Runs `tenantry monitor --once` with a state file.
    fn monitor(&self, state: &Path) -> Run {
        let state = state.to_str().unwrap();
        let url = self.url();
        self.run(&["monitor", &url, "--key", &self.key, "--state", state, "--once"])
    }

    /// Adds an entry to the log, and returns its size when the entry is signed.
    async fn grow(&self) -> u64 {
        let before = self.newest_size().await;
        let create = json!({ "orgId": self.log.org, "name": chassis::id::new().to_string() });
        self.owner.call_ok("identity.v1.TeamService/CreateTeam", create).await;
        eventually("a checkpoint with the new entry", async || {
            Some(self.newest_size().await).filter(|it| *it > before)
        })
        .await
    }

    /// Number of entries that the newest checkpoint covers.
    async fn newest_size(&self) -> u64 {
        eventually("a checkpoint", async || Some(self.log.newest_checkpoint().await?.size)).await
    }

    /// Stops the suite, changes what it has stored, and starts it again.
    async fn restart(self, between: impl AsyncFnOnce(&PgPool)) -> Self {
        let suite = self.suite.restart(between).await;
        let owner =
            Person { client: suite.client.with_token(&self.owner.token), ..self.owner.clone() };
        let log = AuditClient::new(&suite, &owner, &self.log.org).await;
        Self { suite, owner, log, ..self }
    }

    /// The number of the tree, as SQL.
    fn tree(&self) -> String {
        format!("(select number from audit.tree where org_id = '{}')", self.log.org)
    }
}

/// a monitor verifies every growth once, also after a restart, and remembers the newest head.
#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_follows_a_log() {
    let followed = Followed::new().await;
    let size = followed.grow().await;
    let first = followed.monitor(&followed.state());
    assert_eq!(first.status, Some(0), "{}", first.errors);
    assert!(first.output.starts_with("VERIFIED: "), "{}", first.output);
    assert!(first.output.contains(&format!(": {size} entries, {size} new")), "{}", first.output);
    let unchanged = followed.monitor(&followed.state());
    assert_eq!((unchanged.status, &*unchanged.output), (Some(0), ""));
    let larger = followed.grow().await;
    let grown = followed.monitor(&followed.state());
    assert!(grown.output.contains(&format!(" entries, {} new", larger - size)), "{}", grown.output);

    // A running monitor, which is killed and started again.
    let output = followed.folder.path().join("output");
    let state = followed.state().display().to_string();
    let token_file = followed.folder.path().join("token");
    std::fs::write(&token_file, format!("{}\n", followed.owner.token)).unwrap();
    let arguments = [
        &*followed.url(),
        "--key",
        &followed.key,
        "--state",
        &state,
        "--interval-s",
        "1",
        "--token-file",
        token_file.to_str().unwrap(),
    ];
    let arguments: Vec<String> =
        ["monitor"].into_iter().chain(arguments).map(str::to_owned).collect();
    for _ in 0..2 {
        let monitor = Process::start("tenantry", &arguments, &output);
        let size = followed.grow().await;
        eventually("the line of the new head", async || {
            let text = std::fs::read_to_string(&output).unwrap();
            text.contains(&format!(": {size} entries, ")).then_some(())
        })
        .await;
        monitor.kill();
    }
    // An outage, a refused credential, and another key have different messages.
    let url = followed.url();
    let stranger = followed.suite.person("bob@example.com").await;
    let token = [("TENANTRY_TOKEN", &*stranger.token)];
    let arguments = ["monitor", &url, "--key", &followed.key, "--once"];
    let hidden = Process::run_with_env("tenantry", &arguments, &token);
    assert_eq!(hidden.status.code(), Some(1));
    let errors = String::from_utf8(hidden.stderr).unwrap();
    assert!(errors.contains("404 Not Found: organization not found"), "{errors}");
    let unreachable =
        followed.run(&["monitor", "http://127.0.0.1:1/audit/x", "--key", &followed.key, "--once"]);
    assert_eq!(unreachable.status, Some(1), "{}", unreachable.errors);
    let other_key =
        "tenantry.localhost/audit+4419620e+AfYwYSymMpBlHYFGcNoxlTWpWArGBc3BEc6qqVqTDgCw";
    let refused = followed.run(&["monitor", &url, "--key", other_key, "--once"]);
    assert_eq!(refused.status, Some(REFUSED));
    assert!(refused.errors.contains("THE LOG IS REFUSED: UNKNOWN_KEY"), "{}", refused.errors);
    followed.suite.finish().await;
}

/// A-08, G-10: one byte of a tile or of an entry in the database is found and named.
#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_names_the_changed_tile() {
    let followed = Followed::new().await;
    let large = LargeLog {
        org_id: Uuid::parse_str(&followed.log.org).unwrap(),
        count: 600,
        actors: vec![Uuid::parse_str(&followed.owner.user_id).unwrap()],
        projects: vec![Uuid::from_u128(7).to_string()],
    };
    let now = followed.suite.clock.now();
    let followed = followed.restart(async |pool| large.write(pool, now).await).await;
    let size = followed.grow().await;
    let url = followed.url();
    let verified = followed.run(&["verify", &url, "--key", &followed.key, "--entries"]);
    assert_eq!(verified.status, Some(0), "{}", verified.errors);
    assert!(
        verified.output.contains("\n  599 tenantry.project.v1.Environment"),
        "{}",
        verified.output
    );
    assert!(verified.output.contains(&format!("VERIFIED: {size} entries of {size} in ")));
    assert!(verified.output.contains("complete: every entry"), "{}", verified.output);

    let flip = |table: &str, column: &str, place: &str| {
        let tree = followed.tree();
        format!(
            "update audit.{table} set {column} = set_byte({column}, 9, get_byte({column}, 9) # 1)
             where tree = {tree} and {place}"
        )
    };
    for (change, message) in [
        (flip("tile", "hashes", "level = 0 and index = 3"), "CHANGED_TILE: tile/0/000 was changed"),
        (
            flip("tile", "hashes", "level = 0 and index = 20"),
            "CHANGED_TILE: tile/0/001 was changed",
        ),
        (flip("tile", "hashes", "level = 0 and index = 32"), "CHANGED_TILE: tile/0/002.p/"),
        (
            flip("entry", "leaf", "index = 300"),
            "CHANGED: entry 300 was changed: its bytes in tile/entries/001",
        ),
    ] {
        back_up(&followed.suite.pool).await;
        tamper(&followed.suite.pool, &[&change]).await;
        let refused = followed.monitor(&followed.folder.path().join("none"));
        assert_eq!(refused.status, Some(REFUSED), "{}", refused.errors);
        assert!(refused.errors.contains(message), "{message}: {}", refused.errors);
        restore(&followed.suite.pool).await;
    }
    let verified = followed.monitor(&followed.state());
    assert_eq!(verified.status, Some(0), "{}", verified.errors);
    followed.suite.stop_unchecked().await;
}

/// G-10: an operator who has all keys rewrites the history and signs it again. The suite itself
/// notices nothing; a monitor does.
#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_detects_a_fork_and_a_rollback() {
    let followed = Followed::new().await;
    for _ in 0..3 {
        followed.grow().await;
    }
    let verified = followed.monitor(&followed.state());
    assert_eq!(verified.status, Some(0), "{}", verified.errors);
    let journal = followed.suite.data_dir().join("audit.signed");
    let tree = followed.tree();
    let org = followed.log.org.clone();
    let followed = followed.restart(async |pool| {
        let rewrite = format!(
            "update audit.entry set leaf = leaf || '\\x6200'::bytea where tree = {tree} and index = 3;
             delete from audit.checkpoint;
             delete from audit.tile where tree = {tree};
             delete from audit.tile where tree in (select number from audit.tree where org_id = '{suite}');
             delete from audit.tree where org_id = '{suite}';
             update audit.tree set signed = 0, note = '', signed_at = null, suite_index = null",
            suite = Uuid::max(),
        );
        tamper(pool, &[&rewrite]).await;
        let number = "select number from audit.tree where org_id = $1";
        let number = sqlx::query_scalar(number).bind(Uuid::parse_str(&org).unwrap());
        write_tree(pool, number.fetch_one(pool).await.unwrap()).await;
        std::fs::remove_file(&journal).unwrap();
    });
    let followed = followed.await;
    let forked = followed.newest_size().await;
    for is_larger in [false, true] {
        let size = if is_larger { followed.grow().await } else { forked };
        let refused = followed.monitor(&followed.state());
        assert_eq!(refused.status, Some(REFUSED), "{size}: {}", refused.errors);
        let message = format!(
            "THE LOG IS REFUSED: FORKED: the log does not continue the checkpoint of {forked}"
        );
        assert!(refused.errors.contains(&message), "{}", refused.errors);
        assert!(
            refused.errors.contains(&format!("\n{size}\n")),
            "the evidence: {}",
            refused.errors
        );
    }
    // A state with more entries than the log has.
    let origin = format!("{}/{}", followed.log.pins.keys[0].name, followed.log.org);
    let state = followed.folder.path().join("newer");
    let root = data_encoding::BASE64.encode(&[7; 32]);
    std::fs::write(&state, format!("{origin} 1000 {root}\n")).unwrap();
    let refused = followed.monitor(&state);
    assert_eq!(refused.status, Some(REFUSED));
    assert!(refused.errors.contains("ROLLED_BACK: the checkpoint covers"), "{}", refused.errors);
    let state = state.to_str().unwrap();
    let url = followed.url();
    let refused = followed.run(&["verify", &url, "--key", &followed.key, "--state", state]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.errors.contains("ROLLED_BACK"), "{}", refused.errors);
    followed.suite.stop_unchecked().await;
}
