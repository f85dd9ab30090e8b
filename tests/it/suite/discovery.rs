//! `tenantry discovery`: reflection and health checks of all services at one address.

use testkit::{ReservedPort, eventually};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig},
};

use crate::support::{raw, service_processes::ServiceProcesses};

const HEALTH: &str = "grpc.health.v1.Health/Check";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Encoded HealthCheckResponses.
const SERVING: &[u8] = &[8, 1];
const NOT_SERVING: &[u8] = &[8, 2];

/// Encoded HealthCheckRequest: the field 1, a text shorter than 128 bytes.
fn check_request(service: &str) -> Vec<u8> {
    let length = u8::try_from(service.len()).unwrap();
    [&[0x0a, length], service.as_bytes()].concat()
}

async fn connect(url: String, authority: String) -> Option<Channel> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
    Channel::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_lists_and_checks_the_services_of_all_processes() {
    let mut processes = ServiceProcesses::start().await;
    let port = ReservedPort::new();
    let (discovery, url) = processes.start_discovery(&port);
    let authority = processes.authority();
    let connected = async || connect(url.clone(), authority.clone()).await;
    let channel = eventually("discovery", connected).await;

    // An encoded ServerReflectionRequest with `list_services: "*"`.
    let listed = raw::first_message(&channel, REFLECTION, vec![0x3a, 1, b'*']).await.unwrap();
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let methods = raw::methods();
    for method in &methods {
        let service = method.parent_service().full_name().to_owned();
        assert!(listed.contains(&service), "{service} is not listed");
        let status = raw::call(&channel, HEALTH, None, check_request(&service)).await.unwrap();
        assert_eq!(status, SERVING, "{service}");
    }
    let unknown = raw::call(&channel, HEALTH, None, check_request("nobody.v1.Nothing")).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    assert_eq!(raw::call(&channel, HEALTH, None, vec![]).await.unwrap(), SERVING);

    // Without the audit service, the suite is not healthy, and the other services are.
    processes.services.pop().unwrap().kill();
    let audit = check_request("tenantry.audit.v1.AuditService");
    for request in [audit, vec![]] {
        let status = raw::call(&channel, HEALTH, None, request).await.unwrap();
        assert_eq!(status, NOT_SERVING);
    }
    let identity = check_request("tenantry.identity.v1.UserService");
    assert_eq!(raw::call(&channel, HEALTH, None, identity).await.unwrap(), SERVING);
    drop(channel);
    assert!(discovery.stop(), "discovery drains");
    processes.stop().await;
}
