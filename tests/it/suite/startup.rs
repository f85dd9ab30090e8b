//! Start errors: one sentence with the cause and the remedy.

use std::path::Path;

use chassis::rule::Rules;
use host::{DataDir, Host};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use testkit::{Database, Process};

use crate::support::raw;

/// Starts `tenantry`, which must fail; returns the line with its error.
pub(crate) fn start_error(arguments: &[&str]) -> String {
    let output = Process::run("tenantry", arguments);
    assert!(!output.status.success(), "tenantry started with {arguments:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let sentence = text.lines().find(|it| it.starts_with("tenantry: ")).unwrap_or_default();
    assert!(!sentence.is_empty(), "no error in {text:?}");
    sentence.to_owned()
}

/// The argument `--data-dir`.
pub(crate) fn data_dir(folder: &Path) -> String {
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    format!("--data-dir={}", folder.display())
}

#[test]
fn start_errors_name_cause_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", occupied.local_addr().unwrap());
    let unused_port = "--listen=127.0.0.1:0";

    assert!(start_error(&[&data, &listen]).contains("choose another address with --listen"));
    let without_programs = start_error(&[&data, unused_port, "--pg-bin=/nonexistent"]);
    assert!(
        without_programs.contains("contains no postgres")
            && without_programs.contains("apt-get install postgresql"),
        "{without_programs}"
    );
    let impatient = "--database-patience-s=0";
    let database = "--database-url=postgres://nobody@127.0.0.1:1/x";
    let unreachable = start_error(&[&data, unused_port, impatient, database]);
    assert!(
        unreachable.contains("the database does not respond; check --database-url"),
        "{unreachable}"
    );
    let key = start_error(&[&data, unused_port, "--key-file=/dev/null"]);
    assert!(key.contains("openssl rand -hex 32"), "{key}");

    let other_process = DataDir::open(Some(folder.path())).unwrap();
    let locked = start_error(&[&data, unused_port]);
    assert!(locked.contains("another process uses the data directory"), "{locked}");
    drop(other_process);
}

#[test]
fn a_damaged_or_old_data_directory_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    let postgres = folder.path().join("postgres");
    std::fs::create_dir(&postgres).unwrap();
    let damaged = start_error(&[&data, "--listen=127.0.0.1:0"]);
    assert!(damaged.contains("is damaged: it has no PG_VERSION; restore a backup"), "{damaged}");
    std::fs::write(postgres.join("PG_VERSION"), "9\n").unwrap();
    let old = start_error(&[&data, "--listen=127.0.0.1:0"]);
    assert!(old.contains("was written by PostgreSQL 9") && old.contains("pg_dump"), "{old}");
}

#[tokio::test(flavor = "multi_thread")]
async fn public_addresses_need_tls() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("--database-url={}", database.url());
    let open = start_error(&[&data_dir(folder.path()), "--listen=0.0.0.0:0", &url]);
    assert!(open.contains("needs --tls-cert, --tls-key and --tls-ca"), "{open}");
    database.drop().await;
}

/// A method without an access rule prevents the start, with an error that names the method.
#[tokio::test(flavor = "multi_thread")]
async fn a_method_without_an_access_rule_prevents_the_start() {
    let error = Rules::load(&without_rules(|_| true)).unwrap_err().to_string();
    for method in raw::methods() {
        let name = raw::name(&method);
        assert!(error.contains(&name), "{name} is not in the error {error}");
    }
    let remove_member = "tenantry.identity.v1.MemberService.RemoveMember";
    let without: &'static [u8] = without_rules(|it| it == remove_member).leak();
    let database = Database::new().await;
    let folder = tempfile::tempdir().unwrap();
    let data = DataDir::open(Some(folder.path())).unwrap();
    let host = Host::new(testkit::config(), database.options.clone(), data).unwrap();
    let mut host = host.with_descriptors(without);
    for install in tenantry::INSTALLS {
        install(&mut host).unwrap();
    }
    let socket = host::process::bind(testkit::LOOPBACK).unwrap();
    let ended = host.run(socket, || panic!("the server starts"), std::future::pending()).await;
    let error = ended.unwrap_err().to_string();
    assert!(error.contains(
        "these methods have no valid rule: tenantry.identity.v1.MemberService/RemoveMember"
    ));
    database.drop().await;
}

/// Descriptors of the contract without the options of the methods that `is_chosen` selects by full name.
fn without_rules(is_chosen: impl Fn(&str) -> bool) -> Vec<u8> {
    // Typed descriptors would lose the custom options of the other methods.
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

/// A pool with only `descriptor.proto`. The custom options are not known in it, so decoding keeps them as
/// unknown fields.
fn pool_of_descriptors() -> DescriptorPool {
    let pool = DescriptorPool::decode(api::DESCRIPTORS).unwrap();
    let file = pool.get_file_by_name("google/protobuf/descriptor.proto").unwrap();
    let mut only = DescriptorPool::new();
    only.add_file_descriptor_proto(file.file_descriptor_proto().clone()).unwrap();
    only
}

/// Messages of a repeated field.
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
