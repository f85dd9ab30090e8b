//! gRPC surface of `AuditService`: lists, streams, exports and retention.

use std::sync::Arc;

use api::{
    audit::{self as pb, audit_service_server::AuditService},
    check::Check,
};
use chassis::{Access, Call, Error, OrgId, ProjectId, Reply, Result, Tx, page::Pager, reply};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};
use worker::watch::{Messages, follow};

use crate::{
    entry::{
        self,
        read::{EntryPage, EntryReader},
        search::EntryQuery,
        watch::NewEntries,
    },
    export::{Export, ExportRequest},
    note::CheckpointSigner,
    retention,
};

pub(crate) struct Rpc {
    pub(crate) reader: EntryReader,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) draining: CancellationToken,
    pub(crate) signer: Arc<CheckpointSigner>,
}

/// Default page size (AU-12).
const PAGE_SIZE_DEFAULT: i32 = 50;

#[tonic::async_trait]
impl AuditService for Rpc {
    type WatchEntriesStream = Messages<pb::WatchEntriesResponse>;
    type ExportEntriesStream = Messages<pb::ExportEntriesResponse>;

    async fn list_entries(
        &self,
        request: Request<pb::ListEntriesRequest>,
    ) -> Reply<pb::ListEntriesResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let scope = self.scope(&call, &message.org_id, &message.project_id).await?;
        let query = scope.query(message.filter.clone());
        let EntryPage { entries, next_page_token } =
            self.list(&call, &query, message.page_size, &message.page_token).await?;
        reply(pb::ListEntriesResponse { entries, next_page_token })
    }

    async fn list_account_entries(
        &self,
        request: Request<pb::ListAccountEntriesRequest>,
    ) -> Reply<pb::ListAccountEntriesResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let query = EntryQuery { account: Some(call.account()?.user_id), ..EntryQuery::default() };
        let EntryPage { entries, next_page_token } =
            self.list(&call, &query, message.page_size, &message.page_token).await?;
        reply(pb::ListAccountEntriesResponse { entries, next_page_token })
    }

    async fn watch_entries(
        &self,
        request: Request<pb::WatchEntriesRequest>,
    ) -> Reply<Self::WatchEntriesStream> {
        let call = Call::of(request)?;
        let message = &call.message;
        let scope = self.scope(&call, &message.org_id, &message.project_id).await?;
        let query = scope.query(message.filter.clone());
        let source = NewEntries::start(self.reader.clone(), query, message.from_index).await?;
        let entries = follow(&self.reader.db, scope.org_id.0, self.draining.clone(), source);
        let response = |entry| pb::WatchEntriesResponse { entry: Some(entry) };
        Ok(Response::new(Box::pin(entries.map(move |entry| entry.map(response)))))
    }

    async fn export_entries(
        &self,
        request: Request<pb::ExportEntriesRequest>,
    ) -> Reply<Self::ExportEntriesStream> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let query = EntryQuery {
            org_id: Some(grant.org_id()),
            project_id: optional_id(&message.project_id)?,
            filter: message.filter.clone().unwrap_or_default(),
            account: None,
        };
        let format = match message.format() {
            pb::ExportFormat::Unspecified => pb::ExportFormat::Json,
            format => format,
        };
        let binding = query.binding();
        let page = self.pager.page(&call, 0, &message.cursor, &[&binding, format.as_str_name()])?;
        let request = ExportRequest { org_id: grant.org_id(), query, format, page };
        let export = Export::start(self.reader.clone(), &self.signer, request).await?;
        // the export is logged before its first line is sent.
        let log_export = async |tx: &mut Tx| {
            tx.emit(export.event());
            Ok(pb::ExportEntriesResponse::default())
        };
        self.reader.db.write(&call, log_export).await?;
        let chunks = export.into_stream().map(|chunk| {
            let chunk = chunk?;
            Ok(pb::ExportEntriesResponse {
                chunk: chunk.text.into_bytes(),
                cursor: chunk.cursor,
                count: i32::try_from(chunk.count).unwrap_or(i32::MAX),
            })
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn get_retention(
        &self,
        request: Request<pb::GetRetentionRequest>,
    ) -> Reply<pb::GetRetentionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let retention = retention::store::get(&self.reader.db, grant.org_id()).await?;
        let retention = retention.unwrap_or_default();
        reply(pb::GetRetentionResponse {
            days: retention.days.unwrap_or_default(),
            held: retention.held,
            size: retention.size,
            purged_before_index: retention.purged_before,
        })
    }

    async fn set_legal_hold(
        &self,
        request: Request<pb::SetLegalHoldRequest>,
    ) -> Reply<pb::SetLegalHoldResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let held = call.message.held;
        let note = call.message.note.as_str();
        let set = async |tx: &mut Tx| {
            retention::purge::set_legal_hold(tx, grant.org_id(), held, note).await?;
            Ok(pb::SetLegalHoldResponse { held })
        };
        reply(self.reader.db.write(&call, set).await?)
    }
}

impl Rpc {
    /// Authorizes the caller for the entries of an organization, or of one of its projects. A deleted project
    /// has no grants any more: its entries are readable with the permission on the organization (AU-20).
    async fn scope<M: Check>(
        &self,
        call: &Call<M>,
        org_id: &str,
        project_id: &str,
    ) -> Result<EntryScope> {
        let not_found = match self.access.scope(call, org_id, project_id).await {
            Ok(grant) => {
                return Ok(EntryScope { org_id: grant.org_id(), project_id: grant.project_id() });
            }
            Err(Error::NotFound(noun)) if !project_id.is_empty() => Error::NotFound(noun),
            Err(error) => return Err(error),
        };
        let org_id = match self.access.org(call, org_id).await {
            Ok(grant) => grant.org_id(),
            Err(Error::NotFound(_) | Error::Denied { .. } | Error::Refused { .. }) => {
                return Err(not_found);
            }
            Err(error) => return Err(error),
        };
        let project_id = ProjectId(chassis::id::parse("project_id", project_id)?);
        if !entry::store::has_project(&self.reader.db, org_id, project_id).await? {
            return Err(not_found);
        }
        Ok(EntryScope { org_id, project_id: Some(project_id) })
    }

    async fn list<M: Check>(
        &self,
        call: &Call<M>,
        query: &EntryQuery,
        page_size: i32,
        page_token: &str,
    ) -> Result<EntryPage> {
        let page_size = if page_size == 0 { PAGE_SIZE_DEFAULT } else { page_size };
        let page = self.pager.page(call, page_size, page_token, &[&query.binding()])?;
        self.reader.list(query, &page).await
    }
}

/// Entries that a caller may read.
struct EntryScope {
    org_id: OrgId,
    /// The project, if the request names one.
    project_id: Option<ProjectId>,
}

impl EntryScope {
    fn query(&self, filter: Option<pb::EntryFilter>) -> EntryQuery {
        EntryQuery {
            org_id: Some(self.org_id),
            project_id: self.project_id,
            filter: filter.unwrap_or_default(),
            account: None,
        }
    }
}

/// Parses an id that may be empty.
fn optional_id<I>(id: &str) -> Result<Option<I>, I::Err>
where
    I: std::str::FromStr,
{
    if id.is_empty() { Ok(None) } else { id.parse().map(Some) }
}
