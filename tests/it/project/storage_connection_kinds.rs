//! Storage connections to SFTP servers and folders.

use serde_json::{Value, json};
use testkit::{Suite, files_below};

use crate::support::{
    storage::{STORAGE, StorageSetup},
    world::{World, merge, text},
};

/// PL-24: an SFTP connection needs its key on the server. The host key is the one of the first test; another
/// one is refused with its own reason until an Admin names it.
#[tokio::test(flavor = "multi_thread")]
async fn an_sftp_server_keeps_its_host_key_until_another_one_is_named() {
    let mut setup = StorageSetup::new().await;
    let key = setup.create_deploy_key().await;
    let sftp = setup.directory(json!({}));
    let fields = json!({ "name": "Files", "sftp": sftp, "deployKeyId": key["id"] });
    let refusal = setup.refusal("CreateStorageConnection", fields.clone()).await;
    assert_eq!(refusal.reason, "CONNECTION_TEST_FAILED", "{refusal}");
    assert!(refusal.message.contains("Permission denied"), "{refusal}");
    setup.ssh.authorize(&text(&key["publicKey"]));
    let first_key = setup.ssh.replace_host_key().await;
    let missing = setup.directory(json!({ "path": "/no/such/directory" }));
    let refusal = merge(fields.clone(), json!({ "sftp": missing }));
    let refusal = setup.refusal("CreateStorageConnection", refusal).await;
    assert!(refusal.message.contains("cannot write an object"), "{refusal}");
    let connection = setup.create(fields.clone()).await;
    assert_eq!(connection["sftp"]["hostKey"], json!(first_key));
    assert!(text(&connection["hostKeyFingerprint"]).starts_with("SHA256:"), "{connection}");
    assert_eq!(connection["publicKey"], key["publicKey"]);
    assert!(files_below(setup.remote.path()).is_empty(), "a test leaves nothing");
    // The key belongs to the connection now.
    assert_eq!(setup.refusal("CreateStorageConnection", fields).await.reason, "NOT_FOUND");

    let data = vec![b'x'; 3 << 20];
    setup.put(&connection, "log/date=2026-11-01/part-0-9.gz", &data).await.unwrap();
    let written = files_below(setup.remote.path());
    assert_eq!(written, [("log/date=2026-11-01/part-0-9.gz".to_owned(), data)]);

    let second_key = setup.ssh.replace_host_key().await;
    let tested = setup.test(&connection).await;
    assert_eq!(tested["reason"], "CONNECTION_HOST_KEY_CHANGED", "{tested}");
    let refused = setup.put(&connection, "a", b"a").await.unwrap_err();
    assert!(refused.message().contains("host key"), "{refused}");
    // Settings without a host key keep the stored one.
    let id = json!({ "storageConnectionId": connection["id"], "updateMask": "sftp" });
    let same = json!({ "sftp": setup.directory(json!({})) });
    let refusal = setup.refusal("UpdateStorageConnection", merge(id, same)).await;
    assert_eq!(refusal.reason, "CONNECTION_HOST_KEY_CHANGED", "{refusal}");
    let named = json!({ "sftp": setup.directory(json!({ "hostKey": second_key })) });
    let named = setup.update(&connection, named, "sftp").await;
    assert_eq!(named["sftp"]["hostKey"], json!(second_key));
    assert_eq!(named["lastTestError"], Value::Null);
    crate::support::sealed_values::require_sealed_values(
        &setup.suite,
        &["project.storage_connection.sealed"],
    )
    .await;
    assert_eq!(named["secretUpdateTime"], connection["secretUpdateTime"]);
    setup.suite.finish().await;
}

/// PL-24: folders are below a directory of the operator, in a directory of the organization, and no symbolic
/// link leads out of that.
#[tokio::test(flavor = "multi_thread")]
async fn folders_are_in_the_directory_of_the_organization() {
    let setup = StorageSetup::new().await;
    for path in ["..", "/etc", "a/../../b", ".hidden", "a//b"] {
        let fields = json!({ "name": "Out", "folder": { "path": path } });
        let refusal = setup.refusal("CreateStorageConnection", fields).await;
        assert_eq!(refusal.reason, "INVALID_FIELD", "{path}: {refusal}");
    }
    let connection = json!({ "name": "Here", "folder": { "path": "exports/audit" } });
    let connection = setup.create(connection).await;
    assert_eq!(connection["secretUpdateTime"], Value::Null);
    setup.put(&connection, "log/a.gz", b"first").await.unwrap();
    setup.put(&connection, "log/a.gz", b"second").await.unwrap();
    let expected = format!("{}/exports/audit/log/a.gz", setup.world.org);
    assert_eq!(files_below(setup.folder.path()), [(expected, b"second".to_vec())]);

    let outside = tempfile::tempdir().unwrap();
    let own = setup.folder.path().join(&setup.world.org);
    std::os::unix::fs::symlink(outside.path(), own.join("link")).unwrap();
    let fields = json!({ "name": "Link", "folder": { "path": "link" } });
    let refusal = setup.refusal("CreateStorageConnection", fields).await;
    assert!(refusal.message.contains("symbolic link"), "{refusal}");
    std::os::unix::fs::symlink("/etc/passwd", own.join("exports/audit/passwd")).unwrap();
    setup.put(&connection, "passwd", b"replaced").await.unwrap();
    assert!(own.join("exports/audit/passwd").is_file(), "the link was replaced, not followed");
    assert!(files_below(outside.path()).is_empty());
    // A storage that has no space left: the directory does not accept files.
    std::fs::remove_dir_all(own.join("exports/audit")).unwrap();
    std::fs::write(own.join("exports/audit"), "").unwrap();
    let tested = setup.test(&connection).await;
    assert_eq!(tested["reason"], "CONNECTION_TEST_FAILED", "{tested}");
    setup.suite.finish().await;
}

/// PL-24: without a directory of the operator, there are no connections to folders.
#[tokio::test(flavor = "multi_thread")]
async fn folders_need_a_directory_of_the_operator() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let request = world.org_request(json!({ "name": "Here", "folder": {} }));
    let method = format!("{STORAGE}/CreateStorageConnection");
    let refusal = world.admin.call(&method, request).await.unwrap_err();
    assert_eq!(refusal.reason, "CONNECTION_TARGET_FORBIDDEN", "{refusal}");
    assert!(refusal.message.contains("--storage-folder"), "{refusal}");
    suite.finish().await;
}
