//! Custom domains, served by a real runner and Caddy, with their proofs in a real DNS server.

use serde_json::{Value, json};
use testkit::{Named, Options, Suite, eventually};

use crate::{
    project::domain_service::DOMAINS,
    support::{
        web_site::{RunnerAccount, WebSite},
        world::text,
    },
};

const SHOP: &str = "shop.apps.example.com";

/// A site with an environment, and a DNS server.
struct Scene {
    suite: Suite,
    named: Named,
    site: WebSite,
    environment: String,
}

impl Scene {
    async fn new(account: RunnerAccount) -> Self {
        let named = Named::start().await;
        let webhook_dns = Some(([127, 0, 0, 1], named.port()).into());
        let suite = Suite::start_with(Options { webhook_dns, ..Options::default() }).await;
        let site = WebSite::new(&suite, account).await;
        let environment = site.environment("main").await;
        site.run("Deploy", &environment, json!({})).await;
        Self { suite, named, site, environment }
    }

    async fn create(&self, environment: &str, hostname: &str) -> Value {
        let create = json!({ "hostname": hostname });
        let create = self.site.hosting.request(environment, create);
        let method = format!("{DOMAINS}/CreateDomain");
        self.site.hosting.owner().call_ok(&method, create).await["domain"].clone()
    }

    async fn call(&self, verb: &str, domain: &Value) -> Result<Value, String> {
        let request = json!({ "domainId": domain["id"] });
        let request = self.site.hosting.world.project_request(request);
        let method = format!("{DOMAINS}/{verb}Domain");
        let response = self.site.hosting.owner().call(&method, request).await;
        response.map_err(|it| it.reason)
    }

    fn prove(&self, domain: &Value) {
        let (name, value) = (text(&domain["txtName"]), text(&domain["txtValue"]));
        self.named.update(&format!("add {name} 60 TXT \"{value}\""));
    }

    fn url(&self, path: &str) -> String {
        format!("https://{SHOP}:{}{path}", self.site.https.number())
    }

    /// Status and body of a page of the domain; `None` if the TLS handshake fails.
    async fn page(&self) -> Option<(u16, String)> {
        let visitor = self.site.visitor(&[SHOP]);
        let response = visitor.get(self.url("/")).send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    /// Waits until the domain has a page with a status that begins with `body`.
    async fn served(&self, status: u16, body: &str) {
        let event = format!("{status} {body}");
        eventually(&event, async || {
            let page = self.page().await?;
            (page.0 == status && page.1.contains(body)).then_some(())
        })
        .await;
    }

    /// Status of requests for the domain that arrive by http, and by TLS for the host name of the
    /// environment; `None` if one fails.
    async fn statuses(&self) -> Option<[u16; 2]> {
        let visitor = self.site.visitor(&["main-hosted", SHOP]);
        let http = format!("http://{SHOP}:{}", self.site.http.number());
        let http = visitor.get(http).send().await.ok()?;
        let https = visitor.get(self.site.url_of("main-hosted")).header("Host", SHOP);
        Some([http.status(), https.send().await.ok()?.status()].map(|it| it.as_u16()))
    }

    /// Waits until requests for the domain have these statuses. Without networks of environments, Caddy drops
    /// connections when routes change.
    async fn has_statuses(&self, expected: [u16; 2]) {
        let event = format!("the statuses {expected:?}");
        eventually(&event, async || (self.statuses().await? == expected).then_some(())).await;
    }

    /// Record of the program in the files of the runner.
    fn process(&self) -> Value {
        let record = self.site.data_dir().join(&self.environment).join("record.json");
        let record: Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
        record["process"].clone()
    }
}

/// PL-29: a domain without a proof routes nothing. With one it is routed to the running program, and after
/// its removal no more; the program is never restarted.
async fn a_domain_is_routed_while_it_is_verified(account: RunnerAccount) {
    let mut scene = Scene::new(account).await;
    let program = scene.process();
    assert!(program["init"]["pid"].is_number(), "{program}");
    let domain = scene.create(&scene.environment, SHOP).await;
    assert_eq!(scene.call("Verify", &domain).await.unwrap_err(), "DOMAIN_NOT_VERIFIED");
    scene.has_statuses([404, 404]).await;
    assert_eq!(scene.page().await, None, "no certificate without a proof");

    scene.prove(&domain);
    scene.call("Verify", &domain).await.unwrap();
    scene.served(200, "one\nGET / HTTP/1.1").await;
    scene.has_statuses([308, 200]).await;
    let visitor = scene.site.visitor(&["main-hosted"]);
    let url = scene.site.url_of("main-hosted");
    assert_eq!(visitor.get(&url).send().await.unwrap().status(), 200, "also by its own name");
    assert_eq!(scene.site.url(&scene.environment).await, url);

    // Another environment cannot take it, and its deletion does not matter.
    let other = scene.site.environment("other").await;
    scene.site.run("Deploy", &other, json!({})).await;
    let second = scene.create(&other, SHOP).await;
    assert_eq!(scene.call("Verify", &second).await.unwrap_err(), "DOMAIN_NOT_VERIFIED");
    scene.call("Delete", &second).await.unwrap();

    // The next runner has the list before its first heartbeat.
    scene.site.kill_runner();
    scene.served(200, "one\n").await;
    scene.site.start_runner();
    scene.served(200, "one\n").await;
    assert_eq!(scene.process(), program, "not restarted");
    scene.site.run("Pause", &scene.environment, json!({})).await;
    scene.served(503, "This site is paused").await;
    scene.site.run("Resume", &scene.environment, json!({})).await;
    scene.served(200, "one\n").await;

    scene.call("Delete", &domain).await.unwrap();
    scene.has_statuses([404, 404]).await;
    assert_eq!(visitor.get(&url).send().await.unwrap().status(), 200);
    assert_eq!(scene.process(), program, "not restarted");
    scene.site.finish(scene.suite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_is_routed_while_it_is_verified_with_networks() {
    a_domain_is_routed_while_it_is_verified(RunnerAccount::Own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_is_routed_while_it_is_verified_without_privileges() {
    a_domain_is_routed_while_it_is_verified(RunnerAccount::Unprivileged).await;
}
