//! Text of programs, builds and commits: characters that a text of the contract must not have, bytes that are
//! no text, and very long lines cost at most the environment that they come from.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::support::{fake_runner::FakeRunner, hosting::Hosting, world::text};

/// Prints a soft hyphen, a joined emoji, terminal escapes, NUL, invalid UTF-8 and a line of 10 MB.
const NOISE: &str = r#"$| = 1;
print "before\n";
print "zero\xe2\x80\x8dwidth so\xc2\xadft \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80\n";
print "\e[31mred\e[0m \e]0;title\a\e]8;;unterminated\n";
print "nul\0nul \xff\xfe\xc3\x28 invalid \xe2\x80\xae reversed\n";
print "x" x (10 << 20), "\n";
print "the \xe2\x80\x8dcause\n";
exit 9;
"#;

/// Characters that cleaned text does not have.
fn is_clean(text: &str) -> bool {
    // Joiners are permitted inside of emoji.
    let text = &text.replace("\u{1f469}\u{200d}", "\u{1f469}");
    let invisible = ['\u{ad}', '\u{200d}', '\u{202e}', '\u{1b}', '\0'];
    !text.contains(invisible) && !text.chars().any(|it| it.is_control() && !"\t\n".contains(it))
}

fn commit_with_noise(hosting: &Hosting, build: &str, run: &str) {
    hosting.repository.write("noise.pl", NOISE);
    let manifest = format!("[build]\ncommand = '''{build}'''\n[run]\ncommand = '''{run}'''\n");
    hosting.repository.write("tenantry.toml", &manifest);
    hosting.repository.commit("one");
}

/// A program prints such text and ends until it is no longer restarted. Its environment is in ERROR, with the
/// cleaned text; the server stays healthy, and its other environments serve and are managed.
#[tokio::test(flavor = "multi_thread")]
async fn output_of_a_program_costs_its_environment_only() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let neighbour = hosting.environment("neighbour", "DEVELOPMENT").await;
    let deployed = hosting.run_task("Deploy", &neighbour, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    let noisy = hosting.environment("noisy", "DEVELOPMENT").await;
    let run = "test ! -e $DATA_DIR/kept && exec perl server.pl; exec perl noise.pl";
    commit_with_noise(&hosting, "true", run);
    let deployed = hosting.run_task("Deploy", &noisy, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    hosting.page(&noisy, "/keep/broken").await;
    hosting.page(&noisy, "/end").await;
    let has_failed = async || (hosting.state(&noisy).await == "ERROR").then_some(());
    eventually("the corrected state", has_failed).await;
    let error = text(&hosting.get(&noisy).await["lastError"]);
    assert!(error.ends_with("the cause") && is_clean(&error), "{error:?}");
    assert!(error.len() <= 2_000 && error.contains("[cut]"), "{error:?}");

    let healthy = "select count(*) from project.server where health = 'healthy'";
    assert_eq!(suite.count(healthy).await, 1);
    assert!(hosting.page(&neighbour, "/").await.starts_with("one"));
    let restarted = hosting.run_task("Restart", &neighbour, json!({})).await;
    assert_eq!(restarted["state"], "TASK_STATE_COMPLETED", "{restarted}");
    let destroyed = hosting.run_task("Destroy", &noisy, json!({ "confirmName": "noisy" })).await;
    assert_eq!(destroyed["state"], "TASK_STATE_COMPLETED", "{destroyed}");
    suite.finish().await;
}

/// A build and a start that print such text fail after one attempt; no line of the log is lost, and the
/// subject of the commit is stored. The error of a failed start quotes the output of that start only.
#[tokio::test(flavor = "multi_thread")]
async fn output_of_a_failed_deployment_is_reported_completely() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    commit_with_noise(&hosting, "perl noise.pl", "perl server.pl");
    let failed = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(failed["state"], "TASK_STATE_FAILED", "{failed}");
    let lines: Vec<String> = failed["logLines"].as_array().unwrap().iter().map(text).collect();
    let start = lines.iter().position(|it| it == "before").unwrap();
    let expected = [
        "before",
        "zerowidth soft \u{1f469}\u{200d}\u{1f680}",
        "red ",
        "nulnul \u{fffd}\u{fffd}\u{fffd}( invalid  reversed",
    ];
    assert_eq!(lines[start..start + 4], expected);
    let long = &lines[start + 4];
    assert!(long.len() <= 4_096 && long.starts_with("xxxx") && long.ends_with("[cut]"));
    assert_eq!(lines[start + 5], "the cause");
    let error = text(&failed["errorMessage"]);
    assert!(error.ends_with("the cause") && is_clean(&error), "{error:?}");

    let subject = "Add \u{1f469}\u{200d}\u{1f680} \u{1b}[31mand so\u{ad}ft";
    let run = "echo version-$(cat page.txt); exec perl server.pl";
    commit_with_noise(&hosting, "true", run);
    let author = ["-c", "user.name=An\u{200d}n", "-c", "user.email=ann@example.com"];
    let commit = ["commit", "--quiet", "--allow-empty", "-m", subject];
    hosting.repository.git(&[&author[..], &commit].concat());
    let deployed = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    assert_eq!(deployed["commitSubject"], "Add \u{1f469}\u{200d}\u{1f680} and soft");
    assert_eq!(deployed["commitAuthor"], "Ann");

    hosting.repository.write("tenantry.toml", "[run]\ncommand = '''exec perl noise.pl'''\n");
    hosting.repository.commit("two");
    let failed = hosting.run_task("Deploy", &id, json!({})).await;
    let error = text(&failed["errorMessage"]);
    assert!(error.ends_with("the cause") && is_clean(&error), "{error:?}");
    hosting.repository.write("tenantry.toml", "[run]\ncommand = '''echo silent; exit 4'''\n");
    hosting.repository.commit("three");
    let failed = hosting.run_task("Deploy", &id, json!({})).await;
    let error = text(&failed["errorMessage"]);
    assert!(
        error.ends_with("its last output:\nsilent"),
        "only the last start is quoted: {error:?}"
    );
    let repeated = "select count(*) from project.task where attempts > 1";
    assert_eq!(suite.count(repeated).await, 0);
    suite.finish().await;
}

/// Of a heartbeat with invalid reports the others are stored; the response names the rejected ones.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_report_is_rejected_alone() {
    let suite = Suite::start().await;
    let runner = FakeRunner::new(&suite).await;
    runner.heartbeat().await;
    let mut ids = vec![];
    for name in ["one", "two", "three"] {
        let id = runner.environment(name).await;
        runner.hosting.start_task("Deploy", &id, json!({})).await;
        let lease = runner.lease_task().await;
        let result = json!({ "commit": "no hash \u{200d}", "url": "http://127.0.0.1:1" });
        runner.finish_task(&lease, result).await.unwrap();
        ids.push(id);
    }
    let report = |id: &str, field: &str, value: Value| {
        let mut report =
            json!({ "environmentId": id, "observed": "OBSERVED_FAILED", "detail": "\u{200d}" });
        report[field] = value;
        report
    };
    let reports = [
        report(&ids[0], "cpuCores", json!("NaN")),
        report(&ids[1], "memoryBytes", json!(-1)),
        report("\u{200d}no id", "detail", json!("")),
        report(&ids[2], "detail", json!("the \u{200d}cause")),
        report(&ids[2], "detail", json!("a second report")),
        report(&ids[0], "release", json!("no id")),
    ];
    let response = runner.call("Heartbeat", json!({ "environments": reports })).await.unwrap();
    let rejected = response["rejectedReports"].as_array().unwrap();
    let rejected_ids: Vec<_> = rejected.iter().map(|it| text(&it["environmentId"])).collect();
    assert_eq!(rejected_ids, [&ids[0], &ids[1], "no id", &ids[2], &ids[0]]);
    let fields = ["cpu_cores", "memory_bytes", "environment_id", "environment_id", "release"];
    for (report, field) in rejected.iter().zip(fields) {
        assert!(text(&report["reason"]).contains(field), "{report} names {field}");
    }
    let state = async |id: &str| runner.hosting.state(id).await;
    assert_eq!(text(&runner.hosting.get(&ids[2]).await["lastError"]), "the cause");
    assert_eq!((state(&ids[2]).await, state(&ids[0]).await), ("ERROR".into(), "RUNNING".into()));
    suite.finish().await;
}

/// Prints `LINES` numbered lines with random bytes and fragments that have a meaning for terminals, protocols
/// and encodings; the seed is the number of an environment. Line feeds and carriage returns are left out.
fn hostile_output(seed: usize) -> String {
    format!(
        r#"srand {seed}; $| = 1;
my @fragments = ("\xe2\x80\x8d", "\xc2\xad", "\xe2\x80\xae", "\xe2\x80\xa8", "\xef\xbb\xbf",
    "\xf3\xa0\x81\x81", "\xed\xa0\x80", "\xf4\x90\x80\x80",
    "\e[31m", "\e]0;title\a", "\e]8;;", "\eP", "\x9b31m", "\0", "\x08\x7f", "\xff\xfe",
    "\xc0\xaf", "%s%n", "\"}}]\\u0000", "&#0;<b>", "x" x 5000);
for my $n (1..{LINES}) {{
    my $text = '';
    for (1..int rand 12) {{
        $text .= rand() < 0.5 ? $fragments[int rand @fragments]
            : join '', map {{ my $b = int rand 256; chr($b == 10 || $b == 13 ? 0 : $b) }} 1..int rand 40;
    }}
    print "$n:$text\n";
}}
print "the cause of {seed}\n"; exit 9;
"#
    )
}

/// Number of lines of each output.
const LINES: usize = 250;

/// A thousand hostile lines of the builds of four environments, and as many of two of their programs, which
/// are restarted until they fail: each line of a build is reported, cleaned, in its order; a failed program
/// has the end of its output; the server is healthy throughout, and another environment serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hostile_lines_lose_no_report() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let neighbour = hosting.environment("neighbour", "DEVELOPMENT").await;
    let deployed = hosting.run_task("Deploy", &neighbour, json!({})).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    suite.wait_for_log().await;
    let health_changes = suite.count_entries("server.health_changed").await;
    let mut ids = vec![];
    for number in 1..=4 {
        ids.push(hosting.environment(&format!("hostile-{number}"), "DEVELOPMENT").await);
    }
    for (number, id) in ids.iter().enumerate() {
        hosting.repository.write("hostile.pl", &hostile_output(number));
        commit_with_noise(&hosting, "perl hostile.pl", "perl server.pl");
        let failed = hosting.run_task("Deploy", id, json!({})).await;
        assert_eq!(failed["state"], "TASK_STATE_FAILED", "{failed}");
        assert!(text(&failed["errorMessage"]).ends_with(&format!("the cause of {number}")));
        let lines: Vec<String> = failed["logLines"].as_array().unwrap().iter().map(text).collect();
        let first = lines.iter().position(|it| it.starts_with("1:")).unwrap();
        for (index, line) in lines[first..first + LINES].iter().enumerate() {
            assert!(
                line.starts_with(&format!("{}:", index + 1)),
                "line {index} of {number}: {line:?}"
            );
            assert!(is_clean(line) && line.len() <= 4_096, "{line:?}");
        }
        let run = "test ! -e $DATA_DIR/kept && exec perl server.pl; exec perl hostile.pl";
        commit_with_noise(&hosting, "true", run);
        let deployed = hosting.run_task("Deploy", id, json!({})).await;
        assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    }
    let ending: Vec<_> = ids.iter().enumerate().take(2).collect();
    for (_, id) in &ending {
        hosting.page(id, "/keep/broken").await;
        hosting.page(id, "/end").await;
    }
    for (number, id) in ending {
        let has_failed = async || (hosting.state(id).await == "ERROR").then_some(());
        eventually("the corrected state", has_failed).await;
        let error = text(&hosting.get(id).await["lastError"]);
        assert!(
            error.ends_with(&format!("the cause of {number}")) && is_clean(&error),
            "{error:?}"
        );
        assert!(hosting.page(&neighbour, "/").await.starts_with("one"));
    }
    let healthy = "select count(*) from project.server where health = 'healthy'";
    assert_eq!(suite.count(healthy).await, 1);
    let repeated = "select count(*) from project.task where attempts > 1";
    assert_eq!(suite.count(repeated).await, 0);
    suite.wait_for_log().await;
    assert_eq!(suite.count_entries("server.health_changed").await, health_changes);
    suite.finish().await;
}
