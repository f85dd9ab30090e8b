//! Promises about the output of programs.

use std::time::Duration;

use api::project::{Lease, LogLine, LogQuery, TaskKind};
use testkit::{TIMEOUT, eventually};
use tokio::sync::mpsc;

use super::super::bench::{Bench, with_secret};

const SECRET: &str = "s3cret-of-the-program";

/// Command of a program that prints its page at its start, its secret in two writes, escapes and invalid
/// UTF-8, and a last line without an end.
const PRINTING: &str = r#"cat page.txt; printf 'key %s' "${SECRET%program}"; sleep 0.2; echo program;
    printf '\033[31mred\033[0m \377\n'; printf 'no end' >&2; exec perl server.pl"#;

/// Deploys the newest commit with a secret.
async fn deploy(bench: &Bench, id: &str) -> Lease {
    let lease = with_secret(bench.lease(TaskKind::Deploy, id), SECRET);
    bench.play(&lease).await.outcome();
    lease
}

/// All lines of a query.
async fn read(bench: &Bench, id: &str, query: &LogQuery) -> Vec<LogLine> {
    let (sender, mut batches) = mpsc::channel(1);
    let collect = async {
        let mut lines = vec![];
        while let Some(batch) = batches.recv().await {
            lines.extend(batch);
        }
        lines
    };
    let (read, lines) = tokio::join!(bench.driver.read_log(id, query, sender), collect);
    read.unwrap();
    lines
}

async fn texts(bench: &Bench, id: &str, query: LogQuery) -> Vec<String> {
    read(bench, id, &query).await.into_iter().map(|it| it.text).collect()
}

/// Waits until the output has this number of lines.
async fn lines(bench: &Bench, id: &str, count: usize) -> Vec<LogLine> {
    let query = LogQuery::default();
    eventually("the output of a program", async || {
        Some(read(bench, id, &query).await).filter(|it| it.len() >= count)
    })
    .await
}

/// Output is kept when its version was replaced and when the program has ended, without secrets.
pub(in crate::runner) async fn output_is_kept_without_secrets(bench: &Bench) {
    let id = bench.environment();
    bench.commit("one", "true", PRINTING);
    let first = deploy(bench, &id).await;
    let of_one = ["one", "key [secret SECRET]", "red \u{fffd}"];
    let printed: Vec<_> = lines(bench, &id, 3).await.into_iter().map(|it| it.text).collect();
    assert_eq!(printed, of_one);
    bench.commit("two", "true", PRINTING);
    let second = deploy(bench, &id).await;
    let all = lines(bench, &id, 7).await;
    let one = all.iter().filter(|it| it.deployment_id == first.release);
    let one: Vec<_> = one.map(|it| it.text.as_str()).collect();
    assert_eq!(one, [of_one.as_slice(), &["no end"]].concat(), "the program has ended");
    assert_eq!(all[4].text, "two");
    let times: Vec<_> = all.iter().map(|it| it.time.unwrap()).collect();
    assert!(times[..3].is_sorted_by_key(|it| (it.seconds, it.nanos)), "{times:?}");

    bench.operate(TaskKind::Stop, &second).await.outcome();
    let query = LogQuery { deployment_id: second.release.clone(), ..LogQuery::default() };
    let two = texts(bench, &id, query.clone()).await;
    assert_eq!(two, ["two", "key [secret SECRET]", "red \u{fffd}", "no end"]);
    let two_texts: Vec<_> = two.iter().map(String::as_str).collect();
    let tail = LogQuery { tail_lines: 6, ..LogQuery::default() };
    assert_eq!(texts(bench, &id, tail).await, [one[2..].to_vec(), two_texts.clone()].concat());
    let search = |text: &str| LogQuery { contains: text.to_owned(), ..LogQuery::default() };
    assert_eq!(texts(bench, &id, search("key")).await.len(), 2);
    assert_eq!(texts(bench, &id, search(&SECRET[..8])).await.len(), 0, "no search for a secret");
    let last = LogQuery { tail_lines: 1, ..search("e") };
    assert_eq!(texts(bench, &id, last).await, ["no end"]);
    let start = LogQuery { start_time: Some(times[2]), ..LogQuery::default() };
    assert_eq!(texts(bench, &id, start).await, [one[2..].to_vec(), two_texts].concat());
    let end = LogQuery { end_time: Some(times[2]), ..LogQuery::default() };
    assert_eq!(texts(bench, &id, end).await, one[..2]);
}

/// A reader that follows gets the lines of the program that runs, and those of the next version.
pub(in crate::runner) async fn output_is_followed_over_versions(bench: &Bench) {
    let id = bench.environment();
    let printing = |page: &str| {
        let run = "perl -e '$| = 1; for (1..3) { print \"line $_\\n\" }'; cat page.txt; exec perl server.pl";
        bench.commit(page, "true", run);
    };
    printing("one");
    bench.deploy(&id).await;
    let (sender, mut batches) = mpsc::channel(4);
    let query = LogQuery { follow: true, tail_lines: 2, ..LogQuery::default() };
    let (driver, followed) = (bench.driver.clone(), id.clone());
    let following =
        tokio::spawn(async move { driver.read_log(&followed, &query, sender).await.unwrap() });
    let mut seen: Vec<String> = vec![];
    let mut wait_for = async |count: usize| {
        let receive = async {
            while seen.len() < count {
                let batch = batches.recv().await.expect("the log goes on");
                seen.extend(batch.into_iter().map(|it| it.text));
            }
        };
        tokio::time::timeout(TIMEOUT, receive).await.expect("more lines");
        seen.clone()
    };
    assert_eq!(wait_for(2).await, ["line 3", "one"]);
    printing("two");
    bench.deploy(&id).await;
    assert_eq!(wait_for(6).await[2..], ["line 1", "line 2", "line 3", "two"]);
    drop(batches);
    let ended = tokio::time::timeout(Duration::from_secs(20), following).await;
    ended.expect("reading ends with its reader").unwrap();
}
