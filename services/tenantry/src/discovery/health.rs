//! Health service of the complete suite: forwards each check to the service that it names.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result};
use chassis::{
    channel::{ServiceChannel, Target},
    registry::{SERVICES, Service, ServiceUrls},
    rule::Rules,
};
use host::tls::Tls;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient, health_server::Health,
};

/// Time-out of a forwarded check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Health of all services of the suite, asked from them for each check.
pub(super) struct SuiteHealth(Vec<(&'static Service, HealthClient<ServiceChannel>)>);

impl SuiteHealth {
    /// Connects to each service.
    pub(super) fn new(urls: &ServiceUrls, tls: &Tls) -> Result<Self> {
        let clients = SERVICES.iter().map(|service| {
            let channel = host::channel(urls.get(service), tls, &Rules::default());
            let channel =
                channel.with_context(|| format!("--{}-url cannot be used", service.name))?;
            let target = Arc::new(OnceLock::from(Target::Remote(channel)));
            Ok((service, HealthClient::new(ServiceChannel::new("discovery", target))))
        });
        Ok(Self(clients.collect::<Result<_>>()?))
    }

    /// Returns the client of the service of the suite that has a gRPC service, given by full name.
    fn client_of(&self, grpc_service: &str) -> Result<HealthClient<ServiceChannel>, Status> {
        let found = self.0.iter().find(|(service, _)| service.serves_any(&[grpc_service]));
        let message = || format!("no service of the suite is named {grpc_service}");
        found.map(|(_, client)| client.clone()).ok_or_else(|| Status::not_found(message()))
    }

    /// Returns SERVING if all services are; else `NOT_SERVING`, and logs which are not.
    async fn check_all(&self) -> ServingStatus {
        let checks = self.0.iter().map(async |(service, client)| {
            let status = check(client.clone(), String::new()).await;
            let is_serving = status.is_ok_and(|it| it == ServingStatus::Serving);
            (!is_serving).then_some(service.name)
        });
        let failed: Vec<_> =
            futures::future::join_all(checks).await.into_iter().flatten().collect();
        if failed.is_empty() {
            return ServingStatus::Serving;
        }
        tracing::warn!(services = failed.join(", "), "services are not ready");
        ServingStatus::NotServing
    }
}

#[tonic::async_trait]
impl Health for SuiteHealth {
    /// An empty name checks all services.
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let name = request.into_inner().service;
        let status = if name.is_empty() {
            self.check_all().await
        } else {
            check(self.client_of(&name)?, name).await?
        };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = Streaming<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let name = request.into_inner().service;
        if name.is_empty() {
            let message = "the services of the suite can be watched one by one; name one of them";
            return Err(Status::unimplemented(message));
        }
        self.client_of(&name)?.watch(HealthCheckRequest { service: name }).await
    }
}

/// Checks a gRPC service on its server. A server that does not respond is `NOT_SERVING`.
async fn check(
    mut client: HealthClient<ServiceChannel>,
    name: String,
) -> Result<ServingStatus, Status> {
    let checked = client.check(HealthCheckRequest { service: name });
    let Ok(checked) = tokio::time::timeout(CHECK_TIMEOUT, checked).await else {
        return Ok(ServingStatus::NotServing);
    };
    match checked {
        Ok(response) => Ok(response.into_inner().status()),
        Err(status) => match status.code() {
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => {
                tracing::warn!(message = status.message(), "a health check is not answered");
                Ok(ServingStatus::NotServing)
            }
            _ => Err(status),
        },
    }
}
