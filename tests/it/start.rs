//! What keeps a process from starting, said in one sentence with what to do.

use std::path::Path;

use chassis::{Host, host::DataDir, rule::Rules};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use testkit::{Database, Process};

use crate::raw;

fn refusal(arguments: &[&str]) -> String {
    let output = Process::run("tenantry", arguments);
    assert!(!output.status.success(), "it started with {arguments:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let sentence = text.lines().find(|it| it.starts_with("tenantry: ")).unwrap_or_default();
    assert!(!sentence.is_empty(), "no sentence in {text:?}");
    sentence.to_owned()
}

fn data_dir(folder: &Path) -> String {
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    format!("--data-dir={}", folder.display())
}

#[test]
fn a_process_that_cannot_start_says_why_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    let free = "--listen=127.0.0.1:0";

    assert!(refusal(&[&data, &listen]).contains("choose another address with --listen"));
    let none = refusal(&[&data, free, "--pg-bin=/nonexistent"]);
    assert!(
        none.contains("holds no postgres") && none.contains("apt-get install postgresql"),
        "{none}"
    );
    let away = refusal(&[&data, free, "--database-url=postgres://nobody@127.0.0.1:1/x"]);
    assert!(away.contains("the database does not answer; check --database-url"), "{away}");
    let key = refusal(&[&data, free, "--key-file=/dev/null"]);
    assert!(key.contains("openssl rand -hex 32"), "{key}");

    let held = DataDir::open(Some(folder.path())).unwrap();
    let locked = refusal(&[&data, free]);
    assert!(locked.contains("another process uses the data directory"), "{locked}");
    drop(held);
}

#[test]
fn a_damaged_or_foreign_data_directory_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    let postgres = folder.path().join("postgres");
    std::fs::create_dir(&postgres).unwrap();
    let damaged = refusal(&[&data, "--listen=127.0.0.1:0"]);
    assert!(damaged.contains("is damaged: it has no PG_VERSION; restore a backup"), "{damaged}");
    std::fs::write(postgres.join("PG_VERSION"), "9\n").unwrap();
    let old = refusal(&[&data, "--listen=127.0.0.1:0"]);
    assert!(old.contains("was written by PostgreSQL 9") && old.contains("pg_dump"), "{old}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_are_served_only_with_tls() {
    let (database, folder) = (Database::new().await, tempfile::tempdir().unwrap());
    let url = format!("--database-url={}", database.url());
    let open = refusal(&[&data_dir(folder.path()), "--listen=0.0.0.0:0", &url]);
    assert!(open.contains("needs --tls-cert, --tls-key and --tls-ca"), "{open}");
    database.drop().await;
}

/// Removing the rule of any method makes the server refuse to start, and name the method.
#[tokio::test(flavor = "multi_thread")]
async fn a_method_about_which_nobody_decided_is_not_served() {
    let refused = Rules::load(&without_rules(|_| true)).unwrap_err().to_string();
    for method in raw::methods() {
        assert!(refused.contains(&raw::name(&method)), "{refused}");
    }
    let remove_member = "tenantry.identity.v1.MemberService.RemoveMember";
    let without: &'static [u8] = without_rules(|it| it == remove_member).leak();
    let (database, folder) = (Database::new().await, tempfile::tempdir().unwrap());
    let data = DataDir::open(Some(folder.path())).unwrap();
    let host = Host::new(testkit::config(), database.options.clone(), data).unwrap();
    let mut host = host.with_descriptors(without);
    for install in tenantry::INSTALLS {
        install(&mut host).unwrap();
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ended = host.run(listener, || panic!("it serves"), std::future::pending()).await;
    let refused = ended.unwrap_err().to_string();
    assert!(
        refused.contains(
            "nobody decided who may call tenantry.identity.v1.MemberService/RemoveMember"
        )
    );
    database.drop().await;
}

/// The descriptors of the contract without the options of some methods, which are chosen by full name.
fn without_rules(is_chosen: impl Fn(&str) -> bool) -> Vec<u8> {
    // Typed descriptors would drop the custom options of the other methods, so these are untyped.
    let pool = pool_of_descriptors();
    let descriptor = pool.get_message_by_name("google.protobuf.FileDescriptorSet").unwrap();
    let mut set = DynamicMessage::decode(descriptor, api::DESCRIPTORS).unwrap();
    for file in messages(&mut set, "file") {
        let package = text(file, "package");
        for service in messages(file, "service") {
            let service_name = format!("{package}.{}", text(service, "name"));
            for method in messages(service, "method") {
                if is_chosen(&format!("{service_name}.{}", text(method, "name"))) {
                    method.clear_field_by_name("options");
                }
            }
        }
    }
    set.encode_to_vec()
}

/// Descriptors of descriptors, without extensions: what they do not know they keep as bytes.
fn pool_of_descriptors() -> DescriptorPool {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let file = pool.get_file_by_name("google/protobuf/descriptor.proto").unwrap();
    let mut only = DescriptorPool::new();
    only.add_file_descriptor_proto(file.file_descriptor_proto().clone()).unwrap();
    only
}

/// The messages of a repeated field.
fn messages<'a>(
    message: &'a mut DynamicMessage,
    field: &str,
) -> impl Iterator<Item = &'a mut DynamicMessage> {
    let list = message.get_field_by_name_mut(field).and_then(Value::as_list_mut);
    list.into_iter().flatten().filter_map(Value::as_message_mut)
}

fn text(message: &DynamicMessage, field: &str) -> String {
    let value = message.get_field_by_name(field);
    value.and_then(|it| it.as_str().map(str::to_owned)).unwrap_or_default()
}
