//! HTTP endpoint of the tiles. The right to read a log is decided by the method that returns its checkpoint,
//! so the rules, limits and traces of calls apply.

use std::{io::Write, sync::Arc, time::Duration};

use api::audit::{
    GetCheckpointRequest, GetSuiteCheckpointRequest, SuiteProof,
    log_service_client::LogServiceClient,
};
use aws_lc_rs::digest::{SHA256, digest};
use chassis::{Db, OrgId, channel::ServiceChannel};
use data_encoding::HEXLOWER;
use flate2::{Compression, write::GzEncoder};
use host::web::{Page, PageHandler, PageRequest, TEXT, page};
use http::{HeaderValue, Method, StatusCode, header};
use tokio::sync::Semaphore;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    Resource, TileRange, parse_canonical,
    resource::{Bundle, HiddenEntries, TileReader},
    suite_proof,
};
use crate::{
    integrity::guard::LogGuard,
    leaf_codec::LeafCodec,
    proof::{self, prove::Prover},
    tree::{SUITE_TREE, SUITE_TREE_NAME, store::LeafRange},
};

/// Prefix of the paths; the name of the tree follows: the id of an organization, or `suite`.
pub(crate) const PATHS: &[&str] = &["/audit/"];

/// Content type of tiles and bundles.
const BYTES: &str = "application/octet-stream";

/// Largest number of tiles and bundles that are read at the same time; a bundle has at most 16 MiB.
const READS_MAX: usize = 16;
/// Time-out of waiting for one of these reads.
const READ_WAIT: Duration = Duration::from_secs(5);

/// Header of a refused bundle: the entries of which only the hashes are available, `<first>-<last>`.
const HIDDEN_ENTRIES: &str = "tenantry-hidden-entries";

/// Handler of the endpoint.
pub(crate) struct Tiles {
    db: Db,
    guard: LogGuard,
    codec: Arc<LeafCodec>,
    /// This service.
    audit: ServiceChannel,
    /// True if the tree of the suite is public.
    publishes_suite: bool,
    reads: Semaphore,
}

/// The newest checkpoint of a log.
#[derive(Default)]
struct NewestCheckpoint {
    /// Signed note; empty if there is none yet.
    note: String,
    /// Proof that it is in the tree of the suite; none of that tree itself.
    suite: Option<SuiteProof>,
}

/// Content of a resource.
enum Content {
    Checkpoint(String),
    Tile(TileRange, Vec<u8>),
    Entries(TileRange, Vec<u8>),
}

/// Refusal of a request: the status, and a page for people.
struct Refused(Box<Page>);

impl Tiles {
    pub(crate) fn new(
        host: &mut host::Host,
        db: &Db,
        guard: &LogGuard,
        codec: &Arc<LeafCodec>,
    ) -> Self {
        Self {
            db: db.clone(),
            guard: guard.clone(),
            codec: codec.clone(),
            audit: host.client("audit", "audit"),
            publishes_suite: host.config().audit_publish_suite,
            reads: Semaphore::new(READS_MAX),
        }
    }

    async fn respond(&self, request: &PageRequest) -> Result<Page, Refused> {
        if request.method != Method::GET {
            let mut refused =
                refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are possible");
            refused.0.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Err(refused);
        }
        let path = request.path.trim_start_matches(PATHS[0]);
        let (log, path) = path.split_once('/').unwrap_or((path, ""));
        let newest = self.authorize(request, log).await?;
        let resource = Resource::parse(path);
        let resource = resource.map_err(|it| refuse(StatusCode::BAD_REQUEST, &it.to_string()))?;
        if newest.note.is_empty() {
            let status = Status::from(proof::not_yet_signed());
            return Err(refuse(StatusCode::NOT_FOUND, status.message()));
        }
        let content = match resource {
            Resource::Checkpoint => Content::Checkpoint(newest.note),
            Resource::SuiteProof => Content::Checkpoint(suite_proof(&newest)?),
            _ => self.read(request, log, resource).await?,
        };
        let is_public = log == SUITE_TREE_NAME;
        found(content, is_public, request).await
    }

    /// Returns the newest checkpoint of a log, if the caller may read it.
    async fn authorize(
        &self,
        request: &PageRequest,
        log: &str,
    ) -> Result<NewestCheckpoint, Refused> {
        let mut service = LogServiceClient::new(self.audit.clone());
        if log == SUITE_TREE_NAME {
            if !self.publishes_suite {
                let text = "the tree of checkpoints is not published here (--audit-publish-suite)";
                return Err(refuse(StatusCode::NOT_FOUND, text));
            }
            let message = request.forward(GetSuiteCheckpointRequest {}, None);
            let note = service.get_suite_checkpoint(message).await?.into_inner().checkpoint;
            return Ok(NewestCheckpoint { note, suite: None });
        }
        let message = GetCheckpointRequest { org_id: log.to_owned() };
        let message = request.forward(message, request.bearer());
        let found = service.get_checkpoint(message).await?.into_inner();
        Ok(NewestCheckpoint { note: found.checkpoint, suite: found.suite })
    }

    /// Reads a tile or a bundle of a log that the caller may read.
    async fn read(
        &self,
        request: &PageRequest,
        log: &str,
        resource: Resource,
    ) -> Result<Content, Refused> {
        let permit = tokio::time::timeout(READ_WAIT, self.reads.acquire()).await;
        let _permit = permit.map_err(|_| Status::unavailable("the server is busy; retry later"))?;
        let is_suite = log == SUITE_TREE_NAME;
        let org_id = if is_suite { SUITE_TREE } else { log.parse::<OrgId>()? };
        let signed = Prover { db: &self.db, guard: &self.guard }.signed_tree(org_id).await?;
        let signed = signed.ok_or_else(proof::not_yet_signed)?;
        let reader =
            TileReader { db: &self.db, guard: &self.guard, codec: &self.codec, signed: &signed };
        let available = resource.available(signed.size);
        match resource {
            Resource::Tile { range, .. } | Resource::Entries(range) if range.end() > available => {
                let text = format!(
                    "the newest checkpoint covers {} entries, and this tile or bundle needs more",
                    signed.size
                );
                Err(refuse(StatusCode::NOT_FOUND, &text))
            }
            Resource::Tile { level, range } => {
                Ok(Content::Tile(range, reader.tile(level, range).await?))
            }
            Resource::Entries(range) => {
                match reader.bundle(requested_entries(request, range)?).await? {
                    Bundle::Complete(bytes) => Ok(Content::Entries(range, bytes)),
                    Bundle::Incomplete(hidden) => Err(incomplete(hidden)),
                }
            }
            Resource::Checkpoint | Resource::SuiteProof => {
                Err(refuse(StatusCode::NOT_FOUND, "there is no tile here"))
            }
        }
    }
}

#[tonic::async_trait]
impl PageHandler for Tiles {
    async fn handle(&self, request: PageRequest) -> Page {
        self.respond(&request).await.unwrap_or_else(|Refused(page)| *page)
    }
}

/// Returns the text of the proof that a checkpoint is in the tree of the suite.
fn suite_proof(newest: &NewestCheckpoint) -> Result<String, Refused> {
    let text = "there is no proof that the checkpoint is in the tree of the suite; retry in a second, \
                and note that this tree itself has none";
    let proof = newest.suite.as_ref().ok_or_else(|| refuse(StatusCode::NOT_FOUND, text))?;
    Ok(suite_proof::format(&newest.note, proof.index, &proof.hashes, &proof.checkpoint))
}

/// Returns the entries of a bundle that are requested: all, or with the query `first=<index>` those from an
/// index on.
fn requested_entries(request: &PageRequest, range: TileRange) -> Result<LeafRange, Refused> {
    let all = LeafRange { first: range.first(), end: range.end() };
    let Some(first) = request.query.strip_prefix("first=") else { return Ok(all) };
    let first = parse_canonical(first).filter(|it| (all.first..all.end).contains(it));
    let refused = || {
        let text = format!("first must be between {} and {}", all.first, all.end - 1);
        refuse(StatusCode::BAD_REQUEST, &text)
    };
    Ok(LeafRange { first: first.ok_or_else(refused)?, ..all })
}

/// Returns the response with a resource. Private caches only, unless everybody may read the log.
async fn found(content: Content, is_public: bool, request: &PageRequest) -> Result<Page, Refused> {
    let scope = if is_public { "public" } else { "private" };
    let cache_of = |range: TileRange| {
        let age = if range.is_full() { "max-age=31536000, immutable" } else { "max-age=60" };
        format!("{scope}, {age}")
    };
    let varies = matches!(content, Content::Entries(..));
    let is_compressed = varies && accepts_gzip(request);
    let (content_type, cache, body) = match content {
        Content::Checkpoint(note) => (TEXT, format!("{scope}, no-cache"), note.into_bytes()),
        Content::Tile(range, bytes) | Content::Entries(range, bytes) => {
            (BYTES, cache_of(range), bytes)
        }
    };
    // Weak: the same for the compressed body.
    let etag = format!("W/\"{}\"", HEXLOWER.encode(&digest(&SHA256, &body).as_ref()[..16]));
    let is_known = request.header("if-none-match").split(',').any(|it| it.trim() == etag);
    let mut response = if is_known {
        page(StatusCode::NOT_MODIFIED, content_type, vec![])
    } else if is_compressed {
        let body = tokio::task::spawn_blocking(move || gzip(&body)).await;
        let body = body.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
        page(StatusCode::OK, content_type, body)
    } else {
        page(StatusCode::OK, content_type, body)
    };
    let headers = response.headers_mut();
    let mut put = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put(header::CACHE_CONTROL, &cache);
    put(header::ETAG, &etag);
    if varies {
        put(header::VARY, "accept-encoding");
    }
    if is_compressed && !is_known {
        put(header::CONTENT_ENCODING, "gzip");
    }
    Ok(response)
}

fn accepts_gzip(request: &PageRequest) -> bool {
    let accepted = |it: &str| {
        let (coding, parameters) = it.split_once(';').unwrap_or((it, ""));
        let is_refused = parameters.trim().trim_start_matches("q=").parse() == Ok(0.0);
        coding.trim() == "gzip" && !is_refused
    };
    request.header("accept-encoding").split(',').any(accepted)
}

fn gzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// Refusal of a bundle with entries of which only the hashes are available.
fn incomplete(hidden: HiddenEntries) -> Refused {
    let mut refused = refuse(StatusCode::NOT_FOUND, &hidden.to_string());
    let range = match hidden {
        HiddenEntries::Expired { first, last } => format!("{first}-{last}"),
        HiddenEntries::Withheld { index } => format!("{index}-{index}"),
    };
    if let Ok(range) = HeaderValue::from_str(&range) {
        refused.0.headers_mut().insert(HIDDEN_ENTRIES, range);
    }
    refused
}

fn refuse(status: StatusCode, text: &str) -> Refused {
    Refused(Box::new(page(status, TEXT, format!("{text}\n"))))
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        chassis::Error::from(error).into()
    }
}

impl From<chassis::Error> for Refused {
    fn from(error: chassis::Error) -> Self {
        Status::from(error).into()
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            // Signing is stopped, or the call did not end in time.
            Code::FailedPrecondition | Code::Unavailable | Code::DeadlineExceeded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut refused = refuse(code, status.message());
        let headers = refused.0.headers_mut();
        if code == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let retry = status.get_details_retry_info().and_then(|it| it.retry_delay);
        if let Some(retry) = retry {
            headers.insert(header::RETRY_AFTER, retry.as_secs().saturating_add(1).into());
        }
        refused
    }
}
