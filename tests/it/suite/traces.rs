//! Traces: one from a call through its transaction, the stream and the reactions to the mail and the webhook.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::{Span, span::SpanKind},
};
use serde_json::json;
use testkit::{Nats, Receiver, eventually};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::Server};

use crate::support::suite_process::SuiteProcess;

/// A collector that keeps all spans.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|it| it.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|it| it.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = futures::stream::unfold(listener, async |it| {
            let accepted = it.accept().await.map(|it| it.0);
            Some((accepted, it))
        });
        let server = Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(Box::pin(connections)));
        address
    }

    /// Spans of the trace that has a span with this name.
    fn trace_of(&self, name: &str) -> Vec<Span> {
        let spans = self.0.lock().unwrap();
        let Some(first) = spans.iter().find(|it| it.name == name) else { return vec![] };
        spans.iter().filter(|it| it.trace_id == first.trace_id).cloned().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_and_everything_that_follows_are_one_trace() {
    const CALL: &str = "tenantry.identity.v1.ApiKeyService/CreateApiKey";
    const INVITATION: &str = "tenantry.invitation.v1.InvitationService/CreateInvitation";
    let nats = Nats::start();
    let receiver = Receiver::start().await;
    let collector = Collector::default();
    let flags = vec![
        format!("--otlp-endpoint=http://{}", collector.start().await),
        format!("--nats-url={}", nats.url()),
        format!("--webhook-exceptions={}", receiver.exception()),
        // The level of the log does not limit the traces.
        "--log=error".to_owned(),
    ];
    let suite = SuiteProcess::start_with(flags).await;
    let owner = suite.person("owner@example.com").await;
    let org = owner.create_organization("traced").await.unwrap();
    let webhook =
        json!({ "orgId": org, "url": receiver.url("/hook"), "eventTypes": ["api_key.created"] });
    owner.call_ok("notification.v1.WebhookService/CreateWebhook", webhook).await;
    let admin = suite.person("admin@example.com").await;
    crate::support::world::add_member(&owner, &org, &admin, "ADMIN").await;
    let key = json!({ "orgId": org, "name": "ci", "full": false });
    admin.call_ok("identity.v1.ApiKeyService/CreateApiKey", key).await;

    let invite = json!({ "orgId": org, "email": "guest@example.com", "role": "ORG_ROLE_VIEWER" });
    admin.call_ok("invitation.v1.InvitationService/CreateInvitation", invite).await;

    let expected = [
        (CALL, SpanKind::Server),
        ("transaction", SpanKind::Client),
        ("send tenantry.events", SpanKind::Producer),
        ("process tenantry.identity.v1.ApiKeyCreated", SpanKind::Consumer),
        ("notify", SpanKind::Consumer),
        ("tenantry.identity.v1.AccessService/ListAudience", SpanKind::Client),
        ("tenantry.identity.v1.AccessService/ListAudience", SpanKind::Server),
        ("send webhook", SpanKind::Client),
    ];
    let spans = eventually("the trace", async || {
        let spans = collector.trace_of(CALL);
        let has = |(name, kind): &(&str, SpanKind)| {
            spans.iter().any(|it| it.name == *name && it.kind == i32::from(*kind))
        };
        expected.iter().all(has).then_some(spans)
    })
    .await;
    let ids: Vec<_> = spans.iter().map(|it| &it.span_id).collect();
    let roots = spans.iter().filter(|it| !ids.contains(&&it.parent_span_id));
    let roots: Vec<_> = roots.map(|it| it.name.as_str()).collect();
    assert_eq!(roots, [CALL], "every other span has a parent in the trace");
    eventually("the mail", async || {
        let spans = collector.trace_of(INVITATION);
        spans.iter().any(|it| it.name == "send mail").then_some(())
    })
    .await;
    suite.stop();
}
