//! gRPC service of DNS connections.

use std::sync::Arc;

use api::project::{self as pb, dns_connection_service_server::DnsConnectionService};
use chassis::{Access, Call, Db, Grant, Refusal, Reply, Tx, page::Pager, reply};
use project_rules::{
    connection::dns::{DnsConnection, Draft, Patch},
    variable::Vault,
};
use tonic::Request;

use super::commands::{Connections, TestResult};
use crate::{dns::dns_client::DnsClient, store};

/// Implementation of `DnsConnectionService`.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) vault: Vault,
    pub(crate) dns: Arc<DnsClient>,
}

impl Rpc {
    fn connections<'a>(&'a self, grant: &'a Grant) -> Connections<'a> {
        Connections { db: &self.db, grant, vault: &self.vault, dns: &self.dns }
    }
}

#[tonic::async_trait]
impl DnsConnectionService for Rpc {
    async fn create_dns_connection(
        &self,
        request: Request<pb::CreateDnsConnectionRequest>,
    ) -> Reply<pb::CreateDnsConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let draft = Draft::from_request(&call.message)?;
        let response = |it: &DnsConnection| pb::CreateDnsConnectionResponse {
            dns_connection: Some(it.into()),
        };
        reply(self.connections(&grant).create(&call, draft, response).await?)
    }

    async fn test_dns_connection(
        &self,
        request: Request<pb::TestDnsConnectionRequest>,
    ) -> Reply<pb::TestDnsConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.dns_connection_id.parse()?;
        let response = |it: TestResult| {
            let reason = it.failure.as_ref().map(|it| it.reason().as_str_name());
            pb::TestDnsConnectionResponse {
                dns_connection: Some((&it.connection).into()),
                success: it.failure.is_none(),
                error_message: it.failure.as_ref().map(ToString::to_string).unwrap_or_default(),
                reason: reason.unwrap_or_default().trim_start_matches("REASON_").to_owned(),
            }
        };
        reply(self.connections(&grant).test_stored(&call, id, response).await?)
    }

    async fn get_dns_connection(
        &self,
        request: Request<pb::GetDnsConnectionRequest>,
    ) -> Reply<pb::GetDnsConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.dns_connection_id.parse()?;
        let connection = store::dns_connection::get(&self.db, grant.org_id(), id).await?;
        reply(pb::GetDnsConnectionResponse { dns_connection: Some((&connection).into()) })
    }

    async fn list_dns_connections(
        &self,
        request: Request<pb::ListDnsConnectionsRequest>,
    ) -> Reply<pb::ListDnsConnectionsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let page =
            self.pager.page(&call, message.page_size, &message.page_token, &[&message.org_id])?;
        let rows = store::dns_connection::list(&self.db, &grant, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
        let dns_connections = rows.iter().map(Into::into).collect();
        reply(pb::ListDnsConnectionsResponse { dns_connections, next_page_token })
    }

    async fn update_dns_connection(
        &self,
        request: Request<pb::UpdateDnsConnectionRequest>,
    ) -> Reply<pb::UpdateDnsConnectionResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let patch = Patch::from_request(message)?;
        let id = message.dns_connection_id.parse()?;
        let response = |it: &DnsConnection| pb::UpdateDnsConnectionResponse {
            dns_connection: Some(it.into()),
        };
        reply(self.connections(&grant).update(&call, id, patch, &message.etag, response).await?)
    }

    async fn set_default_dns_connection(
        &self,
        request: Request<pb::SetDefaultDnsConnectionRequest>,
    ) -> Reply<pb::SetDefaultDnsConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.dns_connection_id.parse()?;
        let set = async |tx: &mut Tx| {
            let connection = self.connections(&grant).set_default(tx, id).await?;
            Ok(pb::SetDefaultDnsConnectionResponse { dns_connection: Some((&connection).into()) })
        };
        reply(self.db.write(&call, set).await?)
    }

    async fn delete_dns_connection(
        &self,
        request: Request<pb::DeleteDnsConnectionRequest>,
    ) -> Reply<pb::DeleteDnsConnectionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let id = call.message.dns_connection_id.parse()?;
        let delete = async |tx: &mut Tx| {
            self.connections(&grant).delete(tx, id).await?;
            Ok(pb::DeleteDnsConnectionResponse {})
        };
        reply(self.db.write(&call, delete).await?)
    }

    async fn list_dns_records(
        &self,
        request: Request<pb::ListDnsRecordsRequest>,
    ) -> Reply<pb::ListDnsRecordsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let id = message.dns_connection_id.parse()?;
        let connection = store::dns_connection::get(&self.db, grant.org_id(), id).await?;
        let filter = [message.org_id.as_str(), message.dns_connection_id.as_str()];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter)?;
        let rows = store::dns_record::list(&self.db, &connection, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.into());
        let dns_records = rows.iter().map(Into::into).collect();
        reply(pb::ListDnsRecordsResponse { dns_records, next_page_token })
    }
}
