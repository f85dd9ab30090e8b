//! Custom domains: proofs in a real DNS server, domains that two organizations have, checks in the
//! background, and names that are refused.

use chassis::clock::Duration;
use serde_json::{Value, json};
use tenantry::client::CallError;
use testkit::{Named, Options, Person, Suite, eventually};

use crate::support::{
    audit_client::AuditClient,
    fake_runner::{FakeRunner, success_result},
    world::{create_project, merge, text},
};

pub(crate) const DOMAINS: &str = "project.v1.DomainService";

/// A name of the zone of [`Named`].
const SHOP: &str = "shop.apps.example.com";

/// An environment, and the account of its owner.
struct Tenant {
    owner: Person,
    org: String,
    project: String,
    environment: String,
}

impl Tenant {
    fn request(&self, more: Value) -> Value {
        merge(json!({ "orgId": self.org, "projectId": self.project }), more)
    }

    async fn try_create(&self, hostname: &str) -> Result<Value, CallError> {
        let create = json!({ "environmentId": self.environment, "hostname": hostname });
        let method = format!("{DOMAINS}/CreateDomain");
        let created = self.owner.call(&method, self.request(create)).await?;
        Ok(created["domain"].clone())
    }

    async fn create(&self, hostname: &str) -> Value {
        self.try_create(hostname).await.unwrap()
    }

    async fn call(&self, verb: &str, domain: &Value) -> Result<Value, CallError> {
        let request = self.request(json!({ "domainId": domain["id"] }));
        let response = self.owner.call(&format!("{DOMAINS}/{verb}Domain"), request).await;
        response.map(|it| it["domain"].clone())
    }

    async fn get(&self, domain: &Value) -> Value {
        self.call("Get", domain).await.unwrap()
    }

    async fn verify(&self, domain: &Value) -> Value {
        self.call("Verify", domain).await.unwrap()
    }

    /// The refusal of a verification, which has this reason.
    async fn refusal(&self, domain: &Value, reason: &str) -> String {
        let error = self.call("Verify", domain).await.unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
        error.message
    }
}

/// Two organizations: one has an environment on a server that it connected, the other one an environment on
/// the shared server.
struct Scene {
    suite: Suite,
    named: Named,
    fake: FakeRunner,
    connected: Tenant,
    shared: Tenant,
}

impl Scene {
    async fn new() -> Self {
        let named = Named::start().await;
        let webhook_dns = Some(([127, 0, 0, 1], named.port()).into());
        let suite = Suite::start_with(Options { webhook_dns, ..Options::default() }).await;
        let fake = FakeRunner::new(&suite).await;
        fake.call("Heartbeat", json!({ "appsDomain": "apps.test" })).await.unwrap();
        let world = &fake.hosting.world;
        let connected = Tenant {
            owner: world.owner.clone(),
            org: world.org.clone(),
            project: world.project.clone(),
            environment: fake.environment("main").await,
        };
        let owner = suite.person("other@example.org").await;
        let org = owner.create_organization("other").await.unwrap();
        let project = create_project(&owner, &org).await;
        let mut shared = Tenant { owner, org, project, environment: String::new() };
        let create = shared.request(json!({ "name": "main" }));
        let method = "project.v1.EnvironmentService/CreateEnvironment";
        let created = shared.owner.call_ok(method, create).await;
        shared.environment = text(&created["environment"]["id"]);
        // As its first start there stores it; the apps domain of the shared server is that of its operator.
        let assign = "update project.environment set hostname = 'main-other.apps.test',
                          server_id = (select id from project.server where org_id is null)
                      where id = $1::uuid";
        sqlx::query(assign).bind(&shared.environment).execute(&suite.pool).await.unwrap();
        let scene = Self { suite, named, fake, connected, shared };
        scene.set_address("192.0.2.1").await;
        scene
    }

    /// Publishes the TXT record of a domain.
    fn prove(&self, domain: &Value) {
        let (name, value) = (text(&domain["txtName"]), text(&domain["txtValue"]));
        self.named.update(&format!("add {name} 60 TXT \"{value}\""));
    }

    /// Removes the TXT record of a domain.
    fn disprove(&self, domain: &Value) {
        let (name, value) = (text(&domain["txtName"]), text(&domain["txtValue"]));
        self.named.update(&format!("delete {name} TXT \"{value}\""));
    }

    /// Sets the address of the connected server.
    async fn set_address(&self, address: &str) {
        let update = "update project.server set address = $1 where id = $2::uuid";
        let update = sqlx::query(update).bind(address).bind(&self.fake.server);
        update.execute(&self.suite.pool).await.unwrap();
    }

    async fn finish(self) {
        self.suite.finish().await;
    }
}

/// PL-29: a domain without a proof is PENDING and not in the list of its server; with one it is, until it is
/// removed. The refusal says what was found.
#[tokio::test(flavor = "multi_thread")]
async fn a_domain_is_served_after_its_proof() {
    let mut scene = Scene::new().await;
    let tenant = &scene.connected;
    let domain = tenant.create("Shop.Apps.Example.COM").await;
    assert_eq!(domain["hostname"], SHOP);
    assert_eq!(domain["state"], "DOMAIN_STATE_PENDING");
    assert_eq!(domain["txtName"], format!("_tenantry-challenge.{SHOP}"));
    assert_eq!(text(&domain["txtValue"]).len(), 32);
    assert_eq!(domain["serverAddress"], "192.0.2.1");
    let heartbeat = async |version: &Value| {
        scene.fake.call("Heartbeat", json!({ "domainsVersion": version })).await.unwrap()
    };
    let empty = heartbeat(&json!("")).await;
    assert_eq!(empty["environmentDomains"], Value::Null, "{empty}");

    let message = tenant.refusal(&domain, "DOMAIN_NOT_VERIFIED").await;
    let absent = format!("_tenantry-challenge.{SHOP} has no TXT record");
    assert!(message.contains(&absent), "{message}");
    scene.named.update(&format!("add _tenantry-challenge.{SHOP} 60 TXT \"another\""));
    let message = tenant.refusal(&domain, "DOMAIN_NOT_VERIFIED").await;
    assert!(message.contains("has other TXT records: \"another\""), "{message}");
    let checked = tenant.get(&domain).await;
    assert!(text(&checked["checkError"]).contains("\"another\""), "{checked}");
    assert_eq!(checked["state"], "DOMAIN_STATE_PENDING");

    scene.prove(&domain);
    scene.named.stop();
    let message = tenant.refusal(&domain, "DOMAIN_NOT_VERIFIED").await;
    assert!(message.contains("query for") && message.contains("failed"), "{message}");
    scene.named.run().await;
    let tenant = &scene.connected;
    let verified = tenant.verify(&domain).await;
    assert_eq!(verified["state"], "DOMAIN_STATE_VERIFIED");
    assert_eq!(verified["verifiedBy"], "DOMAIN_PROOF_TXT");
    assert_eq!(verified["checkError"], Value::Null, "{verified}");
    assert_eq!(tenant.verify(&domain).await["verifyTime"], verified["verifyTime"]);
    let heartbeat = async |version: &Value| {
        scene.fake.call("Heartbeat", json!({ "domainsVersion": version })).await.unwrap()
    };
    let served = heartbeat(&empty["domainsVersion"]).await;
    let expected = json!([{ "environmentId": tenant.environment, "hostnames": [SHOP] }]);
    assert_eq!(served["environmentDomains"], expected);
    let unchanged = heartbeat(&served["domainsVersion"]).await;
    assert_eq!(unchanged["domainsVersion"], served["domainsVersion"]);
    assert_eq!(unchanged["environmentDomains"], Value::Null, "the runner has this version");

    tenant.call("Delete", &domain).await.unwrap();
    assert_eq!(tenant.call("Get", &domain).await.unwrap_err().reason, "NOT_FOUND");
    let removed = heartbeat(&served["domainsVersion"]).await;
    assert_eq!(removed["domainsVersion"], empty["domainsVersion"]);
    assert_eq!(removed["environmentDomains"], Value::Null, "{removed}");
    scene.suite.wait_for_log().await;
    for action in ["domain.created", "domain.verified", "domain.deleted"] {
        assert_eq!(scene.suite.count_entries(action).await, 1, "{action}");
    }
    scene.finish().await;
}

/// PL-29: two environments may have the same domain; the one with the proof serves it. While that stands, the
/// other one is refused, without a hint who it is.
#[tokio::test(flavor = "multi_thread")]
async fn two_environments_claim_a_domain() {
    let scene = Scene::new().await;
    let (first, second) = (&scene.connected, &scene.shared);
    let (one, two) = (first.create(SHOP).await, second.create(SHOP).await);
    assert_ne!(one["txtValue"], two["txtValue"]);
    scene.prove(&one);
    first.verify(&one).await;
    second.refusal(&two, "DOMAIN_NOT_VERIFIED").await;
    scene.prove(&two);
    let message = second.refusal(&two, "DOMAIN_TAKEN").await;
    for secret in [&first.org, &first.project, &first.environment, "acme", "Hosted"] {
        assert!(!message.contains(secret), "{message}");
    }
    scene.disprove(&one);
    assert_eq!(second.verify(&two).await["state"], "DOMAIN_STATE_VERIFIED");
    let lost = first.get(&one).await;
    assert_eq!(lost["state"], "DOMAIN_STATE_PENDING");
    assert!(text(&lost["checkError"]).contains("another environment proved the domain"), "{lost}");
    // The log of an organization does not name accounts of another one.
    scene.suite.wait_for_log().await;
    let log = AuditClient::new(&scene.suite, &first.owner, &first.org).await;
    let lost = log.entries(json!({ "action": "domain.unverified" })).await;
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(!format!("{lost:?}").contains(&second.owner.user_id), "{lost:?}");

    // Both prove it, and verify at the same time.
    scene.disprove(&two);
    let one_again = first.create(&format!("www.{SHOP}")).await;
    let two_again = second.create(&format!("www.{SHOP}")).await;
    scene.prove(&one_again);
    scene.prove(&two_again);
    let (one, two) =
        tokio::join!(first.call("Verify", &one_again), second.call("Verify", &two_again));
    let refused: Vec<_> = [one, two].into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].reason, "DOMAIN_TAKEN");
    scene.finish().await;
}

/// PL-29: records that lead to the environment are weaker proofs than the TXT record, which names it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stronger_proof_takes_a_domain_over() {
    let scene = Scene::new().await;
    let (connected, shared) = (&scene.connected, &scene.shared);
    scene.named.update(&format!("add {SHOP} 60 A 192.0.2.1"));
    scene.named.update(&format!("add {SHOP} 60 A 192.0.2.7"));
    let one = connected.create(SHOP).await;
    let message = connected.refusal(&one, "DOMAIN_NOT_VERIFIED").await;
    assert!(
        message.contains("192.0.2.7") && message.contains("the server has 192.0.2.1"),
        "{message}"
    );
    scene.named.update(&format!("delete {SHOP} A 192.0.2.7"));
    assert_eq!(connected.verify(&one).await["verifiedBy"], "DOMAIN_PROOF_ADDRESS");

    let two = shared.create(SHOP).await;
    assert_eq!(two["cnameTarget"], "main-other.apps.test");
    assert_eq!(
        two["serverAddress"],
        Value::Null,
        "every tenant has the address of a shared server"
    );
    shared.refusal(&two, "DOMAIN_NOT_VERIFIED").await;
    scene.prove(&two);
    assert_eq!(shared.verify(&two).await["verifiedBy"], "DOMAIN_PROOF_TXT");
    assert_eq!(connected.get(&one).await["state"], "DOMAIN_STATE_PENDING");
    connected.refusal(&one, "DOMAIN_TAKEN").await;

    // Through another name, to the host name of the environment.
    let www = "www.apps.example.com";
    scene.named.update(&format!("add {www} 60 CNAME edge.apps.example.com."));
    scene.named.update("add edge.apps.example.com 60 CNAME MAIN-other.apps.test.");
    let three = shared.create(www).await;
    assert_eq!(shared.verify(&three).await["verifiedBy"], "DOMAIN_PROOF_CNAME");
    scene.named.update("delete edge.apps.example.com CNAME");
    scene.named.update("add edge.apps.example.com 60 A 192.0.2.1");
    let message = shared.refusal(&three, "DOMAIN_NOT_VERIFIED").await;
    let found = "leads to edge.apps.example.com, not to main-other.apps.test";
    assert!(message.contains(found), "{message}");
    assert_eq!(shared.get(&three).await["state"], "DOMAIN_STATE_VERIFIED", "for seven days");
    scene.finish().await;
}

/// PL-29: a domain whose proof is absent for seven days becomes PENDING; failed queries do not count.
#[tokio::test(flavor = "multi_thread")]
async fn proofs_are_checked_again_every_day() {
    let mut scene = Scene::new().await;
    let domain = scene.connected.create(SHOP).await;
    scene.prove(&domain);
    scene.connected.verify(&domain).await;
    let suite = &scene.suite;
    let count = async |condition: &str| {
        let sql = format!("select count(*) from project.domain where {condition}");
        suite.count(sqlx::AssertSqlSafe(sql)).await
    };
    let until = async |condition: &str| {
        eventually(condition, async || (count(condition).await == 1).then_some(())).await;
    };
    scene.disprove(&domain);
    suite.clock.advance(Duration::days(1));
    until("state = 'verified' and missing_since is not null").await;
    scene.prove(&domain);
    suite.clock.advance(Duration::days(1));
    until("state = 'verified' and missing_since is null and check_error = ''").await;
    scene.disprove(&domain);
    suite.clock.advance(Duration::days(1));
    until("state = 'verified' and check_error like '%has no TXT record%'").await;
    scene.named.stop();
    suite.clock.advance(Duration::days(8));
    until("state = 'verified' and check_error like '%failed%'").await;
    scene.named.run().await;
    suite.clock.advance(Duration::hours(1));
    until("state = 'pending' and check_error like '%has no TXT record%'").await;
    suite.wait_for_log().await;
    assert_eq!(suite.count_entries("domain.unverified").await, 1);
    scene.finish().await;
}

/// PL-29: only host names of others than the suite are domains, and their number is limited.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_and_reserved_names_are_refused() {
    let scene = Scene::new().await;
    let tenant = &scene.connected;
    for invalid in [
        "*.example.com",
        "10.0.0.1",
        "[::1]",
        "localhost",
        "shop.example.com:443",
        "shop.example.com/path",
        "shop.example.com.",
        "{http.request.host}.example.com",
        "a b.example.com",
        "a_b.example.com",
        "-a.example.com",
        "apps.test",
        "x.apps.test",
        "a.b.APPS.test",
    ] {
        let error = tenant.try_create(invalid).await.unwrap_err();
        assert_eq!(error.reason, "INVALID_FIELD", "{invalid}: {error}");
    }
    // A runner names any apps domain, so it reserves none for other organizations.
    scene.shared.create("x.apps.test").await;
    assert_eq!(tenant.create("bücher.example").await["hostname"], "xn--bcher-kva.example");
    let again = tenant.try_create("XN--bcher-kva.example").await.unwrap_err();
    assert!(again.message.contains("must not be a domain of the environment already"), "{again}");
    let fill = "insert into project.domain (id, org_id, project_id, environment_id, hostname, state,
                    txt_value, creator_id, created_at)
                select gen_random_uuid(), org_id, project_id, environment_id, n || '.example.com', state,
                    txt_value, creator_id, created_at
                from project.domain, generate_series(1, 99) n where hostname = 'xn--bcher-kva.example'";
    sqlx::query(fill).execute(&scene.suite.pool).await.unwrap();
    let error = tenant.try_create("*.example.com").await.unwrap_err();
    let both = ["hostname must be", "environment_id must have fewer than 100 domains"];
    assert!(both.iter().all(|it| error.message.contains(it)), "{error}");
    scene.finish().await;
}

/// PL-29: domains are settings of their environment. A copy does not get them, and they end with it.
#[tokio::test(flavor = "multi_thread")]
async fn domains_belong_to_their_environment() {
    let scene = Scene::new().await;
    let (fake, tenant) = (&scene.fake, &scene.connected);
    let domain = tenant.create(SHOP).await;
    scene.prove(&domain);
    tenant.verify(&domain).await;
    let world = &fake.hosting.world;
    world.grant(json!({ "userId": world.developer.user_id }), "DEVELOPER").await;
    let id = tenant.request(json!({ "domainId": domain["id"] }));
    let get = format!("{DOMAINS}/GetDomain");
    assert_eq!(world.developer.call_ok(&get, id.clone()).await["domain"]["hostname"], SHOP);
    for verb in ["Verify", "Delete"] {
        let method = format!("{DOMAINS}/{verb}Domain");
        assert_eq!(world.developer.call_err(&method, id.clone()).await, "MISSING_PERMISSION");
        let foreign = scene.shared.request(json!({ "domainId": domain["id"] }));
        assert_eq!(scene.shared.owner.call_err(&method, foreign).await, "NOT_FOUND", "{verb}");
    }

    fake.hosting.start_task("Deploy", &tenant.environment, json!({})).await;
    fake.finish_task(&fake.lease_task().await, success_result()).await.unwrap();
    fake.hosting.start_task("Clone", &tenant.environment, json!({ "name": "copy" })).await;
    fake.finish_task(&fake.lease_task().await, success_result()).await.unwrap();
    let domains = "select count(*) from project.domain";
    assert_eq!(scene.suite.count(domains).await, 1, "a clone takes no domain");
    fake.hosting.start_task("Destroy", &tenant.environment, json!({ "confirmName": "main" })).await;
    fake.finish_task(&fake.lease_task().await, json!({})).await.unwrap();
    assert_eq!(scene.suite.count(domains).await, 0);
    // Another environment can have it, although the record of the first one is still there.
    let other = scene.shared.create(SHOP).await;
    scene.prove(&other);
    scene.shared.verify(&other).await;
    scene.finish().await;
}
