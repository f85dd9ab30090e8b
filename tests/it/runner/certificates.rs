//! Certificates by DNS-01: a real ACME authority (Pebble) checks records of a real DNS server (BIND), and
//! Caddy serves the certificates.

use std::{os::unix::fs::MetadataExt, time::Duration};

use reqwest::{Client, tls::TlsInfo};
use serde_json::json;
use testkit::{Named, Options, Pebble, Suite, eventually};

use crate::{
    project::{
        dns_connection_service::{CONNECTIONS, by_rfc2136},
        domain_service::DOMAINS,
    },
    support::{
        hosting::SERVERS,
        web_site::{Proxy, RunnerAccount, WebSite},
        world::text,
    },
};

const DOMAIN: &str = "apps.example.com";
const NAME: &str = "main-hosted.apps.example.com";

/// A server below the apps domain whose runner requests certificates by DNS-01.
struct Scene {
    suite: Suite,
    named: Named,
    pebble: Pebble,
    site: WebSite,
    environment: String,
}

impl Scene {
    /// `validity_s`: lifetime of certificates in seconds.
    async fn new(account: RunnerAccount, validity_s: u32) -> Self {
        Self::with_apps_domain(DOMAIN, account, validity_s).await
    }

    async fn with_apps_domain(
        apps_domain: &'static str,
        account: RunnerAccount,
        validity_s: u32,
    ) -> Self {
        let named = Named::start().await;
        let mut proxy = Proxy::new(apps_domain);
        let (http, https) = (proxy.http.number(), proxy.https.number());
        let pebble = Pebble::start(named.port(), http, https, validity_s).await;
        let options = Options {
            connection_exceptions: vec![named.exception()],
            webhook_dns: Some(([127, 0, 0, 1], named.port()).into()),
            ..Options::default()
        };
        let suite = Suite::start_with(options).await;
        proxy.arguments = vec![
            "--tls=acme-dns".to_owned(),
            "--acme-email=ops@example.com".to_owned(),
            format!("--acme-directory={}", pebble.directory()),
            format!("--acme-ca={}", pebble.ca_file()),
        ];
        let site = WebSite::with_proxy(&suite, account, proxy).await;
        let environment = site.environment("main").await;
        Self { suite, named, pebble, site, environment }
    }

    /// Gives the server a connection to the DNS server.
    async fn connect_dns(&self) {
        let (world, owner) = (&self.site.hosting.world, self.site.hosting.owner());
        let create = world.org_request(by_rfc2136(&self.named));
        let method = format!("{CONNECTIONS}/CreateDnsConnection");
        let created = owner.call_ok(&method, create).await;
        let update = world.org_request(json!({
            "serverId": self.site.server, "updateMask": "dnsConnectionId",
            "dnsConnectionId": text(&created["dnsConnection"]["id"]),
        }));
        owner.call_ok(&format!("{SERVERS}/UpdateServer"), update).await;
    }

    /// A client that trusts the certificates of Pebble only.
    async fn visitor(&self) -> Client {
        let root = self.pebble.root().await.expect("Pebble runs");
        Client::builder()
            .tls_certs_only([root])
            .tls_info(true)
            .no_proxy()
            .timeout(Duration::from_secs(20))
            .pool_max_idle_per_host(0)
            .resolve(NAME, ([127, 0, 0, 1], 0).into())
            .build()
            .unwrap()
    }

    /// Certificate with which the environment is served; `None` if it is not valid.
    async fn served_certificate(&self, visitor: &Client) -> Option<Vec<u8>> {
        let response = visitor.get(self.site.url_of("main-hosted")).send().await.ok()?;
        let certificate = response.extensions().get::<TlsInfo>()?.peer_certificate()?.to_vec();
        response.text().await.ok()?.starts_with("one\n").then_some(certificate)
    }

    fn certificate_file(&self) -> std::path::PathBuf {
        self.site.data_dir().join("certificates").join(format!("{NAME}.pem"))
    }
}

/// A name that is published by RFC 2136 is served with a certificate by DNS-01. It is kept over restarts, and
/// record, challenge and certificate are gone with the environment.
async fn a_host_name_has_a_certificate(account: RunnerAccount) {
    let mut scene = Scene::new(account, 90 * 86_400).await;
    scene.connect_dns().await;
    scene.site.run("Deploy", &scene.environment, json!({})).await;
    let visitor = scene.visitor().await;
    let certificate =
        eventually("a certificate", async || scene.served_certificate(&visitor).await).await;
    assert_eq!(scene.site.url(&scene.environment).await, scene.site.url_of("main-hosted"));
    assert_eq!(scene.named.records(NAME, "CNAME"), ["eu-1.example.com."]);
    eventually("the removal of the challenge", async || {
        (!scene.named.zone().contains("_acme-challenge")).then_some(())
    })
    .await;
    let file = std::fs::metadata(scene.certificate_file()).unwrap();
    assert_eq!(file.mode() & 0o777, 0o600);

    // More than one on a machine that is too slow for the first order.
    let issued = scene.pebble.issued_count();
    scene.site.kill_runner();
    scene.site.start_runner();
    scene.site.run("Restart", &scene.environment, json!({})).await;
    let same = eventually("the page", async || scene.served_certificate(&visitor).await).await;
    assert_eq!((same, scene.pebble.issued_count()), (certificate, issued), "not requested again");

    let confirm = json!({ "confirmName": "main" });
    scene.site.run("Destroy", &scene.environment, confirm).await;
    eventually("the end of records and certificate", async || {
        let is_served = visitor.get(scene.site.url_of("main-hosted")).send().await.is_ok();
        let is_named = scene.named.zone().contains("main-hosted");
        let is_stored = scene.certificate_file().exists();
        (!is_served && !is_named && !is_stored).then_some(())
    })
    .await;
    scene.site.finish(scene.suite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_has_a_certificate_with_networks() {
    a_host_name_has_a_certificate(RunnerAccount::Own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_has_a_certificate_without_privileges() {
    a_host_name_has_a_certificate(RunnerAccount::Unprivileged).await;
}

/// Certificates are renewed before they expire. While the DNS server is away, and before the server has a DNS
/// connection, no certificate is issued; then it is without a person.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_and_failed_orders_repeated() {
    let mut scene = Scene::new(RunnerAccount::Unprivileged, 24).await;
    scene.site.run("Deploy", &scene.environment, json!({})).await;
    eventually("a failed order", async || {
        scene.site.runner_log().contains("the challenge is not published").then_some(())
    })
    .await;
    scene.connect_dns().await;
    scene.named.stop();
    scene.site.run("Restart", &scene.environment, json!({})).await;
    assert_eq!(scene.pebble.issued_count(), 0);
    scene.named.run().await;
    let visitor = scene.visitor().await;
    let first =
        eventually("a certificate", async || scene.served_certificate(&visitor).await).await;
    eventually("a renewed certificate", async || {
        let served = scene.served_certificate(&visitor).await?;
        (served != first).then_some(())
    })
    .await;
    let log = scene.site.runner_log();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    scene.site.finish(scene.suite).await;
}

/// An authority that answers `badNonce` has refused nothing: the pause before the next order is short.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_nonce_is_no_refusal() {
    let mut scene = Scene::new(RunnerAccount::Unprivileged, 90 * 86_400).await;
    scene.connect_dns().await;
    scene.pebble.restart(100).await;
    scene.site.run("Deploy", &scene.environment, json!({})).await;
    eventually("an order without an accepted nonce", async || {
        scene.site.runner_log().contains("badNonce").then_some(())
    })
    .await;
    scene.pebble.restart(0).await;
    let visitor = scene.visitor().await;
    eventually("a certificate", async || scene.served_certificate(&visitor).await).await;
    scene.site.finish(scene.suite).await;
}

/// The project service publishes no records of a custom domain, so Caddy has the authority check the domain
/// at the ports of the server (HTTP-01, TLS-ALPN-01).
#[tokio::test(flavor = "multi_thread")]
async fn a_custom_domain_has_a_certificate_beside_dns_challenges() {
    let account = RunnerAccount::Unprivileged;
    let scene = Scene::with_apps_domain("web.apps.example.com", account, 90 * 86_400).await;
    scene.site.run("Deploy", &scene.environment, json!({})).await;
    let shop = "shop.apps.example.com";
    scene.named.update(&format!("add {shop} 60 A 127.0.0.1"));
    let create = scene.site.hosting.request(&scene.environment, json!({ "hostname": shop }));
    let owner = scene.site.hosting.owner();
    let created = owner.call_ok(&format!("{DOMAINS}/CreateDomain"), create).await;
    let domain = &created["domain"];
    let (name, value) = (text(&domain["txtName"]), text(&domain["txtValue"]));
    scene.named.update(&format!("add {name} 60 TXT \"{value}\""));
    let verify = json!({ "domainId": domain["id"] });
    let verify = scene.site.hosting.world.project_request(verify);
    owner.call_ok(&format!("{DOMAINS}/VerifyDomain"), verify).await;
    let visitor = Client::builder()
        .tls_certs_only([scene.pebble.root().await.expect("Pebble runs")])
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .pool_max_idle_per_host(0)
        .resolve(shop, ([127, 0, 0, 1], 0).into())
        .build()
        .unwrap();
    let url = format!("https://{shop}:{}/", scene.site.https.number());
    eventually("a certificate", async || {
        let body = visitor.get(&url).send().await.ok()?.text().await.ok()?;
        body.starts_with("one\n").then_some(())
    })
    .await;
    scene.site.finish(scene.suite).await;
}
