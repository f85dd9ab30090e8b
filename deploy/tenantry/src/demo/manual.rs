//! What operators ask a server that they do not know: what it serves, and whether it does.

use anyhow::{Context, Result, ensure};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{Services, Voice};
use crate::client::Client;

/// Asks every service what it serves, and whether it does.
pub(super) async fn read(services: &Services, voice: &Voice) -> Result<()> {
    let clients = [&services.identity, &services.project, &services.invitation, &services.audit];
    let mut seen = vec![];
    for client in clients {
        for name in list(client).await? {
            if !seen.contains(&name) {
                health(client, &name).await?;
                voice.say(&format!("    {name} SERVING"));
                seen.push(name);
            }
        }
    }
    let all = ["identity", "project", "invitation", "audit"];
    let served = |it: &&str| seen.iter().any(|name| name.starts_with(&format!("tenantry.{it}.")));
    ensure!(all.iter().all(served), "a service is missing: {seen:?}");
    Ok(())
}

/// The services of the suite that a server names by reflection.
async fn list(client: &Client) -> Result<Vec<String>> {
    let request = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let mut reflection = ServerReflectionClient::new(client.channel());
    let requests = tonic::codegen::tokio_stream::once(request);
    let mut answers = reflection.server_reflection_info(requests).await?.into_inner();
    let answer = answers.message().await?.and_then(|it| it.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        anyhow::bail!("the server does not describe itself; is --reflection false?");
    };
    let names = list.service.into_iter().map(|it| it.name);
    Ok(names.filter(|it| it.starts_with("tenantry.")).collect())
}

async fn health(client: &Client, service: &str) -> Result<()> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(client.channel()).check(request).await;
    let status = answer.with_context(|| format!("{service} has no health"))?.into_inner().status();
    ensure!(status == ServingStatus::Serving, "{service} says {}", status.as_str_name());
    Ok(())
}
