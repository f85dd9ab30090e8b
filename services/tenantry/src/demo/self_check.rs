//! Check of server reflection and health: which gRPC services a server has, and that each is serving.

use anyhow::{Context, Result, ensure};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{Console, Services};
use crate::client::Client;

/// Packages that must be served.
const PACKAGES: [&str; 4] = ["identity", "project", "invitation", "audit"];

/// Lists the gRPC services of all servers; fails unless all packages are there and all services are healthy.
pub(super) async fn run(services: &Services, console: &Console) -> Result<()> {
    let clients = [&services.identity, &services.project, &services.invitation, &services.audit];
    let mut checked: Vec<String> = vec![];
    for client in clients {
        for name in list_services(client).await? {
            if !checked.contains(&name) {
                check_health(client, &name).await?;
                console.print_line(&format!("    {name} SERVING"));
                checked.push(name);
            }
        }
    }
    for package in PACKAGES {
        let prefix = format!("tenantry.{package}.");
        ensure!(
            checked.iter().any(|it| it.starts_with(&prefix)),
            "no server has services of the package {prefix}"
        );
    }
    Ok(())
}

/// Returns the suite's services that a server lists by reflection.
async fn list_services(client: &Client) -> Result<Vec<String>> {
    let request = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let requests = tonic::codegen::tokio_stream::once(request);
    let mut reflection = ServerReflectionClient::new(client.channel());
    let mut responses = reflection.server_reflection_info(requests).await?.into_inner();
    let response = responses.message().await?.and_then(|it| it.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = response else {
        anyhow::bail!("server reflection is disabled; start the suite without --reflection false");
    };
    let names = list.service.into_iter().map(|it| it.name);
    Ok(names.filter(|it| it.starts_with("tenantry.")).collect())
}

async fn check_health(client: &Client, service: &str) -> Result<()> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let response = HealthClient::new(client.channel()).check(request).await;
    let response = response.with_context(|| format!("health check of {service} failed"))?;
    let status = response.into_inner().status();
    ensure!(status == ServingStatus::Serving, "{service} is {}", status.as_str_name());
    Ok(())
}
