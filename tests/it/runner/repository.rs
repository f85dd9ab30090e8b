//! Repositories as people have them: submodules, Git LFS, manifests from Windows, commits that the git server
//! shows late.

use serde_json::{Value, json};
use testkit::{Suite, eventually};

use crate::{
    project::push_webhook::{post, push_body, rotate_hook, signature},
    support::{
        hosting::{Hosting, TASKS},
        world::text,
    },
};

fn log_of(task: &Value) -> String {
    let lines = task["logLines"].as_array().into_iter().flatten();
    lines.map(text).collect::<Vec<_>>().join("\n")
}

/// Creates a repository in a folder of the repository, with a file and optionally a submodule. The runner can
/// read no other local path.
fn create_part(hosting: &Hosting, name: &str, submodule: Option<(&str, &str)>) {
    let git = |arguments: &[&str]| hosting.repository.git(&[&["-C", name][..], arguments].concat());
    hosting.repository.git(&["init", "--quiet", "--initial-branch=main", name]);
    hosting.repository.write(&format!("{name}/{name}.txt"), &format!("text of {name}\n"));
    git(&["add", "."]);
    if let Some((path, of)) = submodule {
        let modules = format!("[submodule \"{of}\"]\n\tpath = {path}\n\turl = ../{of}\n");
        hosting.repository.write(&format!("{name}/.gitmodules"), &modules);
        let head = hosting.repository.git(&["-C", of, "rev-parse", "HEAD"]);
        let entry = format!("160000,{},{path}", head.trim());
        git(&["update-index", "--add", "--cacheinfo", &entry]);
        git(&["add", ".gitmodules"]);
    }
    let author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
    git(&[&author[..], &["commit", "--quiet", "-m", "one"]].concat());
    let exclude = std::fs::read_to_string(hosting.repository.path().join(".git/info/exclude"));
    let exclude = format!("{}/{name}\n", exclude.unwrap_or_default());
    hosting.repository.write(".git/info/exclude", &exclude);
}

/// Submodules are fetched at any depth; one that cannot be fetched, and files in Git LFS without `git-lfs`,
/// are lines of the log. Builds see the repository, programs do not.
#[tokio::test(flavor = "multi_thread")]
async fn submodules_are_fetched_and_missing_parts_are_logged() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    create_part(&hosting, "inner", None);
    create_part(&hosting, "outer", Some(("deep", "inner")));
    let repository = &hosting.repository;
    let modules = "[submodule \"outer\"]\n\tpath = vendor/outer\n\turl = ./outer\n\
                   [submodule \"gone\"]\n\tpath = vendor/gone\n\turl = https://127.0.0.1:1/gone.git\n\
                   [submodule \"host\"]\n\tpath = vendor/host\n\turl = ext::sh -c id\n";
    repository.write(".gitmodules", modules);
    let head = repository.git(&["-C", "outer", "rev-parse", "HEAD"]);
    for name in ["outer", "gone", "host"] {
        let entry = format!("160000,{},vendor/{name}", head.trim());
        repository.git(&["update-index", "--add", "--cacheinfo", &entry]);
    }
    repository.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 5\n",
        "0123456789abcdef".repeat(4)
    );
    repository.write("model.bin", &pointer);
    let build = "git describe --always && cat vendor/outer/deep/inner.txt vendor/outer/outer.txt > page.txt";
    let run = "test ! -e .git && exec perl server.pl";
    let manifest = format!("[build]\ncommand = '''{build}'''\n[run]\ncommand = '''{run}'''\n");
    repository.write("tenantry.toml", &manifest);
    repository.git(&["add", ".gitmodules", ".gitattributes", "model.bin", "tenantry.toml"]);
    let author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
    repository.git(&[&author[..], &["commit", "--quiet", "-m", "parts"]].concat());
    let task = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    let page = hosting.page(&id, "/").await;
    assert!(page.starts_with("text of inner\ntext of outer\nkept:"), "{page}");
    let log = log_of(&task);
    for line in ["submodule ./vendor/outer\n", "submodule ./vendor/outer/deep\n"] {
        assert!(log.contains(line), "{log}");
    }
    for name in ["gone", "host"] {
        let line = format!("submodule ./vendor/{name} is empty, it cannot be fetched");
        assert!(log.contains(&line), "{log}");
    }
    // With `git-lfs`, no server has the object of the pointer.
    assert!(log.contains("1 file is a Git LFS pointer"), "{log}");
    let line = log.lines().find(|it| it.contains("vendor/gone")).unwrap();
    assert_eq!(line.matches("unable to access").count(), 1, "{line}");
    suite.finish().await;
}

/// A relative URL of a submodule names a repository beside that of the project, also if both are paths.
#[tokio::test(flavor = "multi_thread")]
async fn submodules_beside_a_repository_of_this_machine_are_fetched() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let library = testkit::Repository::new("text of the library");
    let name = library.path().file_name().unwrap().to_str().unwrap();
    let modules = format!("[submodule \"lib\"]\n\tpath = lib\n\turl = ../{name}\n");
    let repository = &hosting.repository;
    repository.write(".gitmodules", &modules);
    let head = library.git(&["rev-parse", "HEAD"]);
    let entry = format!("160000,{},lib", head.trim());
    let manifest =
        "[build]\ncommand = \"cp lib/page.txt page.txt\"\n[run]\ncommand = \"perl server.pl\"\n";
    repository.write("tenantry.toml", manifest);
    repository.git(&["add", "--all"]);
    repository.git(&["update-index", "--add", "--cacheinfo", &entry]);
    let author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
    repository.git(&[&author[..], &["commit", "--quiet", "-m", "library"]].concat());
    let task = hosting.run_task("Deploy", &id, json!({})).await;
    assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
    assert!(hosting.page(&id, "/").await.starts_with("text of the library\n"), "{task}");
    suite.finish().await;
}

/// Manifests with a byte order mark and in UTF-16 are read, with a line in the log.
#[tokio::test(flavor = "multi_thread")]
async fn manifests_of_windows_are_read() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let procfile = "\u{feff}web: exec perl server.pl\r\n";
    let utf16: Vec<u8> = procfile.encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::remove_file(hosting.repository.path().join("tenantry.toml")).unwrap();
    for (bytes, line) in [(procfile.as_bytes(), "byte order mark"), (&utf16, "UTF-16")] {
        std::fs::write(hosting.repository.path().join("Procfile"), bytes).unwrap();
        hosting.repository.commit(line);
        let task = hosting.run_task("Deploy", &id, json!({})).await;
        assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
        assert!(log_of(&task).contains(line), "{task}");
        assert!(hosting.page(&id, "/").await.starts_with(line));
    }
    suite.finish().await;
}

/// PE-46: a push is announced before the git server shows its commit: the deployment waits for the commit,
/// and fails with its name if it does not come. The old commit of the branch is not deployed.
#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_commit_is_fetched_until_it_is_visible() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let id = hosting.create_environment(json!({ "name": "main", "autoDeploy": true })).await;
    let (path, secret) = rotate_hook(&hosting).await;
    let pushed = async |commit: &str| {
        let body = push_body("main", commit);
        let signed = signature(&secret, &body);
        let headers = [("x-gitea-event", "push"), ("x-gitea-signature", signed.as_str())];
        assert_eq!(post(suite.address, &path, &headers, &body).await.1, "1 deployed, 0 waiting");
        let list = hosting.request(&id, json!({}));
        let list = hosting.owner().call_ok(&format!("{TASKS}/ListTasks"), list).await;
        text(&list["tasks"][0]["id"])
    };
    // The commit exists in another clone only.
    let clone = testkit::Repository::new("late");
    let url = hosting.repository.url();
    clone.git(&["fetch", "--quiet", &url, "main"]);
    clone.git(&["reset", "--quiet", "--hard", "FETCH_HEAD"]);
    let commit = clone.commit("late");
    let task = pushed(&commit).await;
    eventually("a line about the wait", async || {
        log_of(&hosting.task(&task).await).contains("does not have the commit").then_some(())
    })
    .await;
    hosting.repository.git(&["pull", "--quiet", "--ff-only", &clone.url(), "main"]);
    let task = hosting.finished_task(&task).await;
    assert_eq!((&task["state"], &task["commit"]), (&json!("TASK_STATE_COMPLETED"), &json!(commit)));
    assert!(hosting.page(&id, "/").await.starts_with("late"));

    let missing = "0a".repeat(20);
    let task = pushed(&missing).await;
    let task = hosting.finished_task(&task).await;
    assert_eq!(task["state"], "TASK_STATE_FAILED", "{task}");
    assert!(text(&task["errorMessage"]).contains(&missing), "{task}");
    assert!(hosting.page(&id, "/").await.starts_with("late"));
    suite.finish().await;
}
