//! Tests of the configuration of Caddy.

use super::*;

fn site(tls: Tls) -> Site {
    let settings = ProxySettings {
        apps_domain: "apps.test".to_owned(),
        caddy: "caddy".into(),
        http_port: 80,
        https_port: 443,
        tls,
    };
    let version = Version::parse("v2.11.7 h1:abc=").unwrap();
    let (admin_socket, data) = ("/p/run/admin.sock".into(), "/p/data".into());
    Site { settings, version, admin_socket, data, upstreams: None }
}

fn program(hostnames: &[&str], port: u16) -> Route {
    let hostnames = hostnames.iter().map(|it| (*it).to_owned()).collect();
    Route { environment_id: Uuid::nil(), hostnames, target: Target::Program(upstreams(port)) }
}

fn upstreams(port: u16) -> Upstreams {
    Upstreams { address: ([127, 0, 0, 1], port).into(), paths: vec![] }
}

fn computed(site: &Site, routes: &[Route]) -> Value {
    compute(site, routes, &[])
}

/// Host names with their upstream, or with the status of their page.
fn served(configuration: &Value) -> Vec<(String, String)> {
    let routes = configuration["apps"]["http"]["servers"]["https"]["routes"].as_array().unwrap();
    let mut served = vec![];
    for route in routes {
        let handler = &route["handle"][0];
        let upstream = handler["upstreams"][0]["dial"].as_str();
        let target = upstream.map_or_else(|| handler["status_code"].to_string(), str::to_owned);
        match route["match"][0]["host"].as_array() {
            Some(hosts) => served
                .extend(hosts.iter().map(|it| (it.as_str().unwrap().to_owned(), target.clone()))),
            None => served.push((String::new(), target)),
        }
    }
    served
}

fn expect(configuration: &Value, expected: &[(&str, &str)]) {
    let pairs = expected.iter().map(|(host, target)| ((*host).to_owned(), (*target).to_owned()));
    assert_eq!(served(configuration), pairs.collect::<Vec<_>>());
}

#[test]
fn only_requests_for_host_names_of_environments_are_logged() {
    let routes = [program(&["a.apps.test", "{evil}", "shop.example"], 4000)];
    let logger = access_log::logger_name(Uuid::nil());
    for (tls, server) in [(Tls::Internal, "https"), (Tls::Off, "http")] {
        let configuration = computed(&site(tls), &routes);
        let logs = &configuration["apps"]["http"]["servers"][server]["logs"];
        assert_eq!(logs["logger_names"], json!({ "a.apps.test": logger, "shop.example": logger }));
        assert_eq!(logs["skip_unmapped_hosts"], true);
    }
}

#[test]
fn each_host_name_has_its_program_or_a_page_and_others_are_unknown() {
    let stopped = Target::Unavailable(Unavailable::Stopped);
    let routes = [
        program(&["a.apps.test", "shop.example"], 4000),
        Route {
            environment_id: Uuid::nil(),
            hostnames: vec!["b.apps.test".to_owned()],
            target: stopped,
        },
    ];
    let configuration = computed(&site(Tls::Internal), &routes);
    expect(
        &configuration,
        &[
            ("a.apps.test", "127.0.0.1:4000"),
            ("shop.example", "127.0.0.1:4000"),
            ("b.apps.test", "503"),
            ("", "404"),
        ],
    );
    let servers = &configuration["apps"]["http"]["servers"];
    let page = &servers["https"]["routes"][1]["handle"][0];
    assert_eq!(page["headers"]["Cache-Control"], json!(["no-store"]));
    // One certificate for all names below the apps domain; the others have one of their own.
    let skipped = &servers["https"]["automatic_https"]["skip_certificates"];
    assert_eq!(*skipped, json!(["a.apps.test", "b.apps.test"]));
    let automated = &configuration["apps"]["tls"]["certificates"]["automate"];
    assert_eq!(*automated, json!(["*.apps.test"]));
}

/// Two environments never share a host name, whatever the records contain.
#[test]
fn a_host_name_belongs_to_the_environment_whose_url_has_it() {
    let routes = [
        program(&["a.apps.test", "b.apps.test", "shop.example"], 4000),
        program(&["b.apps.test", "shop.example"], 4001),
        program(&["a.apps.test"], 4002),
    ];
    expect(
        &computed(&site(Tls::Internal), &routes),
        &[
            ("a.apps.test", "127.0.0.1:4000"),
            ("shop.example", "127.0.0.1:4000"),
            ("b.apps.test", "127.0.0.1:4001"),
            ("", "404"),
        ],
    );
}

/// A text that is no host name is not in the configuration: placeholders of Caddy, wildcards, other fields.
#[test]
fn hostile_host_names_are_left_out() {
    let hostile = [
        "*",
        "*.example",
        "{env.HOME}.example",
        "a.example\", \"handle\": [",
        "a.example/path",
        "a.example:80",
        "127.0.0.1",
        "A.example",
        "a.example\n",
        "",
    ];
    let configuration = computed(&site(Tls::Internal), &[program(&hostile, 4000)]);
    expect(&configuration, &[("", "404")]);
    let text = configuration.to_string();
    assert!(!text.contains("env.HOME") && !text.contains("4000"), "{text}");
}

#[test]
fn without_tls_programs_are_served_over_http() {
    let configuration = computed(&site(Tls::Off), &[program(&["a.apps.test"], 4000)]);
    let servers = &configuration["apps"]["http"]["servers"];
    assert!(servers["https"].is_null());
    assert_eq!(servers["http"]["routes"][0]["handle"][0]["handler"], "reverse_proxy");
}

#[test]
fn acme_has_its_account_and_a_certificate_for_each_host_name() {
    let directory = Some("https://ca.example/directory".to_owned());
    let acme = Tls::Acme { email: "ops@example.com".to_owned(), directory };
    let configuration = computed(&site(acme), &[program(&["a.apps.test"], 4000)]);
    let issuer = &configuration["apps"]["tls"]["automation"]["policies"][0]["issuers"][0];
    assert_eq!(issuer["email"], "ops@example.com");
    assert_eq!(issuer["ca"], "https://ca.example/directory");
    let https = &configuration["apps"]["http"]["servers"]["https"];
    assert_eq!(https["automatic_https"]["skip_certificates"], json!([]));
}

/// The runner requests certificates of host names by DNS-01; no record of a custom domain can be published.
#[test]
fn beside_dns_challenges_caddy_requests_the_certificates_of_custom_domains() {
    let directory = "https://ca.example/directory".to_owned();
    let email = "ops@example.com".to_owned();
    let acme_dns = Tls::AcmeDns(AcmeDns { email, directory, ca: Some("/ca.pem".into()) });
    let without = computed(&site(acme_dns.clone()), &[program(&["a.apps.test"], 4000)]);
    assert_eq!(without["apps"]["tls"], json!({ "certificates": { "load_pem": [] } }));
    let routes = [
        program(&["a.apps.test", "shop.example", "*"], 4000),
        program(&["b.apps.test", "a.apps.test"], 4001),
    ];
    let tls = &computed(&site(acme_dns), &routes)["apps"]["tls"];
    assert_eq!(tls["certificates"]["automate"], json!(["shop.example"]));
    let policy = &tls["automation"]["policies"][0];
    assert_eq!(policy["subjects"], json!(["shop.example"]));
    let issuer = &policy["issuers"][0];
    assert_eq!(issuer["ca"], "https://ca.example/directory");
    assert_eq!(issuer["trusted_roots_pem_files"], json!(["/ca.pem"]));
    assert_eq!(issuer["challenges"]["http"]["alternate_port"], 80);
}

#[test]
fn an_old_caddy_gets_no_field_that_it_does_not_have() {
    assert_eq!(Version::parse("2.6.2\n"), Some(Version(2, 6)));
    let old = Site { version: Version(2, 6), ..site(Tls::Internal) };
    let routes = [program(&["a.apps.test"], 4000)];
    assert!(!computed(&old, &routes).to_string().contains("stream_close_delay"));
    assert!(computed(&site(Tls::Internal), &routes).to_string().contains("stream_close_delay"));
}

#[test]
fn paths_of_a_program_have_upstreams_of_their_own() {
    let paths =
        vec![PathUpstream { path: "/live".to_owned(), address: ([127, 0, 0, 1], 2).into() }];
    let target = Target::Program(Upstreams { paths, ..upstreams(1) });
    let route =
        Route { environment_id: Uuid::nil(), hostnames: vec!["a.apps.test".to_owned()], target };
    let in_files = Site { upstreams: Some("/p/upstreams".into()), ..site(Tls::Internal) };
    let id = Uuid::nil();
    let files = [format!("{{file./p/upstreams/{id}-2}}"), format!("{{file./p/upstreams/{id}}}")];
    let addresses = ["127.0.0.1:2".to_owned(), "127.0.0.1:1".to_owned()];
    for (site, dials, keeps) in [(site(Tls::Internal), addresses, false), (in_files, files, true)] {
        let configuration = computed(&site, std::slice::from_ref(&route));
        let handler = &configuration["apps"]["http"]["servers"]["https"]["routes"][0]["handle"][0];
        assert_eq!(handler["handler"], "subroute");
        let routes = &handler["routes"];
        assert_eq!(routes[0]["match"][0]["path"], json!(["/live", "/live/*"]));
        let dial = |index: usize| routes[index]["handle"][0]["upstreams"][0]["dial"].clone();
        assert_eq!([dial(0), dial(1)], dials);
        let keep_alive = &routes[1]["handle"][0]["transport"]["keep_alive"];
        assert_eq!(keep_alive["enabled"], keeps);
        assert!(routes[0]["terminal"].as_bool().unwrap() && routes[1].get("match").is_none());
    }
}
