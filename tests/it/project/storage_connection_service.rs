//! Storage connections: tests of buckets before settings are stored, addresses, default, deletion, and who
//! may see and change them.

use api::project as pb;
use serde_json::{Value, json};
use testkit::{S3Fault, S3Server};

use crate::support::{
    storage::{STORAGE, StorageSetup},
    world::{merge, text},
};

/// PL-24, PL-28: settings of a bucket whose test fails are not stored, neither at the creation nor at a
/// change. The refusal has the answer of the server and no secret.
#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_bucket_are_stored_only_after_their_test_has_passed() {
    let setup = StorageSetup::new().await;
    let wrong = "wrong-s3cret-key";
    let fields = setup.by_s3(json!({ "secretAccessKey": wrong }));
    let refusal = setup.refusal("CreateStorageConnection", fields).await;
    assert_eq!(refusal.reason, "CONNECTION_TEST_FAILED", "{refusal}");
    assert!(refusal.message.contains("403"), "{refusal}");
    assert!(!refusal.to_string().contains(wrong), "{refusal}");
    for (fault, message) in [
        (S3Fault::ConfirmsWithoutWriting, "confirmed the write of an object, but does not have it"),
        (S3Fault::Full, "XMinioStorageFull"),
        (S3Fault::CutReads, "cannot read an object"),
    ] {
        setup.s3.set_fault(fault);
        let refusal = setup.refusal("CreateStorageConnection", setup.by_s3(json!({}))).await;
        assert_eq!(refusal.reason, "CONNECTION_TEST_FAILED", "{fault:?}: {refusal}");
        assert!(refusal.message.contains(message), "{fault:?}: {refusal}");
    }
    let other = S3Server::start().await;
    setup.s3.set_fault(S3Fault::Redirects(other.address()));
    let refusal = setup.refusal("CreateStorageConnection", setup.by_s3(json!({}))).await;
    assert!(refusal.message.contains("check endpoint and region"), "{refusal}");
    assert!(!other.has_requests(), "a redirect was followed");
    setup.s3.set_fault(S3Fault::None);
    assert!(setup.list(&setup.world.admin).await.is_empty());
    assert_eq!(setup.suite.count("select count(*) from project.storage_connection").await, 0);

    let request_id = chassis::id::new().to_string();
    let fields = setup.by_s3(json!({ "requestId": request_id }));
    let connection = setup.create(fields.clone()).await;
    assert_eq!(connection["s3"]["region"], "us-east-1");
    assert_eq!(
        setup.create(fields).await,
        connection,
        "a repeated call returns the first response"
    );
    let objects = setup.s3.objects();
    assert!(objects.is_empty(), "a test leaves nothing: {objects:?}");

    let id = json!({ "storageConnectionId": connection["id"] });
    let update = json!({ "secretAccessKey": wrong, "updateMask": "secretAccessKey" });
    let refusal = setup.refusal("UpdateStorageConnection", merge(id.clone(), update)).await;
    assert_eq!(refusal.reason, "CONNECTION_TEST_FAILED", "{refusal}");
    // An empty secret keeps the stored one, which still passes; so does another prefix.
    let empty = json!({ "secretAccessKey": "" });
    let kept = setup.update(&connection, empty, "secretAccessKey").await;
    assert_eq!(kept["secretUpdateTime"], connection["secretUpdateTime"]);
    let moved = json!({ "s3": setup.bucket(json!({ "prefix": "elsewhere/" })) });
    let moved = setup.update(&connection, moved, "s3").await;
    assert_eq!(moved["s3"]["prefix"], "elsewhere");
    assert_eq!(moved["secretUpdateTime"], connection["secretUpdateTime"]);
    let tested = setup.test(&connection).await;
    assert_eq!(tested["success"], true, "{tested}");
    setup.s3.set_fault(S3Fault::Full);
    let tested = setup.test(&connection).await;
    assert_eq!(tested["reason"], "CONNECTION_TEST_FAILED", "{tested}");
    let renamed = setup.update(&connection, json!({ "name": "Old archive" }), "name").await;
    assert!(text(&renamed["lastTestError"]).contains("XMinioStorageFull"), "{renamed}");
    setup.s3.set_fault(S3Fault::None);
    let stale = json!({ "name": "x", "updateMask": "name", "etag": connection["etag"] });
    let refusal = setup.refusal("UpdateStorageConnection", merge(id.clone(), stale)).await;
    assert_eq!(refusal.reason, "CONFLICT");
    // The stored secret is not sent to another server.
    let elsewhere = setup.bucket(json!({ "endpoint": other.url() }));
    let update = json!({ "s3": elsewhere, "updateMask": "s3" });
    let refusal = setup.refusal("UpdateStorageConnection", merge(id, update)).await;
    assert_eq!(refusal.reason, "INVALID_FIELD", "{refusal}");
    assert!(!other.has_requests());
    crate::support::sealed_values::require_sealed_values(
        &setup.suite,
        &["project.storage_connection.sealed"],
    )
    .await;
    setup.suite.finish().await;
}

/// PL-24: connections go to public addresses and to those that the operator allows; every violation of a
/// request is returned at once.
#[tokio::test(flavor = "multi_thread")]
async fn storage_is_at_allowed_addresses_only() {
    let setup = StorageSetup::new().await;
    let other = S3Server::start().await;
    for (endpoint, reason) in [
        (other.url().as_str(), "CONNECTION_TARGET_FORBIDDEN"),
        ("http://9.9.9.9", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://10.0.0.1", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://[::1]", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://169.254.169.254", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://localhost", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://nothing.invalid", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://2130706433", "INVALID_FIELD"),
        ("https://user:s3cret@s3.example.com", "INVALID_FIELD"),
        ("https://s3.example.com/path", "INVALID_FIELD"),
        ("file:///srv", "INVALID_FIELD"),
    ] {
        let fields = setup.by_s3(json!({ "s3": setup.bucket(json!({ "endpoint": endpoint })) }));
        let refusal = setup.refusal("CreateStorageConnection", fields).await;
        assert_eq!(refusal.reason, reason, "{endpoint}: {refusal}");
        assert!(!refusal.to_string().contains("s3cret"), "{refusal}");
    }
    assert!(!other.has_requests());
    let by_host = setup.bucket(json!({ "pathStyle": false }));
    let refusal = setup.refusal("CreateStorageConnection", setup.by_s3(json!({ "s3": by_host })));
    let refusal = refusal.await;
    assert!(refusal.message.contains("set path_style"), "{refusal}");
    let key = setup.create_deploy_key().await;
    let inside = setup.directory(json!({ "host": "192.168.0.1" }));
    let fields = json!({ "name": "Inside", "sftp": inside, "deployKeyId": key["id"] });
    let refusal = setup.refusal("CreateStorageConnection", fields).await;
    assert_eq!(refusal.reason, "CONNECTION_TARGET_FORBIDDEN", "{refusal}");
    let wrong = setup.directory(json!({ "host": "files.example.com.", "path": "../etc" }));
    let fields = json!({ "name": "Wrong", "sftp": wrong, "secretAccessKey": "x" });
    let refusal = setup.refusal("CreateStorageConnection", fields).await;
    for field in ["sftp.host", "sftp.path", "secret_access_key", "deploy_key_id"] {
        assert!(refusal.message.contains(field), "{field}: {refusal}");
    }
    let refusal = setup.refusal("CreateStorageConnection", json!({ "name": "None" })).await;
    assert!(refusal.message.contains("s3, sftp or folder"), "{refusal}");
    setup.suite.finish().await;
}

/// PL-26, PL-27: at most one connection is the default one; a used one is not deleted, and the refusal lists
/// its consumers.
#[tokio::test(flavor = "multi_thread")]
async fn one_storage_connection_is_the_default_and_a_used_one_is_not_deleted() {
    let setup = StorageSetup::new().await;
    let first = setup.create(json!({ "name": "First", "folder": { "path": "first" } })).await;
    let second = setup.create(json!({ "name": "Second", "folder": { "path": "second" } })).await;
    let set_default = async |connection: &Value| {
        let id = json!({ "storageConnectionId": connection["id"] });
        setup.call("SetDefaultStorageConnection", id).await;
    };
    // At the same time.
    tokio::join!(set_default(&first), set_default(&second), set_default(&first));
    set_default(&second).await;
    let listed = setup.list(&setup.world.viewer).await;
    let defaults: Vec<_> = listed.iter().filter(|it| it["default"] == true).collect();
    assert_eq!(defaults.len(), 1, "{listed:?}");
    assert_eq!(defaults[0]["id"], second["id"]);

    let consumer_id = chassis::id::new().to_string();
    let org_id = setup.world.org.clone();
    let use_of_first = pb::RegisterStorageUseRequest {
        org_id: org_id.clone(),
        storage_connection_id: text(&first["id"]),
        consumer_id: consumer_id.clone(),
        name: "Export of the year".to_owned(),
    };
    let mut objects = setup.objects();
    objects.register_storage_use(use_of_first.clone()).await.unwrap();
    objects.register_storage_use(use_of_first).await.unwrap();
    let id = json!({ "storageConnectionId": first["id"] });
    let refusal = setup.refusal("DeleteStorageConnection", id.clone()).await;
    assert_eq!(refusal.reason, "CONNECTION_IN_USE", "{refusal}");
    assert!(refusal.message.contains("Export of the year"), "{refusal}");
    let removal = pb::RemoveStorageUseRequest { org_id, consumer_id };
    objects.remove_storage_use(removal.clone()).await.unwrap();
    objects.remove_storage_use(removal).await.unwrap();
    setup.call("DeleteStorageConnection", id).await;
    assert_eq!(setup.list(&setup.world.owner).await.len(), 1);
    setup.suite.wait_for_log().await;
    for (action, count) in [("created", 2), ("deleted", 1)] {
        let action = format!("storage_connection.{action}");
        assert_eq!(setup.suite.count_entries(&action).await, count, "{action}");
    }
    setup.suite.finish().await;
}

/// PL-23: every member sees that a connection exists, the Owner and Admins manage it; another organization
/// neither sees nor uses it.
#[tokio::test(flavor = "multi_thread")]
async fn members_see_storage_and_admins_of_the_organization_manage_it() {
    let setup = StorageSetup::new().await;
    let world = &setup.world;
    let connection = setup.create(setup.by_s3(json!({}))).await;
    let id = json!({ "storageConnectionId": connection["id"] });
    let changes = [
        ("CreateStorageConnection", setup.by_s3(json!({}))),
        ("TestStorageConnection", id.clone()),
        (
            "UpdateStorageConnection",
            merge(id.clone(), json!({ "updateMask": "name", "name": "x" })),
        ),
        ("SetDefaultStorageConnection", id.clone()),
        ("DeleteStorageConnection", id.clone()),
    ];
    for person in [&world.developer, &world.viewer] {
        assert_eq!(setup.list(person).await, std::slice::from_ref(&connection));
        for (method, fields) in &changes {
            let method = format!("{STORAGE}/{method}");
            let refused = person.call_err(&method, world.org_request(fields.clone())).await;
            assert_eq!(refused, "MISSING_PERMISSION", "{method}");
        }
    }
    let stranger = setup.suite.person("stranger@example.com").await;
    let other_org = stranger.create_organization("other").await.unwrap();
    for (method, fields) in changes.iter().skip(1) {
        let request = merge(fields.clone(), json!({ "orgId": other_org }));
        let method = format!("{STORAGE}/{method}");
        assert_eq!(stranger.call_err(&method, request).await, "NOT_FOUND", "{method}");
    }
    let get = format!("{STORAGE}/GetStorageConnection");
    let other = merge(id.clone(), json!({ "orgId": other_org }));
    assert_eq!(stranger.call_err(&get, other).await, "NOT_FOUND");
    assert_eq!(stranger.call_err(&get, world.org_request(id)).await, "NOT_FOUND");
    let log = serde_json::to_string(&connection).unwrap();
    assert!(!log.contains(S3Server::SECRET_ACCESS_KEY), "{log}");
    setup.suite.finish().await;
}
