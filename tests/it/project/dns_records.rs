//! Records on DNS servers: publication and removal by the worker, records of others, refusals of a server,
//! and DNS-01 challenges of runners.

use serde_json::{Value, json};
use testkit::{Cloudflare, Named, Options, PowerDnsServer, Suite, eventually};

use super::dns_connection_service::{CONNECTIONS, by_rfc2136};
use crate::support::{
    fake_runner::{FakeRunner, success_result},
    hosting::SERVERS,
    world::{merge, text},
};

const NAME: &str = "main-hosted.apps.example.com";
const MARK: &str = "_tenantry.main-hosted.apps.example.com";

/// An environment on a connected server without a runner.
struct Scene {
    suite: Suite,
    runner: FakeRunner,
    environment: String,
}

impl Scene {
    async fn new(mut options: Options, exceptions: Vec<String>) -> Self {
        options.connection_exceptions = exceptions;
        let suite = Suite::start_with(options).await;
        let runner = FakeRunner::new(&suite).await;
        runner.heartbeat().await;
        let environment = runner.environment("main").await;
        Self { suite, runner, environment }
    }

    async fn with_named(named: &Named) -> Self {
        Self::new(Options::default(), vec![named.exception()]).await
    }

    /// Creates a connection; returns its id.
    async fn connect(&self, fields: Value) -> String {
        let request = self.runner.hosting.world.org_request(fields);
        let method = format!("{CONNECTIONS}/CreateDnsConnection");
        let created = self.runner.hosting.owner().call_ok(&method, request).await;
        text(&created["dnsConnection"]["id"])
    }

    /// Stores a desired record, as the deployment of an environment does.
    async fn desire(&self, connection: &str, name: &str, record_type: &str, value: &str) {
        let insert = "insert into project.dns_record (id, org_id, environment_id, dns_connection_id, name,
                          record_type, value, ttl, state, next_attempt_at, created_at, updated_at)
                      values ($1, $2::uuid, $3::uuid, $4::uuid, $5, $6, $7, 60, 'pending', now(), now(),
                          now())";
        let insert = sqlx::query(insert)
            .bind(chassis::id::new())
            .bind(&self.runner.hosting.world.org)
            .bind(&self.environment)
            .bind(connection)
            .bind(name)
            .bind(record_type)
            .bind(value);
        insert.execute(&self.suite.pool).await.unwrap();
    }

    async fn records(&self, connection: &str) -> Vec<Value> {
        let request = json!({ "dnsConnectionId": connection });
        let request = self.runner.hosting.world.org_request(request);
        let method = format!("{CONNECTIONS}/ListDnsRecords");
        let listed = self.runner.hosting.owner().call_ok(&method, request).await;
        listed["dnsRecords"].as_array().cloned().unwrap_or_default()
    }

    async fn published(&self, connection: &str) {
        eventually("the publication of the records", async || {
            let records = self.records(connection).await;
            let state = json!("DNS_RECORD_STATE_PUBLISHED");
            records.iter().all(|it| it["state"] == state).then_some(())
        })
        .await;
    }

    /// Waits for an attempt that failed; returns its error.
    async fn failed(&self, connection: &str) -> String {
        eventually("an attempt that fails", async || {
            let records = self.records(connection).await;
            let error = records.iter().map(|it| text(&it["lastError"])).find(|it| !it.is_empty());
            assert!(records.iter().all(|it| it["state"] != "DNS_RECORD_STATE_PUBLISHED"));
            error
        })
        .await
    }

    async fn removed(&self, connection: &str) {
        eventually("the removal of the records", async || {
            self.records(connection).await.is_empty().then_some(())
        })
        .await;
    }

    async fn destroy(&self) {
        let method = "project.v1.EnvironmentService/DestroyEnvironment";
        let request = json!({ "confirmName": "main" });
        let request = self.runner.hosting.request(&self.environment, request);
        self.runner.hosting.owner().call_ok(method, request).await;
        let lease = self.runner.lease_task().await;
        self.runner.finish_task(&lease, json!({})).await.unwrap();
    }

    async fn challenge(&self, method: &str, more: Value) -> Result<Value, String> {
        let request = json!({ "environmentId": self.environment, "hostname": NAME });
        self.runner.call(method, merge(request, more)).await
    }
}

/// Records become real, also after the DNS server was unreachable, and are removed with their environment.
/// Until then the connection is not deleted (PL-27).
#[tokio::test(flavor = "multi_thread")]
async fn records_are_published_and_removed_with_their_environment() {
    let mut named = Named::start().await;
    let scene = Scene::with_named(&named).await;
    let connection = scene.connect(by_rfc2136(&named)).await;
    named.stop();
    scene.desire(&connection, NAME, "A", "192.0.2.1").await;
    let error = scene.failed(&connection).await;
    assert!(error.contains("no connection to 127.0.0.1"), "{error}");
    named.run().await;
    scene.desire(&connection, NAME, "AAAA", "2001:db8::1").await;
    scene.published(&connection).await;
    assert_eq!(named.records(NAME, "A"), ["192.0.2.1"]);
    assert_eq!(named.records(NAME, "AAAA"), ["2001:db8::1"]);
    let marks = named.records(MARK, "TXT");
    assert_eq!(marks.len(), 2, "{marks:?}");
    assert!(marks.iter().all(|it| it.contains(&scene.environment)), "{marks:?}");
    let record = &scene.records(&connection).await[0];
    assert_eq!(record["attemptCount"], Value::Null, "{record}");
    assert_eq!(record["lastError"], Value::Null, "{record}");

    let hosting = &scene.runner.hosting;
    let delete = hosting.world.org_request(json!({ "dnsConnectionId": connection }));
    let method = format!("{CONNECTIONS}/DeleteDnsConnection");
    let refusal = hosting.owner().call(&method, delete.clone()).await.unwrap_err();
    assert_eq!(refusal.reason, "CONNECTION_IN_USE", "{refusal}");
    named.stop();
    scene.destroy().await;
    scene.failed(&connection).await;
    named.run().await;
    scene.removed(&connection).await;
    assert!(!named.zone().contains("main-hosted"), "{}", named.zone());
    hosting.owner().call_ok(&method, delete).await;
    scene.suite.finish().await;
}

/// The host name that an environment gets at its first start is published, and removed with the environment.
#[tokio::test(flavor = "multi_thread")]
async fn the_host_name_of_an_environment_is_published() {
    let named = Named::start().await;
    let scene = Scene::with_named(&named).await;
    let connection = scene.connect(by_rfc2136(&named)).await;
    let runner = &scene.runner;
    let update = json!({ "serverId": runner.server, "dnsConnectionId": connection,
        "updateMask": "dnsConnectionId" });
    let update = runner.hosting.world.org_request(update);
    let server = runner.hosting.owner().call_ok(&format!("{SERVERS}/UpdateServer"), update).await;
    runner.call("Heartbeat", json!({ "appsDomain": "apps.example.com" })).await.unwrap();
    runner.hosting.start_task("Deploy", &scene.environment, json!({})).await;
    let lease = runner.lease_task().await;
    assert_eq!(lease["hostname"], NAME);
    runner.finish_task(&lease, success_result()).await.unwrap();
    scene.published(&connection).await;
    let address = text(&server["server"]["address"]);
    let record_type = if address.parse::<std::net::IpAddr>().is_ok() { "A" } else { "CNAME" };
    let records = named.records(NAME, record_type);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].trim_end_matches('.'), address);

    scene.destroy().await;
    scene.removed(&connection).await;
    assert!(named.records(NAME, record_type).is_empty());
    assert!(named.records(MARK, "TXT").is_empty());
    scene.suite.finish().await;
}

/// A record that the suite did not make is neither changed nor removed, and no record is added to its name.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_others_are_kept() {
    let named = Named::start().await;
    let scene = Scene::with_named(&named).await;
    let connection = scene.connect(by_rfc2136(&named)).await;
    named.update(&format!("add {NAME} 60 A 192.0.2.9"));
    scene.desire(&connection, NAME, "A", "192.0.2.1").await;
    let error = scene.failed(&connection).await;
    assert!(error.contains("was not made for this environment"), "{error}");
    assert_eq!(named.records(NAME, "A"), ["192.0.2.9"]);
    assert!(named.records(MARK, "TXT").is_empty());
    // After its removal the worker publishes the record.
    named.update(&format!("delete {NAME} A"));
    scene.published(&connection).await;
    assert_eq!(named.records(NAME, "A"), ["192.0.2.1"]);
    // Without its mark it is no longer a record of the suite.
    named.update(&format!("delete {MARK} TXT"));
    scene.destroy().await;
    scene.removed(&connection).await;
    assert_eq!(named.records(NAME, "A"), ["192.0.2.1"]);
    scene.suite.finish().await;
}

/// BIND refuses one of two records: neither is there, record nor mark.
#[tokio::test(flavor = "multi_thread")]
async fn bind_has_both_records_or_none() {
    let named = Named::start().await;
    let scene = Scene::with_named(&named).await;
    let server = json!({
        "host": "127.0.0.1", "port": named.port(), "keyName": "text-only",
        "algorithm": "TSIG_ALGORITHM_HMAC_SHA512",
    });
    let text_only = merge(by_rfc2136(&named), json!({ "rfc2136": server }));
    let text_only = scene.connect(text_only).await;
    scene.desire(&text_only, NAME, "A", "192.0.2.1").await;
    let error = scene.failed(&text_only).await;
    assert!(error.contains("allows the key"), "{error}");
    assert!(!named.zone().contains("main-hosted"), "{}", named.zone());
    // BIND would ignore a CNAME beside another record, and store its mark.
    let other = "other.apps.example.com";
    named.update(&format!("add {other} 60 MX 10 mail.example.com."));
    let connection = scene.connect(by_rfc2136(&named)).await;
    scene.desire(&connection, other, "CNAME", "eu-1.example.com").await;
    let error = scene.failed(&connection).await;
    assert!(error.contains("has other records"), "{error}");
    assert!(named.records(&format!("_tenantry.{other}"), "TXT").is_empty());
    assert_eq!(named.records(other, "MX"), ["10 mail.example.com."]);
    scene.suite.finish().await;
}

/// PowerDNS: records are published, replaced and removed; of two records it has both or none.
#[tokio::test(flavor = "multi_thread")]
async fn powerdns_has_both_records_or_none() {
    let powerdns = PowerDnsServer::start().await;
    let scene = Scene::new(Options::default(), vec![powerdns.exception()]).await;
    let fields = json!({
        "name": "Apps", "zone": "apps.example.com", "secret": PowerDnsServer::API_KEY,
        "powerdns": { "apiUrl": powerdns.url() },
    });
    let connection = scene.connect(fields).await;
    let other = "other.apps.example.com";
    powerdns.replace(other, "MX", "10 mail.example.com.").await;
    scene.desire(&connection, other, "CNAME", "eu-1.example.com").await;
    let error = scene.failed(&connection).await;
    assert!(error.contains("Conflicts"), "{error}");
    assert!(powerdns.records(&format!("_tenantry.{other}"), "TXT").await.is_empty());
    assert_eq!(powerdns.records(other, "MX").await, ["10 mail.example.com."]);
    powerdns.replace("foreign.apps.example.com", "TXT", "\"v=spf1 -all\"").await;
    scene.desire(&connection, "foreign.apps.example.com", "A", "192.0.2.1").await;

    scene.desire(&connection, NAME, "CNAME", "eu-1.example.com").await;
    eventually("the publication", async || {
        let values = powerdns.records(NAME, "CNAME").await;
        (values == ["eu-1.example.com."]).then_some(())
    })
    .await;
    assert_eq!(powerdns.records(MARK, "TXT").await.len(), 1);
    assert!(powerdns.records("foreign.apps.example.com", "A").await.is_empty());
    scene.destroy().await;
    scene.removed(&connection).await;
    let names = powerdns.names().await;
    assert!(!names.iter().any(|it| it.contains("main-hosted")), "{names:?}");
    assert_eq!(powerdns.records("foreign.apps.example.com", "TXT").await.len(), 1);
    scene.suite.finish().await;
}

/// Cloudflare: of two records it has both or none; records of others are kept.
#[tokio::test(flavor = "multi_thread")]
async fn cloudflare_has_both_records_or_none() {
    let cloudflare = Cloudflare::start().await;
    let options = Options { cloudflare_url: Some(cloudflare.url()), ..Options::default() };
    let scene = Scene::new(options, vec![]).await;
    let fields = json!({
        "name": "Apps", "zone": "apps.example.com", "secret": Cloudflare::TOKEN, "cloudflare": {},
    });
    let connection = scene.connect(fields).await;
    cloudflare.add("foreign.apps.example.com", "TXT", "\"v=spf1 -all\"");
    cloudflare.refuse("A");
    scene.desire(&connection, NAME, "A", "192.0.2.1").await;
    let error = scene.failed(&connection).await;
    assert!(error.contains("must be a valid IPv4 address"), "{error}");
    assert_eq!(cloudflare.records().len(), 1);
    scene.desire(&connection, "foreign.apps.example.com", "CNAME", "eu-1.example.com").await;
    scene.desire(&connection, NAME, "AAAA", "2001:db8::1").await;
    eventually("the publication", async || (cloudflare.records().len() == 3).then_some(())).await;
    scene.destroy().await;
    scene.removed(&connection).await;
    let left = ("foreign.apps.example.com".to_owned(), "\"v=spf1 -all\"".to_owned());
    assert_eq!(cloudflare.records(), [left]);
    scene.suite.finish().await;
}

/// A runner publishes DNS-01 challenges for the host names of its own environments, and removes them; a
/// challenge that is left expires after an hour.
#[tokio::test(flavor = "multi_thread")]
async fn runners_publish_challenges_for_their_own_host_names() {
    let mut named = Named::start().await;
    let scene = Scene::with_named(&named).await;
    let connection = scene.connect(by_rfc2136(&named)).await;
    let value = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";
    let set = json!({ "value": value });
    let unknown = scene.challenge("SetDnsChallenge", set.clone()).await.unwrap_err();
    assert_eq!(unknown, "NOT_FOUND", "the environment has no such host name");
    scene.desire(&connection, NAME, "A", "192.0.2.1").await;
    scene.published(&connection).await;
    let challenge = format!("_acme-challenge.{NAME}");
    scene.challenge("SetDnsChallenge", set.clone()).await.unwrap();
    assert_eq!(named.records(&challenge, "TXT"), [format!("\"{value}\"")]);
    let second = "AoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";
    scene.challenge("SetDnsChallenge", json!({ "value": second })).await.unwrap();
    assert_eq!(named.records(&challenge, "TXT"), [format!("\"{second}\"")]);
    scene.challenge("ClearDnsChallenge", json!({})).await.unwrap();
    scene.challenge("ClearDnsChallenge", json!({})).await.unwrap();
    assert!(!named.zone().contains("_acme-challenge"), "{}", named.zone());
    assert_eq!(scene.records(&connection).await.len(), 1);

    for (more, reason) in [
        (json!({ "value": "short" }), "INVALID_FIELD"),
        (json!({ "value": value, "hostname": "other.apps.example.com" }), "NOT_FOUND"),
        (json!({ "value": value, "environmentId": chassis::id::new() }), "NOT_FOUND"),
    ] {
        let refused = scene.challenge("SetDnsChallenge", more).await.unwrap_err();
        assert_eq!(refused, reason);
    }
    // The runner of another server.
    let hosting = &scene.runner.hosting;
    let other = hosting.world.org_request(json!({ "name": "eu-2", "address": "eu-2.example.com" }));
    let other = hosting.owner().call_ok(&format!("{SERVERS}/ConnectServer"), other).await;
    let other = scene.suite.client.with_token(&text(&other["agentToken"]));
    let request = json!({
        "runner": "x", "environmentId": scene.environment, "hostname": NAME, "value": value,
    });
    let method = "project.v1.RunnerService/SetDnsChallenge";
    assert_eq!(other.call_json(method, request).await.unwrap_err().reason, "NOT_FOUND");

    // A record of somebody else at the name of the challenge.
    named.update(&format!("add {challenge} 60 TXT foreign"));
    let foreign = scene.challenge("SetDnsChallenge", set.clone()).await.unwrap_err();
    assert_eq!(foreign, "DNS_RECORD_FOREIGN");
    scene.challenge("ClearDnsChallenge", json!({})).await.unwrap();
    assert_eq!(named.records(&challenge, "TXT"), ["\"foreign\""]);
    named.update(&format!("delete {challenge} TXT"));

    named.stop();
    let dead = scene.challenge("SetDnsChallenge", set.clone()).await.unwrap_err();
    assert_eq!(dead, "DNS_UPDATE_FAILED");
    named.run().await;
    scene.challenge("SetDnsChallenge", set).await.unwrap();
    scene.suite.clock.advance(chassis::clock::Duration::hours(2));
    eventually("the removal of the expired challenge", async || {
        named.records(&challenge, "TXT").is_empty().then_some(())
    })
    .await;
    scene.suite.finish().await;
}
