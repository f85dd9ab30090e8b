//! What the stack costs: a call that does nothing, signed in, beside the same call to a bare server.

use anyhow::Result;
use api::audit::{
    self as pb,
    audit_service_client::AuditServiceClient,
    audit_service_server::{AuditService, AuditServiceServer},
};
use chassis::{Call, Host, Reply, host::Install, reply};
use tonic::{Request, Status, metadata::MetadataValue, transport::Server};

use crate::{load, median, row, suite::Suite};

/// Calls in flight.
const CALLERS: usize = 64;

/// Answers `ListAccountEntries` at once; a stand-in for a handler, not for the log.
struct Noop {
    /// Whether our stack is around it.
    stacked: bool,
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of an install")]
pub(crate) fn install(host: &mut Host) -> Result<()> {
    host.rpc(AuditServiceServer::new(Noop { stacked: true }));
    Ok(())
}

/// Every service but the log, whose place the stand-in takes.
pub(crate) fn without_log() -> [Install; 4] {
    let services = tenantry::INSTALLS;
    [services[0], services[1], services[2], install]
}

/// Measures both.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&without_log()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let bare = listener.local_addr()?;
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().add_service(AuditServiceServer::new(Noop { stacked: false }));
    #[expect(
        clippy::disallowed_methods,
        reason = "a benchmark has no host whose tasks are drained"
    )]
    let serving = tokio::spawn(server.serve_with_incoming(incoming));
    // Alternating, so that a neighbour on the machine disturbs both.
    let (mut ours, mut reference) = (vec![], vec![]);
    for _ in 0..3 {
        reference.push(measure(bare, &token).await?);
        ours.push(measure(suite.address, &token).await?);
    }
    row("no-op call, signed in, 64 in flight", median(ours), median(reference), "≥ 0.7");
    serving.abort();
    suite.stop().await
}

async fn measure(address: std::net::SocketAddr, token: &str) -> Result<f64> {
    let channels = load::channels(address).await?;
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse()?;
    load::rate(CALLERS, move |caller, _| {
        let mut client = AuditServiceClient::new(channels[caller % channels.len()].clone());
        let mut request =
            Request::new(pb::ListAccountEntriesRequest { page_size: 20, ..Default::default() });
        request.metadata_mut().insert("authorization", bearer.clone());
        async move {
            client.list_account_entries(request).await?;
            Ok(())
        }
    })
    .await
}

fn elsewhere<M>() -> Reply<M> {
    Err(Status::unimplemented("not part of the benchmark"))
}

#[tonic::async_trait]
impl AuditService for Noop {
    type WatchEntriesStream = futures::stream::Empty<Result<pb::WatchEntriesResponse, Status>>;
    type ExportEntriesStream = futures::stream::Empty<Result<pb::ExportEntriesResponse, Status>>;

    async fn list_account_entries(
        &self,
        request: Request<pb::ListAccountEntriesRequest>,
    ) -> Reply<pb::ListAccountEntriesResponse> {
        if self.stacked {
            Call::of(request)?.account()?;
        }
        reply(pb::ListAccountEntriesResponse { entries: vec![], next_page_token: "x".repeat(20) })
    }

    async fn list_entries(
        &self,
        _: Request<pb::ListEntriesRequest>,
    ) -> Reply<pb::ListEntriesResponse> {
        elsewhere()
    }

    async fn watch_entries(
        &self,
        _: Request<pb::WatchEntriesRequest>,
    ) -> Reply<Self::WatchEntriesStream> {
        elsewhere()
    }

    async fn export_entries(
        &self,
        _: Request<pb::ExportEntriesRequest>,
    ) -> Reply<Self::ExportEntriesStream> {
        elsewhere()
    }

    async fn get_retention(
        &self,
        _: Request<pb::GetRetentionRequest>,
    ) -> Reply<pb::GetRetentionResponse> {
        elsewhere()
    }

    async fn set_legal_hold(
        &self,
        _: Request<pb::SetLegalHoldRequest>,
    ) -> Reply<pb::SetLegalHoldResponse> {
        elsewhere()
    }
}
