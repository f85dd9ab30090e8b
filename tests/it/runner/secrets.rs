//! Secrets that builds and programs print: no text of the suite contains them, in any usual encoding.

use std::collections::BTreeSet;

use data_encoding::{BASE64, HEXLOWER};
use serde_json::json;
use testkit::{Suite, eventually};

use crate::support::{
    audit_client::AuditClient,
    hosting::{ENVIRONMENTS, Hosting, TASKS},
    tables::tables_with,
    world::text,
};

/// Prints each secret as it is, in two writes, and encoded; then ends.
const LEAK: &str = r#"use MIME::Base64; use JSON::PP; $| = 1;
for my $name (qw(TOKEN KEYFILE DATABASE_URL)) {
    my $value = $ENV{$name} // next;
    my $half = int(length($value) / 2);
    syswrite STDOUT, substr($value, 0, $half); select undef, undef, undef, 0.3;
    syswrite STDOUT, substr($value, $half) . "\n";
    my $inserted = $value; $inserted =~ s/(....)/$1\e[0m\xe2\x80\x8d/g; print "$inserted\n";
    (my $percent = $value) =~ s/([^A-Za-z0-9])/sprintf '%%%02X', ord $1/ge; print "q=$percent&\n";
    (my $lower = $value) =~ s/(.)/sprintf '%%%02x', ord $1/sge; print "$lower\n";
    print encode_base64(('x' x $_) . $value, ''), "\n" for 0..2;
    print encode_base64("user:$value");
    my $json = JSON::PP->new->ascii->encode([$value]); print "$json\n";
    print JSON::PP->new->encode({ a => $json }), "\n";
    print unpack('H*', $value), "\n";
    my ($password) = $value =~ m{://[^:]+:([^@]+)@}; print "password $password\n" if $password;
}
print "leaked\n";
exit 3;
"#;

const TOKEN: &str = r#"t0k"en/+ &=%\t0k3n"#;
const KEYFILE: &str =
    "-----BEGIN KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInF\n-----END KEY-----\n";

/// Encoded forms of a value that must not be stored anywhere.
fn forms(value: &str) -> BTreeSet<String> {
    let percent = |it: u8| match it {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(it).to_string(),
        _ => format!("%{it:02X}"),
    };
    let json = serde_json::to_string(value).unwrap();
    let mut forms = BTreeSet::from([
        value.to_owned(),
        value.bytes().map(percent).collect(),
        json.trim_matches('"').to_owned(),
        HEXLOWER.encode(value.as_bytes()),
    ]);
    for bytes_before in 0..3 {
        // The first and last characters depend on the bytes around the value.
        let encoded = BASE64.encode(format!("{}{value}", &"xxx"[..bytes_before]).as_bytes());
        forms.insert(encoded[4..encoded.len() - 4].to_owned());
    }
    forms
}

/// P-05: builds, failing starts and programs that end print all their secrets; then tasks, logs,
/// environments, notifications, the audit log, mails and all tables contain none of them.
#[tokio::test(flavor = "multi_thread")]
async fn printed_secrets_are_replaced_everywhere() {
    let suite = Suite::start().await;
    let hosting = Hosting::new(&suite).await;
    let attach = hosting.world.project_request(json!({ "addonKey": "postgresql" }));
    hosting.owner().call_ok("project.v1.AddonService/AttachAddon", attach).await;
    let id = hosting.environment("main", "DEVELOPMENT").await;
    let variable =
        |name: &str, value: &str| json!({ "name": name, "value": value, "secret": true });
    let set = json!({ "set": [variable("TOKEN", TOKEN), variable("KEYFILE", KEYFILE)] });
    let set = hosting.request(&id, set);
    hosting.owner().call_ok(&format!("{ENVIRONMENTS}/SetVariables"), set).await;
    hosting.repository.write("leak.pl", LEAK);
    let deploy = async |build: &str, run: &str| {
        let manifest = format!("[build]\ncommand = '''{build}'''\n[run]\ncommand = '''{run}'''\n");
        hosting.repository.write("tenantry.toml", &manifest);
        hosting.repository.commit("one");
        hosting.run_task("Deploy", &id, json!({})).await
    };
    let run = "test ! -e $DATA_DIR/kept && exec perl server.pl; exec perl leak.pl";
    let deployed = deploy("perl leak.pl || true", run).await;
    assert_eq!(deployed["state"], "TASK_STATE_COMPLETED", "{deployed}");
    let page = hosting.page(&id, "/").await;
    let database_url = page.lines().find_map(|it| it.strip_prefix("db: ")).unwrap().to_owned();
    let failed_build = deploy("perl leak.pl", run).await;
    let failed_start = deploy("true", "exec perl leak.pl").await;
    for task in [&failed_build, &failed_start] {
        assert_eq!(task["state"], "TASK_STATE_FAILED");
        let error = text(&task["errorMessage"]);
        assert!(error.ends_with("leaked") && error.contains("[secret "), "{error}");
    }
    // A program that runs: the state of the environment is RUNNING again.
    assert_eq!(deploy("true", run).await["state"], "TASK_STATE_COMPLETED");
    hosting.page(&id, "/keep/broken").await;
    hosting.page(&id, "/end").await;
    let has_failed = async || (hosting.state(&id).await == "ERROR").then_some(());
    eventually("the corrected state", has_failed).await;
    let environment = hosting.get(&id).await;
    assert!(text(&environment["lastError"]).ends_with("leaked"), "{environment}");
    suite.wait_for_log().await;

    let request = hosting.request(&id, json!({}));
    let health = format!("{ENVIRONMENTS}/GetEnvironmentHealth");
    let list = json!({ "pageSize": 100 });
    let notifications = "notification.v1.NotificationService/ListNotifications";
    let audit = AuditClient::new(&suite, hosting.owner(), &hosting.world.org).await;
    let texts = json!([
        environment,
        hosting.owner().call_ok(&health, request.clone()).await,
        hosting.owner().call_ok(&format!("{TASKS}/ListTasks"), request).await,
        hosting.task(&text(&deployed["id"])).await,
        failed_build,
        failed_start,
        hosting.owner().call_ok(notifications, list).await,
        audit.entries(json!({})).await,
    ]);
    let mut mails = String::new();
    for entry in walkdir(suite.data_dir().join("mail").as_path()) {
        mails.push_str(&String::from_utf8_lossy(&std::fs::read(entry).unwrap()));
    }
    let texts = format!("{texts}{mails}");
    assert!(texts.contains("[secret TOKEN]") && texts.contains("[secret DATABASE_URL]"), "{texts}");
    let password = database_url.split([':', '@']).nth(2).unwrap();
    let key = KEYFILE.lines().nth(1).unwrap();
    for value in [TOKEN, key, KEYFILE.trim(), &database_url, password] {
        for form in forms(value) {
            assert!(!texts.contains(&form), "{form} of {value}");
            assert_eq!(tables_with(&suite, form.as_bytes()).await, Vec::<String>::new(), "{form}");
        }
    }
    suite.finish().await;
}

/// Files of a directory; none if it does not exist.
fn walkdir(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|it| it.path()).filter(|it| it.is_file()).collect()
}
