//! DNS connections: tests before settings are stored, default, deletion, and who may see and change them. The
//! records are read from BIND, PowerDNS, and a server with the API of Cloudflare as its documentation has it.

use serde_json::{Value, json};
use testkit::{Cloudflare, Dns, Named, Options, Person, PowerDnsServer, Suite};

use crate::support::{
    hosting::SERVERS,
    world::{World, merge, text},
};

pub(crate) const CONNECTIONS: &str = "project.v1.DnsConnectionService";

/// An organization, and a DNS server.
struct Setup {
    suite: Suite,
    world: World,
    named: Named,
}

/// Fields of a connection to BIND with the key `tenantry`.
pub(crate) fn by_rfc2136(named: &Named) -> Value {
    json!({
        "name": "Apps", "zone": "apps.example.com", "secret": Named::SECRET,
        "rfc2136": { "host": "127.0.0.1", "port": named.port(), "keyName": "tenantry" },
    })
}

impl Setup {
    async fn new() -> Self {
        Self::with_options(Options::default()).await
    }

    async fn with_options(mut options: Options) -> Self {
        let named = Named::start().await;
        options.connection_exceptions.push(named.exception());
        let suite = Suite::start_with(options).await;
        let world = World::new(&suite).await;
        world.owner.change_plan(&world.org, api::identity::Plan::Pro).await.unwrap();
        Self { suite, world, named }
    }

    async fn call(&self, method: &str, fields: Value) -> Value {
        let request = self.world.org_request(fields);
        self.world.admin.call_ok(&format!("{CONNECTIONS}/{method}"), request).await
    }

    async fn refusal(&self, method: &str, fields: Value) -> tenantry::client::CallError {
        let request = self.world.org_request(fields);
        self.world.admin.call(&format!("{CONNECTIONS}/{method}"), request).await.unwrap_err()
    }

    async fn create(&self, fields: Value) -> Value {
        self.call("CreateDnsConnection", fields).await["dnsConnection"].clone()
    }

    async fn update(&self, connection: &Value, fields: Value, mask: &str) -> Value {
        let named = json!({ "dnsConnectionId": connection["id"], "updateMask": mask });
        let updated = self.call("UpdateDnsConnection", merge(named, fields)).await;
        updated["dnsConnection"].clone()
    }

    async fn list(&self, person: &Person) -> Vec<Value> {
        let request = self.world.org_request(json!({}));
        let listed = person.call_ok(&format!("{CONNECTIONS}/ListDnsConnections"), request).await;
        listed["dnsConnections"].as_array().cloned().unwrap_or_default()
    }
}

/// PL-24, PL-28: settings whose test fails are not stored, neither at the creation nor at a change. The
/// refusal has the answer of the server and no secret, and the test leaves no record.
#[tokio::test(flavor = "multi_thread")]
async fn settings_for_bind_are_stored_only_after_their_test_has_passed() {
    let setup = Setup::new().await;
    let before = setup.named.zone();
    let wrong = "d3Jvbmctc2VjcmV0LW9mLXRoZS1rZXktb2YtdGVzdHM=";
    let rfc2136 = |more: Value| {
        let server = json!({
            "host": "127.0.0.1", "port": setup.named.port(), "keyName": "tenantry",
        });
        json!({ "rfc2136": merge(server, more) })
    };
    let nobody = testkit::ReservedPort::new();
    for (more, cause) in [
        (json!({ "secret": wrong }), "correct the secret"),
        (rfc2136(json!({ "keyName": "other" })), "correct key_name"),
        (rfc2136(json!({ "algorithm": "TSIG_ALGORITHM_HMAC_SHA512" })), "correct"),
        (json!({ "zone": "other.example.com" }), "primary one of the zone other.example.com"),
    ] {
        let fields = merge(by_rfc2136(&setup.named), more);
        let refusal = setup.refusal("CreateDnsConnection", fields).await;
        assert_eq!(refusal.reason, "CONNECTION_TEST_FAILED", "{refusal}");
        assert!(refusal.message.contains(cause), "{cause}: {refusal}");
        assert!(!refusal.to_string().contains(wrong), "{refusal}");
    }
    let fields = merge(by_rfc2136(&setup.named), rfc2136(json!({ "port": nobody.number() })));
    let refusal = setup.refusal("CreateDnsConnection", fields).await;
    assert_eq!(refusal.reason, "CONNECTION_TARGET_FORBIDDEN", "{refusal}");
    assert!(setup.list(&setup.world.admin).await.is_empty());
    assert_eq!(setup.suite.count("select count(*) from project.dns_connection").await, 0);

    let request_id = chassis::id::new().to_string();
    let fields = merge(by_rfc2136(&setup.named), json!({ "requestId": request_id }));
    let connection = setup.create(fields.clone()).await;
    assert_eq!(connection["zone"], "apps.example.com");
    assert_eq!(connection["rfc2136"]["algorithm"], "TSIG_ALGORITHM_HMAC_SHA256");
    assert!(!connection.to_string().contains(Named::SECRET), "{connection}");
    assert_eq!(
        setup.create(fields).await,
        connection,
        "a repeated call returns the first response"
    );
    let serial = |zone: &str| zone.lines().filter(|it| !it.contains("admin.")).count();
    assert_eq!(serial(&setup.named.zone()), serial(&before), "{}", setup.named.zone());

    let id = json!({ "dnsConnectionId": connection["id"] });
    let update = json!({ "secret": wrong, "updateMask": "secret" });
    let refusal = setup.refusal("UpdateDnsConnection", merge(id.clone(), update)).await;
    assert_eq!(refusal.reason, "CONNECTION_TEST_FAILED", "{refusal}");
    let update = json!({ "secret": "no Base64!", "updateMask": "secret" });
    let refusal = setup.refusal("UpdateDnsConnection", merge(id.clone(), update)).await;
    assert_eq!(refusal.reason, "INVALID_FIELD", "{refusal}");
    let kept = setup.update(&connection, json!({ "secret": "" }), "secret").await;
    assert_eq!(kept["secretUpdateTime"], connection["secretUpdateTime"]);
    let other_key = json!({ "keyName": "text-only", "algorithm": "TSIG_ALGORITHM_HMAC_SHA512" });
    let changed = setup.update(&connection, other_key, "keyName,algorithm").await;
    assert_eq!(changed["rfc2136"]["keyName"], "text-only");
    assert_eq!(changed["secretUpdateTime"], connection["secretUpdateTime"]);
    let renamed = setup.update(&connection, json!({ "name": "Old apps" }), "name").await;
    assert_eq!(renamed["name"], "Old apps");
    let stale = json!({ "name": "x", "updateMask": "name", "etag": connection["etag"] });
    let refusal = setup.refusal("UpdateDnsConnection", merge(id.clone(), stale)).await;
    assert_eq!(refusal.reason, "CONFLICT", "{refusal}");
    crate::support::sealed_values::require_sealed_values(
        &setup.suite,
        &["project.dns_connection.sealed"],
    )
    .await;
    // Zone and server are no fields of an update.
    let moved = json!({ "updateMask": "zone" });
    let refusal = setup.refusal("UpdateDnsConnection", merge(id, moved)).await;
    assert_eq!(refusal.reason, "INVALID_FIELD", "{refusal}");
    setup.suite.finish().await;
}

/// PL-24: a test with the stored settings records why it failed, and passes again when the server is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_test_of_a_stored_connection_records_its_result() {
    let mut setup = Setup::new().await;
    let connection = setup.create(by_rfc2136(&setup.named)).await;
    let id = json!({ "dnsConnectionId": connection["id"] });
    setup.named.stop();
    let tested = setup.call("TestDnsConnection", id.clone()).await;
    assert_eq!(tested["success"], Value::Null, "{tested}");
    assert_eq!(tested["reason"], "CONNECTION_TEST_FAILED", "{tested}");
    let error = text(&tested["dnsConnection"]["lastTestError"]);
    assert!(error.contains("no connection to 127.0.0.1"), "{error}");
    setup.named.run().await;
    let tested = setup.call("TestDnsConnection", id).await;
    assert_eq!(tested["success"], true, "{tested}");
    assert_eq!(tested["dnsConnection"]["lastTestError"], Value::Null);
    setup.suite.wait_for_log().await;
    for (action, count) in [("created", 1), ("tested", 2)] {
        let action = format!("dns_connection.{action}");
        assert_eq!(setup.suite.count_entries(&action).await, count, "{action}");
    }
    setup.suite.finish().await;
}

/// PL-24: PowerDNS by its HTTP API. The API key is sent to the address that was checked only.
#[tokio::test(flavor = "multi_thread")]
async fn settings_for_powerdns_are_stored_only_after_their_test_has_passed() {
    let powerdns = PowerDnsServer::start().await;
    let connection_exceptions = vec![powerdns.exception()];
    let options = Options { connection_exceptions, ..Options::default() };
    let setup = Setup::with_options(options).await;
    let before = powerdns.names().await;
    let fields = |more: Value| {
        let fields = json!({
            "name": "Apps", "zone": "apps.example.com", "secret": PowerDnsServer::API_KEY,
            "powerdns": { "apiUrl": powerdns.url() },
        });
        merge(fields, more)
    };
    for (more, cause) in [
        (json!({ "secret": "wrong-key" }), "401"),
        (json!({ "zone": "other.example.com" }), "404"),
        (json!({ "powerdns": { "apiUrl": powerdns.url(), "serverId": "other" } }), "404"),
    ] {
        let refusal = setup.refusal("CreateDnsConnection", fields(more)).await;
        assert_eq!(refusal.reason, "CONNECTION_TEST_FAILED", "{refusal}");
        assert!(refusal.message.contains(cause), "{cause}: {refusal}");
        assert!(!refusal.to_string().contains("wrong-key"), "{refusal}");
    }
    let connection = setup.create(fields(json!({}))).await;
    assert_eq!(connection["powerdns"]["apiUrl"], powerdns.url());
    assert_eq!(connection["powerdns"]["serverId"], "localhost");
    assert_eq!(powerdns.names().await, before);
    let key =
        json!({ "dnsConnectionId": connection["id"], "keyName": "a", "updateMask": "keyName" });
    let refusal = setup.refusal("UpdateDnsConnection", key).await;
    assert_eq!(refusal.reason, "INVALID_FIELD", "{refusal}");
    setup.suite.finish().await;
}

/// PL-24: Cloudflare, whose API finds the zone by its name.
#[tokio::test(flavor = "multi_thread")]
async fn settings_for_cloudflare_are_stored_only_after_their_test_has_passed() {
    let cloudflare = Cloudflare::start().await;
    let options = Options { cloudflare_url: Some(cloudflare.url()), ..Options::default() };
    let setup = Setup::with_options(options).await;
    let fields = |more: Value| {
        let fields = json!({
            "name": "Apps", "zone": "apps.example.com", "secret": Cloudflare::TOKEN,
            "cloudflare": {},
        });
        merge(fields, more)
    };
    for (more, cause) in [
        (json!({ "secret": "wrong-token" }), "Invalid access token"),
        (json!({ "zone": "other.example.com" }), "no such zone"),
        (json!({ "cloudflare": { "zoneId": "0".repeat(32) } }), "Could not route"),
    ] {
        let refusal = setup.refusal("CreateDnsConnection", fields(more)).await;
        assert_eq!(refusal.reason, "CONNECTION_TEST_FAILED", "{refusal}");
        assert!(refusal.message.contains(cause), "{cause}: {refusal}");
        assert!(!refusal.to_string().contains("wrong-token"), "{refusal}");
    }
    let connection = setup.create(fields(json!({}))).await;
    assert_eq!(connection["cloudflare"], json!({}));
    assert!(cloudflare.records().is_empty());
    let batches = cloudflare.requests().into_iter().filter(|it| it.method == "POST");
    let bodies: Vec<Value> = batches.map(|it| serde_json::from_str(&it.body).unwrap()).collect();
    assert_eq!(bodies.len(), 2, "one batch publishes record and mark, another one removes them");
    assert_eq!(bodies[0]["posts"].as_array().unwrap().len(), 2);
    assert_eq!(bodies[1]["deletes"].as_array().unwrap().len(), 2);
    setup.suite.finish().await;
}

/// PL-24: connections go to public addresses and to those that the operator allows, also if the address is
/// written in another form or behind a name. Plain HTTP is for the allowed addresses only.
#[tokio::test(flavor = "multi_thread")]
async fn connections_go_to_allowed_addresses_only() {
    let other = Named::start().await;
    let dns = Dns::start(&["10.0.0.1".parse().unwrap()]).await;
    let options = Options { webhook_dns: Some(dns.address()), ..Options::default() };
    let setup = Setup::with_options(options).await;
    for (host, port, reason) in [
        ("127.0.0.1", other.port(), "CONNECTION_TARGET_FORBIDDEN"),
        ("10.0.0.1", 53, "CONNECTION_TARGET_FORBIDDEN"),
        ("::1", 53, "CONNECTION_TARGET_FORBIDDEN"),
        ("private.example.com", 53, "CONNECTION_TARGET_FORBIDDEN"),
        ("0x7f.1", 53, "INVALID_FIELD"),
        ("2130706433", 53, "INVALID_FIELD"),
        ("ns.example.com.", 53, "INVALID_FIELD"),
    ] {
        let server = json!({ "host": host, "port": port, "keyName": "tenantry" });
        let fields = merge(by_rfc2136(&setup.named), json!({ "rfc2136": server }));
        let refusal = setup.refusal("CreateDnsConnection", fields).await;
        assert_eq!(refusal.reason, reason, "{host}: {refusal}");
    }
    for (url, reason) in [
        ("http://9.9.9.9", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://10.0.0.1:8081", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://169.254.169.254", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://private.example.com", "CONNECTION_TARGET_FORBIDDEN"),
        ("https://0x7f.1", "INVALID_FIELD"),
        ("https://dns.example.com/path", "INVALID_FIELD"),
        ("https://ann:s3cret@dns.example.com", "INVALID_FIELD"),
        ("ftp://dns.example.com", "INVALID_FIELD"),
    ] {
        let fields = json!({
            "name": "Apps", "zone": "apps.example.com", "secret": "k", "powerdns": { "apiUrl": url },
        });
        let refusal = setup.refusal("CreateDnsConnection", fields).await;
        assert_eq!(refusal.reason, reason, "{url}: {refusal}");
        assert!(!refusal.to_string().contains("s3cret"), "{refusal}");
    }
    // Every violation at once.
    let fields = json!({
        "name": "Apps", "zone": "-.example.com", "secret": "k",
        "rfc2136": { "host": "0x7f.1", "keyName": "a..b" },
    });
    let refusal = setup.refusal("CreateDnsConnection", fields).await;
    for field in ["zone", "rfc2136.host", "rfc2136.key_name"] {
        assert!(refusal.message.contains(field), "{refusal}");
    }
    let none = json!({ "name": "Apps", "zone": "apps.example.com", "secret": "k" });
    let refusal = setup.refusal("CreateDnsConnection", none).await;
    assert!(refusal.message.contains("server"), "{refusal}");
    setup.suite.finish().await;
}

/// PL-26, PL-27: one connection is the default one; a connection that a server uses is not deleted, and the
/// refusal lists the servers.
#[tokio::test(flavor = "multi_thread")]
async fn one_connection_is_the_default_and_a_used_one_is_not_deleted() {
    let setup = Setup::new().await;
    let first = setup.create(by_rfc2136(&setup.named)).await;
    let second = json!({ "name": "Second" });
    let second = setup.create(merge(by_rfc2136(&setup.named), second)).await;
    let set_default = async |connection: &Value| {
        let id = json!({ "dnsConnectionId": connection["id"] });
        setup.call("SetDefaultDnsConnection", id).await;
    };
    tokio::join!(set_default(&first), set_default(&second), set_default(&first));
    set_default(&second).await;
    let listed = setup.list(&setup.world.viewer).await;
    let defaults: Vec<_> = listed.iter().filter(|it| it["default"] == true).collect();
    assert_eq!(defaults.len(), 1, "{listed:?}");
    assert_eq!(defaults[0]["id"], second["id"]);

    let owner = &setup.world.owner;
    let connect = json!({ "name": "eu-1", "address": "eu-1.example.com" });
    let connect = setup.world.org_request(connect);
    let connected = owner.call_ok(&format!("{SERVERS}/ConnectServer"), connect).await;
    let server = connected["server"]["id"].clone();
    let update = async |id: &Value| {
        let fields = json!({
            "serverId": server, "dnsConnectionId": id, "updateMask": "dnsConnectionId",
        });
        let request = setup.world.org_request(fields);
        owner.call(&format!("{SERVERS}/UpdateServer"), request).await
    };
    let updated = update(&first["id"]).await.unwrap();
    assert_eq!(updated["server"]["dnsConnectionId"], first["id"]);
    let unknown = json!(chassis::id::new().to_string());
    assert_eq!(update(&unknown).await.unwrap_err().reason, "NOT_FOUND");
    let id = json!({ "dnsConnectionId": first["id"] });
    let refusal = setup.refusal("DeleteDnsConnection", id.clone()).await;
    assert_eq!(refusal.reason, "CONNECTION_IN_USE", "{refusal}");
    assert!(refusal.message.contains("eu-1"), "{refusal}");
    let removed = update(&json!("")).await.unwrap();
    assert_eq!(removed["server"]["dnsConnectionId"], Value::Null);
    setup.call("DeleteDnsConnection", id).await;
    assert_eq!(setup.list(owner).await.len(), 1);
    setup.suite.finish().await;
}

/// PL-23: every member sees that a connection exists, the Owner and Admins manage it and see its records;
/// another organization neither sees nor uses it.
#[tokio::test(flavor = "multi_thread")]
async fn members_see_connections_and_admins_of_the_organization_manage_them() {
    let setup = Setup::new().await;
    let world = &setup.world;
    let connection = setup.create(by_rfc2136(&setup.named)).await;
    let id = json!({ "dnsConnectionId": connection["id"] });
    let changes = [
        ("CreateDnsConnection", by_rfc2136(&setup.named)),
        ("TestDnsConnection", id.clone()),
        ("UpdateDnsConnection", merge(id.clone(), json!({ "updateMask": "name", "name": "x" }))),
        ("SetDefaultDnsConnection", id.clone()),
        ("DeleteDnsConnection", id.clone()),
        ("ListDnsRecords", id.clone()),
    ];
    for person in [&world.developer, &world.viewer] {
        let listed = setup.list(person).await;
        assert_eq!(listed, std::slice::from_ref(&connection));
        for (method, fields) in &changes {
            let method = format!("{CONNECTIONS}/{method}");
            let refused = person.call_err(&method, world.org_request(fields.clone())).await;
            assert_eq!(refused, "MISSING_PERMISSION", "{method}");
        }
    }
    let stranger = setup.suite.person("stranger@example.com").await;
    let other_org = stranger.create_organization("other").await.unwrap();
    for (method, fields) in changes.iter().skip(1) {
        let request = merge(fields.clone(), json!({ "orgId": other_org }));
        let method = format!("{CONNECTIONS}/{method}");
        assert_eq!(stranger.call_err(&method, request).await, "NOT_FOUND", "{method}");
    }
    let get = merge(id.clone(), json!({ "orgId": other_org }));
    let method = format!("{CONNECTIONS}/GetDnsConnection");
    assert_eq!(stranger.call_err(&method, get).await, "NOT_FOUND");
    assert_eq!(stranger.call_err(&method, world.org_request(id)).await, "NOT_FOUND");
    setup.suite.finish().await;
}
