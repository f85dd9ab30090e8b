//! Publication of heads that witnesses cosign (C2SP tlog-witness): a suite with two witnesses that are
//! killed, forget, or see a fork.

use std::path::Path;

use api::{audit as pb, identity::Plan};
use serde_json::json;
use sqlx::PgPool;
use tempfile::TempDir;
use testkit::{Options, Person, Process, Suite, eventually};
use uuid::Uuid;
use verifier::{Pins, VerifyError, witness::WitnessPolicy};

use crate::support::{
    audit_client::AuditClient,
    large_log::write_tree,
    tampering::tamper,
    tiles_client::TilesClient,
    witness_process::{WitnessProcess, replace_files},
    world::text,
};

/// Origin of the suite tree.
const SUITE: &str = "tenantry.localhost/audit/suite";

/// A suite with witnesses.
struct Witnessed {
    suite: Suite,
    witnesses: Vec<WitnessProcess>,
    owner: Person,
    log: AuditClient,
    log_key: String,
    _folder: TempDir,
}

impl Witnessed {
    /// Starts a suite, of whose two witnesses `required` must cosign.
    async fn new(required: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut witnesses = vec![];
        let mut policy = String::new();
        for name in ["w1", "w2"] {
            let witness = WitnessProcess::start(&format!("{name}.example")).await;
            policy += &format!("witness {name} {} {}\n", witness.key, witness.url());
            witnesses.push(witness);
        }
        policy += &format!("group both {required} w1 w2\nquorum both\n");
        let path = folder.path().join("witnesses");
        std::fs::write(&path, policy).unwrap();
        let arguments = vec!["--audit-publish-suite=true".to_owned()];
        let options = Options { witnesses: Some(path), arguments, ..Options::default() };
        let suite = Suite::start_with(options).await;
        let owner = suite.person("ann@example.com").await;
        let keys = owner.call_ok("audit.v1.LogService/GetVerifierKeys", json!({})).await;
        let log_key = text(&keys["verifierKeys"][0]);
        for witness in &mut witnesses {
            witness.stop();
            witness.set_logs(&format!("{SUITE} {log_key}\n"));
            witness.start_again().await;
        }
        let org = owner.create_organization("acme").await.unwrap();
        owner.change_plan(&org, Plan::Agency).await.unwrap();
        let log = AuditClient::new(&suite, &owner, &org).await;
        log.checkpoint(&suite).await;
        Self { suite, witnesses, owner, log, log_key, _folder: folder }
    }

    /// Pins that require both witnesses.
    fn pins(&self) -> Pins {
        let keys: Vec<_> = self.witnesses.iter().map(|it| it.key.clone()).collect();
        let policy = WitnessPolicy::of_keys(&keys, keys.len()).unwrap();
        Pins { witnesses: Some(policy), ..self.log.pins.clone() }
    }

    /// Creates a team; returns the id of its event.
    async fn create_team(&self) -> String {
        let name = chassis::id::new().to_string();
        let create = json!({ "orgId": self.log.org, "name": name });
        self.owner.call_ok("identity.v1.TeamService/CreateTeam", create).await;
        let filter = json!({ "action": "team.created" });
        eventually("the entry of the team", async || {
            let entries = self.log.entries(filter.clone()).await;
            let entry = entries.iter().find(|it| it.to_string().contains(&name))?;
            Some(text(&entry["envelope"]["id"]))
        })
        .await
    }

    /// Number of entries that the newest published checkpoint covers.
    async fn published_size(&self) -> u64 {
        self.log.newest_checkpoint().await.map_or(0, |it| it.size)
    }

    /// Adds an entry, and waits until a published checkpoint covers it.
    async fn grow(&self) {
        let before = self.published_size().await;
        self.create_team().await;
        eventually("a published checkpoint", async || {
            (self.published_size().await > before).then_some(())
        })
        .await;
    }

    /// The published checkpoint of the suite tree.
    async fn suite_checkpoint(&self) -> String {
        let answer = self.owner.call_ok("audit.v1.LogService/GetSuiteCheckpoint", json!({})).await;
        answer["checkpoint"].as_str().unwrap_or_default().to_owned()
    }

    /// Runs `tenantry verify` or `monitor` with the log of the organization and required witnesses.
    fn run(&self, command: &str, url: &str, more: &[&str]) -> (Option<i32>, String) {
        let token = [("TENANTRY_TOKEN", &*self.owner.token)];
        let arguments = [&[command, url, "--key", &self.log_key][..], more].concat();
        let run = Process::run_with_env("tenantry", &arguments, &token);
        let text = [run.stdout, run.stderr].concat();
        (run.status.code(), String::from_utf8(text).unwrap())
    }

    /// Stops the suite, changes what it has stored, and starts it again.
    async fn restart(self, between: impl AsyncFnOnce(&PgPool)) -> Self {
        let suite = self.suite.restart(between).await;
        let owner =
            Person { client: suite.client.with_token(&self.owner.token), ..self.owner.clone() };
        let log = AuditClient::new(&suite, &owner, &self.log.org).await;
        Self { suite, owner, log, ..self }
    }
}

/// Only the newest cosigned checkpoint is kept.
#[tokio::test(flavor = "multi_thread")]
async fn replaced_checkpoints_are_deleted() {
    let witnessed = Witnessed::new(2).await;
    witnessed.grow().await;
    let published = witnessed.published_size().await;
    let replaced = "insert into audit.cosigned (size, note, signed_at)
                    select -n, 'replaced', now() from generate_series(1, 3) as n";
    let witnessed = witnessed
        .restart(async |pool| {
            sqlx::query(replaced).execute(pool).await.unwrap();
        })
        .await;
    let stored = "select count(*) from audit.cosigned where size < 0";
    eventually("their deletion", async || (witnessed.suite.count(stored).await == 0).then_some(()))
        .await;
    assert!(witnessed.published_size().await >= published, "the newest one is deleted");
    witnessed.suite.finish().await;
}

/// published checkpoints carry the cosignatures, and everything that proves an entry leads to them.
#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_published_is_cosigned() {
    let witnessed = Witnessed::new(2).await;
    let pins = witnessed.pins();
    let event_id = witnessed.create_team().await;
    let receipt = witnessed.log.receipt(&witnessed.owner, &event_id).await;
    receipt.verify(&pins).unwrap();
    let bundle = witnessed.log.export(pb::ExportFormat::Bundle).await;
    let report = verifier::bundle::verify(&*bundle, &pins, |_| None, |_| ()).unwrap();
    assert!(report.complete && report.suite.is_some());
    let mut without = receipt.clone();
    without.suite = None;
    let refused = without.verify(&pins).unwrap_err();
    assert!(matches!(refused, VerifyError::NotWitnessed { .. }), "{refused}");

    let tiles = TilesClient::new(&witnessed.suite, &witnessed.owner, &witnessed.log.org);
    let suite_tiles = TilesClient::new(&witnessed.suite, &witnessed.owner, "suite");
    let [one, two] = [0, 1].map(|it| witnessed.witnesses[it].key.as_str());
    let stranger = WitnessProcess::start("stranger.example").await;
    let both = ["--witness", one, "--witness", two];
    let with_stranger = ["--witness", one, "--witness", &stranger.key];
    let one_of_two = [&with_stranger[..], &["--witnesses-required", "1"]].concat();
    for url in [&tiles.url, &suite_tiles.url] {
        let (status, text) = witnessed.run("monitor", url, &[&both[..], &["--once"]].concat());
        assert_eq!(status, Some(0), "{text}");
        assert!(text.starts_with("VERIFIED: "), "{text}");
        let (status, text) =
            witnessed.run("monitor", url, &[&with_stranger[..], &["--once"]].concat());
        assert_eq!(status, Some(3), "{text}");
        assert!(text.contains("REFUSED: NOT_WITNESSED"), "{text}");
        assert!(text.contains("it is cosigned by w1.example"), "{text}");
        let (status, text) = witnessed.run("verify", url, &one_of_two);
        assert_eq!(status, Some(0), "{text}");
    }
    // An independent parser of notes: the key of the log, and one line of each witness.
    let note = witnessed.suite_checkpoint().await;
    let log_key = signed_note::StandardVerifier::new(&witnessed.log_key).unwrap();
    let list = signed_note::VerifierList::new(vec![Box::new(log_key)]);
    let parsed = signed_note::Note::from_bytes(note.as_bytes()).unwrap();
    let (verified, others) = parsed.verify(&list).unwrap();
    assert_eq!((verified.len(), others.len()), (1, 2), "{note}");
    witnessed.suite.finish().await;
}

/// without enough witnesses no new head comes out, and the last one stays available. A witness that
/// comes back, also one that has forgotten checkpoints, gets the proof from where it stands.
#[tokio::test(flavor = "multi_thread")]
async fn no_head_comes_out_without_the_quorum() {
    let mut witnessed = Witnessed::new(2).await;
    witnessed.grow().await;
    let old_state = tempfile::tempdir().unwrap();
    replace_files(&witnessed.witnesses[1].checkpoints(), old_state.path());
    witnessed.grow().await;
    witnessed.witnesses[1].kill();
    let event_id = witnessed.create_team().await;
    let size_of = |note: &str| note.lines().nth(1).and_then(|it| it.parse::<u64>().ok());
    let note = eventually("a head that only one witness has cosigned", async || {
        let newest = witnessed.witnesses[0].newest(SUITE).await.text;
        let published = witnessed.suite_checkpoint().await;
        (size_of(&newest) > size_of(&published)).then_some(published)
    })
    .await;
    let size = witnessed.published_size().await;
    witnessed.create_team().await;
    let newest = witnessed.witnesses[0].newest(SUITE).await.text;
    eventually("a further cosignature of the one witness", async || {
        let newer = witnessed.witnesses[0].newest(SUITE).await.text;
        (size_of(&newer) > size_of(&newest)).then_some(())
    })
    .await;
    assert_eq!(witnessed.published_size().await, size);
    assert_eq!(witnessed.suite_checkpoint().await, note);
    let get = json!({ "eventId": event_id });
    let reason = witnessed.owner.call_err("audit.v1.LogService/GetReceipt", get).await;
    assert_eq!(reason, "NOT_YET_SIGNED");
    let url = TilesClient::new(&witnessed.suite, &witnessed.owner, &witnessed.log.org).url;
    let (status, text) = witnessed.run("verify", &url, &[]);
    assert_eq!(status, Some(0), "the last published head: {text}");

    replace_files(old_state.path(), &witnessed.witnesses[1].checkpoints());
    witnessed.witnesses[1].start_again().await;
    let receipt = witnessed.log.receipt(&witnessed.owner, &event_id).await;
    receipt.verify(&witnessed.pins()).unwrap();
    witnessed.grow().await;
    witnessed.suite.finish().await;
}

/// one of two witnesses is enough if the policy says so, while the other one is away.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_witnesses_can_be_away() {
    let mut witnessed = Witnessed::new(1).await;
    witnessed.witnesses[0].kill();
    witnessed.grow().await;
    witnessed.grow().await;
    witnessed.witnesses[0].start_again().await;
    let pins = witnessed.pins();
    eventually("a checkpoint with both cosignatures", async || {
        witnessed.grow().await;
        let note = witnessed.suite_checkpoint().await;
        pins.witnesses.as_ref().unwrap().is_met(&note).then_some(())
    })
    .await;
    witnessed.suite.finish().await;
}

/// Rewrites an entry of a log and computes its tree again, as an operator with all keys can do it.
async fn rewrite(pool: &PgPool, org: &str, journal: &Path) {
    let org = Uuid::parse_str(org).unwrap();
    let tree = format!("(select number from audit.tree where org_id = '{org}')");
    let suite = Uuid::max();
    let rewrite = format!(
        "update audit.entry set leaf = leaf || '\\x6200'::bytea where tree = {tree} and index = 1;
         delete from audit.checkpoint;
         delete from audit.cosigned;
         delete from audit.tile where tree = {tree};
         delete from audit.tile where tree in (select number from audit.tree where org_id = '{suite}');
         delete from audit.tree where org_id = '{suite}';
         update audit.tree set signed = 0, note = '', signed_at = null, suite_index = null",
    );
    tamper(pool, &[&rewrite]).await;
    let number = sqlx::query_scalar("select number from audit.tree where org_id = $1").bind(org);
    write_tree(pool, number.fetch_one(pool).await.unwrap()).await;
    std::fs::remove_file(journal).unwrap();
}

/// an operator who has all keys rewrites the history and signs it again. The suite itself notices
/// nothing, but the witnesses do not cosign the fork, so no head of it comes out.
#[tokio::test(flavor = "multi_thread")]
async fn no_head_of_a_fork_comes_out() {
    let witnessed = Witnessed::new(2).await;
    witnessed.grow().await;
    witnessed.grow().await;
    let cosigned = witnessed.witnesses[0].newest(SUITE).await.text;
    let (org, journal) =
        (witnessed.log.org.clone(), witnessed.suite.data_dir().join("audit.signed"));
    let witnessed = witnessed.restart(async |pool| rewrite(pool, &org, &journal).await).await;
    // The fork grows until it is larger than what the witnesses have cosigned.
    eventually("a fork that a witness has refused", async || {
        witnessed.create_team().await;
        let is_refused = |it: &WitnessProcess| {
            it.output()
                .contains("REFUSED: the checkpoint does not continue the newest cosigned one")
        };
        witnessed.witnesses.iter().all(is_refused).then_some(())
    })
    .await;
    assert_eq!(witnessed.log.newest_checkpoint().await, None);
    assert_eq!(witnessed.suite_checkpoint().await, "");
    let head = cosigned.lines().take(3).collect::<Vec<_>>();
    for witness in &witnessed.witnesses {
        let newest = witness.newest(SUITE).await.text;
        assert_eq!(newest.lines().take(3).collect::<Vec<_>>(), head);
    }
    witnessed.suite.stop_unchecked().await;
}
