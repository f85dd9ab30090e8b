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
    Site { settings, version, admin_socket: "/p/run/admin.sock".into(), data: "/p/data".into() }
}

fn program(hostnames: &[&str], port: u16) -> Route {
    let hostnames = hostnames.iter().map(|it| (*it).to_owned()).collect();
    Route { hostnames, target: Target::Program(([127, 0, 0, 1], port).into()) }
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
fn each_host_name_has_its_program_or_a_page_and_others_are_unknown() {
    let stopped = Target::Unavailable(Unavailable::Stopped);
    let routes = [
        program(&["a.apps.test", "shop.example"], 4000),
        Route { hostnames: vec!["b.apps.test".to_owned()], target: stopped },
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

#[test]
fn an_old_caddy_gets_no_field_that_it_does_not_have() {
    assert_eq!(Version::parse("2.6.2\n"), Some(Version(2, 6)));
    let old = Site { version: Version(2, 6), ..site(Tls::Internal) };
    let routes = [program(&["a.apps.test"], 4000)];
    assert!(!computed(&old, &routes).to_string().contains("stream_close_delay"));
    assert!(computed(&site(Tls::Internal), &routes).to_string().contains("stream_close_delay"));
}
