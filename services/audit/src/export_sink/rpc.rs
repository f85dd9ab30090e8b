//! gRPC service of the sinks of the continuous export.

use api::audit::{self as pb, audit_export_service_server::AuditExportService};
use chassis::{Access, Call, Db, Grant, Reply, page::Pager, reply};
use tonic::Request;

use super::{Draft, ExportSink, Patch, commands::Sinks, storage::Storage, store};

/// Implementation of `AuditExportService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(super) storage: Storage,
}

impl Rpc {
    fn sinks<'a>(&'a self, grant: &'a Grant) -> Sinks<'a> {
        Sinks { db: &self.db, grant, storage: &self.storage }
    }
}

#[tonic::async_trait]
impl AuditExportService for Rpc {
    async fn create_export_sink(
        &self,
        request: Request<pb::CreateExportSinkRequest>,
    ) -> Reply<pb::CreateExportSinkResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let draft = Draft::from_request(&call.message)?;
        let response =
            |it: &ExportSink| pb::CreateExportSinkResponse { export_sink: Some(it.into()) };
        reply(self.sinks(&grant).create(&call, draft, response).await?)
    }

    async fn get_export_sink(
        &self,
        request: Request<pb::GetExportSinkRequest>,
    ) -> Reply<pb::GetExportSinkResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.export_sink_id.parse()?;
        let sink = store::get(&self.db, grant.org_id(), id).await?;
        reply(pb::GetExportSinkResponse { export_sink: Some((&sink).into()) })
    }

    async fn list_export_sinks(
        &self,
        request: Request<pb::ListExportSinksRequest>,
    ) -> Reply<pb::ListExportSinksResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let page =
            self.pager.page(&call, message.page_size, &message.page_token, &[&message.org_id])?;
        let rows = store::list(&self.db, grant.org_id(), &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
        let export_sinks = rows.iter().map(Into::into).collect();
        reply(pb::ListExportSinksResponse { export_sinks, next_page_token })
    }

    async fn update_export_sink(
        &self,
        request: Request<pb::UpdateExportSinkRequest>,
    ) -> Reply<pb::UpdateExportSinkResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let patch = Patch::from_request(message)?;
        let id = message.export_sink_id.parse()?;
        let response =
            |it: &ExportSink| pb::UpdateExportSinkResponse { export_sink: Some(it.into()) };
        reply(self.sinks(&grant).update(&call, id, patch, &message.etag, response).await?)
    }

    async fn delete_export_sink(
        &self,
        request: Request<pb::DeleteExportSinkRequest>,
    ) -> Reply<pb::DeleteExportSinkResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.export_sink_id.parse()?;
        let response = pb::DeleteExportSinkResponse {};
        reply(self.sinks(&grant).delete(&call, id, response).await?)
    }
}
