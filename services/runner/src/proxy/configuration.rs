//! Configuration of Caddy, computed from the routes without I/O. Of texts that tenants influence only valid
//! host names are in it.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use primitives::hostname;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    access_log,
    page::{self, Unavailable},
    upstream,
};
use crate::{
    certificate::Certificate,
    settings::{AcmeDns, ProxySettings, Tls},
};

/// Longest time for which Caddy holds a request while the program does not accept connections.
const RETRY_DURATION: &str = "3s";

/// Time after a change of routes in which open requests can end.
const GRACE_PERIOD: &str = "30s";

/// Time after a change of routes in which open web sockets can go on, of all environments: their own program
/// ends them when it is replaced.
const STREAM_CLOSE_DELAY: &str = "720h";

/// Time after which a connection to a program that no request uses is closed. It is shorter than the time
/// after which usual servers close it, because a request on a connection that is being closed fails.
const IDLE_TIMEOUT: &str = "1s";

/// Port of `https://`, which URLs omit.
const HTTPS_PORT: u16 = 443;

/// Host names of an environment, and what answers there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) environment_id: Uuid,
    /// The first one is the host name of its URL, the others are custom domains.
    pub(crate) hostnames: Vec<String>,
    pub(crate) target: Target,
}

/// Receiver of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A program.
    Program(Upstreams),
    /// A page.
    Unavailable(Unavailable),
}

/// Addresses on which a program listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstreams {
    pub(crate) address: SocketAddr,
    /// Paths that another address serves.
    pub(crate) paths: Vec<PathUpstream>,
}

/// A path, with all paths below it, and the address that serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathUpstream {
    pub(crate) path: String,
    pub(crate) address: SocketAddr,
}

/// Version of Caddy: major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32);

impl Version {
    /// Parses the output of `caddy version`: `v2.11.7 h1:…` or `2.6.2`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim_start_matches('v').split(['.', ' ']);
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }

    /// Returns true if web sockets can survive a change of the configuration (`stream_close_delay`).
    pub(super) fn delays_stream_close(self) -> bool {
        self >= Self(2, 7)
    }

    /// Returns true if the address of an upstream can be read from a file for each request (`{file.*}`).
    pub(super) fn reads_files(self) -> bool {
        self >= Self(2, 8)
    }
}

/// The parts of the configuration that do not depend on the routes.
pub(super) struct Site {
    pub(super) settings: ProxySettings,
    pub(super) version: Version,
    /// Unix socket of the administration API, in a directory that only Caddy and the runner can enter.
    pub(super) admin_socket: PathBuf,
    /// Directory of certificates, keys and logs.
    pub(super) data: PathBuf,
    /// Directory of the files with the addresses of programs; `None`: they are in the configuration.
    pub(super) upstreams: Option<PathBuf>,
}

impl Site {
    /// File of the access log.
    pub(super) fn access_log(&self) -> PathBuf {
        self.data.join("access.log")
    }

    /// Returns the handler of requests for a program. Caddy replaces `X-Forwarded-For`, `-Proto` and `-Host`
    /// of clients; other headers of this kind are removed.
    fn reverse_proxy(&self, dial: &str) -> Value {
        // With an address in the configuration, a kept connection would lead to a replaced program.
        let keep_alive = match self.upstreams {
            Some(_) => json!({ "enabled": true, "idle_timeout": IDLE_TIMEOUT }),
            None => json!({ "enabled": false }),
        };
        let mut handler = json!({
            "handler": "reverse_proxy",
            "upstreams": [{ "dial": dial }],
            "load_balancing": { "try_duration": RETRY_DURATION, "try_interval": "100ms" },
            "transport": {
                "protocol": "http",
                "dial_timeout": RETRY_DURATION,
                "compression": false,
                "keep_alive": keep_alive,
            },
            "headers": { "request": { "delete": ["Forwarded", "X-Real-Ip", "X-Forwarded-Port"] } },
        });
        if self.version.delays_stream_close() {
            handler["stream_close_delay"] = json!(STREAM_CLOSE_DELAY);
        }
        handler
    }
}

/// Returns the configuration that serves these routes. A host name of several routes belongs to the one whose
/// URL has it, otherwise to the first. `certificates`: those that the runner has requested.
pub(super) fn compute(site: &Site, routes: &[Route], certificates: &[Certificate]) -> Value {
    let custom = custom_domains(routes);
    let routes = distinct(routes);
    json!({
        "admin": {
            "listen": format!("unix/{}", site.admin_socket.display()),
            "config": { "persist": false },
        },
        "storage": { "module": "file_system", "root": site.data },
        "logging": { "logs": {
            "default": {
                "level": "WARN",
                "exclude": [access_log::LOGGER],
                "writer": {
                    "output": "file",
                    "filename": site.data.join("caddy.log"),
                    "roll_size_mb": 10,
                    "roll_keep": 2,
                },
            },
            "access": access_log::configuration(&site.access_log()),
        } },
        "apps": {
            "http": {
                "http_port": site.settings.http_port,
                "https_port": site.settings.https_port,
                "grace_period": GRACE_PERIOD,
                "servers": servers(site, &routes),
            },
            "tls": tls(&site.settings, certificates, &custom),
            "pki": { "certificate_authorities": { "local": { "install_trust": false } } },
        },
    })
}

/// Removes invalid host names, and repeated ones.
fn distinct(routes: &[Route]) -> Vec<Route> {
    let primary = |route: &Route| route.hostnames.first().cloned();
    let primaries: BTreeSet<_> = routes.iter().filter_map(primary).collect();
    let mut used = BTreeSet::new();
    let mut distinct = vec![];
    for route in routes {
        let own = primary(route);
        let is_own = |it: &String| own.as_ref() == Some(it) || !primaries.contains(it);
        let hostnames = route.hostnames.iter().filter(|it| hostname::is_valid(it) && is_own(it));
        let hostnames: Vec<_> =
            hostnames.filter(|it| used.insert((*it).clone())).cloned().collect();
        if !hostnames.is_empty() {
            distinct.push(Route { hostnames, ..route.clone() });
        }
    }
    distinct
}

/// Returns the valid host names that are the first one of no route.
fn custom_domains(routes: &[Route]) -> BTreeSet<&String> {
    let primaries: BTreeSet<_> = routes.iter().filter_map(|it| it.hostnames.first()).collect();
    let others = routes.iter().flat_map(|it| it.hostnames.iter().skip(1));
    others.filter(|it| hostname::is_valid(it) && !primaries.contains(it)).collect()
}

fn servers(site: &Site, routes: &[Route]) -> Value {
    let settings = &site.settings;
    let unknown_host = json!({ "handle": [page::unknown_host()] });
    let mut programs: Vec<_> = routes.iter().map(|it| route(site, it)).collect();
    programs.push(unknown_host.clone());
    let errors = json!({ "routes": [{ "handle": [Unavailable::NoConnection.handler()] }] });
    // HTTP/3 is not offered: a change of routes would end its open requests.
    let http = json!({
        "listen": [format!(":{}", settings.http_port)],
        "protocols": ["h1"],
        "automatic_https": { "disable": true },
        "routes": programs,
        "errors": errors,
    });
    let logs = json!({ "logger_names": logger_names(routes), "skip_unmapped_hosts": true });
    if settings.tls == Tls::Off {
        let mut http = http;
        http["logs"] = logs;
        return json!({ "http": http });
    }
    let hostnames: Vec<_> = routes.iter().flat_map(|it| &it.hostnames).collect();
    let mut https = http.clone();
    https["listen"] = json!([format!(":{}", settings.https_port)]);
    https["protocols"] = json!(["h1", "h2"]);
    https["logs"] = logs;
    if let Tls::AcmeDns(_) = settings.tls {
        // Remains disabled: Caddy has the certificates of host names from the runner, those of custom domains
        // are named in `tls`, and it selects one by the host name.
        https["tls_connection_policies"] = json!([{}]);
    } else {
        https["automatic_https"] = json!({
            "disable_redirects": true,
            "skip_certificates": names_of_wildcard(settings, routes),
        });
    }
    let mut http = http;
    http["routes"] = json!([redirect(settings, &hostnames), unknown_host]);
    json!({ "http": http, "https": https })
}

/// Returns the name of the logger of each host name.
fn logger_names(routes: &[Route]) -> Map<String, Value> {
    let of_route = |it: &Route| {
        let logger = access_log::logger_name(it.environment_id);
        it.hostnames.iter().map(|hostname| (hostname.clone(), json!(logger))).collect::<Vec<_>>()
    };
    routes.iter().flat_map(of_route).collect()
}

/// Returns the host names that have the certificate for all names below the apps domain.
fn names_of_wildcard<'a>(settings: &ProxySettings, routes: &'a [Route]) -> Vec<&'a String> {
    let names = routes.iter().flat_map(|it| &it.hostnames);
    let is_below =
        |it: &&String| it.split_once('.').is_some_and(|(_, parent)| parent == settings.apps_domain);
    if settings.tls == Tls::Internal { names.filter(is_below).collect() } else { vec![] }
}

fn tls(
    settings: &ProxySettings,
    certificates: &[Certificate],
    custom: &BTreeSet<&String>,
) -> Value {
    match &settings.tls {
        Tls::Off => json!({}),
        Tls::Internal => json!({
            "certificates": { "automate": [format!("*.{}", settings.apps_domain)] },
            "automation": { "policies": [{ "issuers": [{ "module": "internal" }] }] },
        }),
        Tls::Acme { email, directory } => {
            let mut issuer = json!({ "module": "acme", "email": email });
            if let Some(directory) = directory {
                issuer["ca"] = json!(directory);
            }
            json!({ "automation": { "policies": [{ "issuers": [issuer] }] } })
        }
        Tls::AcmeDns(authority) => {
            let pair = |it: &Certificate| json!({ "certificate": it.chain, "key": it.key() });
            let pairs: Vec<_> = certificates.iter().map(pair).collect();
            let mut tls = json!({ "certificates": { "load_pem": pairs } });
            if !custom.is_empty() {
                tls["certificates"]["automate"] = json!(custom);
                let policy =
                    json!({ "subjects": custom, "issuers": [issuer(settings, authority)] });
                tls["automation"] = json!({ "policies": [policy] });
            }
            tls
        }
    }
}

/// Returns the issuer of certificates for custom domains beside DNS-01: no record of them can be published,
/// so Caddy proves them at port 80 or 443.
fn issuer(settings: &ProxySettings, authority: &AcmeDns) -> Value {
    let mut issuer = json!({
        "module": "acme",
        "email": authority.email,
        "ca": authority.directory,
        "challenges": {
            "http": { "alternate_port": settings.http_port },
            "tls-alpn": { "alternate_port": settings.https_port },
        },
    });
    if let Some(ca) = &authority.ca {
        issuer["trusted_roots_pem_files"] = json!([ca]);
    }
    issuer
}

/// Redirects requests for known hosts to `https://`. Caddy inserts the host, which is one of the list, and
/// the path.
fn redirect(settings: &ProxySettings, hostnames: &[&String]) -> Value {
    let port = match settings.https_port {
        HTTPS_PORT => String::new(),
        port => format!(":{port}"),
    };
    let location = format!("https://{{http.request.host}}{port}{{http.request.uri}}");
    json!({
        // Without a host name, a matcher would match every host.
        "match": if hostnames.is_empty() { json!([{ "not": [{}] }]) } else { json!([{ "host": hostnames }]) },
        "handle": [{
            "handler": "static_response",
            "status_code": 308,
            "headers": { "Location": [location] },
        }],
        "terminal": true,
    })
}

fn route(site: &Site, route: &Route) -> Value {
    let handler = match &route.target {
        Target::Program(upstreams) => program_handler(site, route.environment_id, upstreams),
        Target::Unavailable(state) => state.handler(),
    };
    json!({ "match": [{ "host": route.hostnames }], "handle": [handler], "terminal": true })
}

fn program_handler(site: &Site, environment_id: Uuid, upstreams: &Upstreams) -> Value {
    let dial = |address: SocketAddr, port| match &site.upstreams {
        Some(folder) => upstream::placeholder(folder, environment_id, port),
        None => address.to_string(),
    };
    let of_program = site.reverse_proxy(&dial(upstreams.address, None));
    if upstreams.paths.is_empty() {
        return of_program;
    }
    let mut routes = vec![];
    for PathUpstream { path, address } in &upstreams.paths {
        routes.push(json!({
            "match": [{ "path": [path, format!("{path}/*")] }],
            "handle": [site.reverse_proxy(&dial(*address, Some(address.port())))],
            "terminal": true,
        }));
    }
    routes.push(json!({ "handle": [of_program] }));
    json!({ "handler": "subroute", "routes": routes })
}

#[cfg(test)]
mod tests;
