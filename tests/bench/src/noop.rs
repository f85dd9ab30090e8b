//! Overhead of the server stack: authenticated calls of a method that does nothing. Reference: the same
//! method on a tonic server without middleware.

use anyhow::Result;
use api::audit::{
    self as pb,
    audit_service_client::AuditServiceClient,
    audit_service_server::{AuditService, AuditServiceServer},
};
use chassis::{Call, Reply, reply};
use host::Host;
use host::Install;
use tonic::{Request, Status, metadata::MetadataValue, transport::Server};

use crate::{load, median, print_rates, suite::Suite};

/// Number of concurrent callers.
const CALLERS: usize = 64;

/// Stand-in for the audit service: `ListAccountEntries` returns an empty list immediately.
struct NoopAuditService {
    /// True if the server stack authenticates the call.
    is_authenticated: bool,
}

/// Installs the stand-in.
#[expect(clippy::unnecessary_wraps, reason = "the signature of `Install`")]
pub(crate) fn install(host: &mut Host) -> Result<()> {
    host.rpc(AuditServiceServer::new(NoopAuditService { is_authenticated: true }));
    Ok(())
}

/// Returns the services identity, project and invitation, and the stand-in for the audit service; no runner.
pub(crate) fn without_audit() -> [Install; 4] {
    let [identity, project, invitation, ..] = tenantry::INSTALLS else {
        unreachable!("the all-in-one program has all services")
    };
    [*identity, *project, *invitation, install]
}

/// Runs the measurement.
pub(crate) async fn run() -> Result<()> {
    let suite = Suite::start(&without_audit()).await?;
    let token = suite.sign_in("ann@example.com").await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let bare_address = listener.local_addr()?;
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .add_service(AuditServiceServer::new(NoopAuditService { is_authenticated: false }));
    #[expect(clippy::disallowed_methods, reason = "a benchmark has no host that drains its tasks")]
    let serving = tokio::spawn(server.serve_with_incoming(incoming));
    // Alternating, so that other load on the machine affects both.
    let mut measured = vec![];
    let mut reference = vec![];
    for _ in 0..3 {
        reference.push(measure(bare_address, &token).await?);
        measured.push(measure(suite.address, &token).await?);
    }
    print_rates(
        "no-op call, authenticated, 64 callers (bare server)",
        median(measured),
        median(reference),
        "≥ 0.7",
    );
    serving.abort();
    suite.stop().await
}

/// Returns the rate of calls.
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

/// Error of methods that the benchmark does not call.
fn unimplemented<M>() -> Reply<M> {
    Err(Status::unimplemented("the benchmark does not call this method"))
}

#[tonic::async_trait]
impl AuditService for NoopAuditService {
    type WatchEntriesStream = futures::stream::Empty<Result<pb::WatchEntriesResponse, Status>>;
    type ExportEntriesStream = futures::stream::Empty<Result<pb::ExportEntriesResponse, Status>>;

    async fn list_account_entries(
        &self,
        request: Request<pb::ListAccountEntriesRequest>,
    ) -> Reply<pb::ListAccountEntriesResponse> {
        if self.is_authenticated {
            Call::of(request)?.account()?;
        }
        // As long as a real page token.
        reply(pb::ListAccountEntriesResponse { entries: vec![], next_page_token: "x".repeat(20) })
    }

    async fn list_entries(
        &self,
        _: Request<pb::ListEntriesRequest>,
    ) -> Reply<pb::ListEntriesResponse> {
        unimplemented()
    }

    async fn watch_entries(
        &self,
        _: Request<pb::WatchEntriesRequest>,
    ) -> Reply<Self::WatchEntriesStream> {
        unimplemented()
    }

    async fn export_entries(
        &self,
        _: Request<pb::ExportEntriesRequest>,
    ) -> Reply<Self::ExportEntriesStream> {
        unimplemented()
    }

    async fn get_retention(
        &self,
        _: Request<pb::GetRetentionRequest>,
    ) -> Reply<pb::GetRetentionResponse> {
        unimplemented()
    }

    async fn set_legal_hold(
        &self,
        _: Request<pb::SetLegalHoldRequest>,
    ) -> Reply<pb::SetLegalHoldResponse> {
        unimplemented()
    }
}
