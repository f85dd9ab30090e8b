//! The gRPC surface of entries.

use api::audit::{self as pb, audit_service_server::AuditService};
use chassis::{
    Access, Call, Error, Reply, Result, ScopeGrant, Tx,
    follow::{Messages, follow},
    page::Pager,
    reply,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};

use super::{
    find::{self, Wanted},
    read::Reader,
    store,
    watch::NewEntries,
};
use crate::{
    export::Export,
    proof::{path::in_suite, store::Signed},
    retention,
};

pub(crate) struct Rpc {
    pub(crate) reader: Reader,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) draining: CancellationToken,
    pub(crate) signer: std::sync::Arc<crate::note::Signer>,
}

/// How many entries a page has if nobody says (AU-12).
const PAGE: i32 = 50;

#[tonic::async_trait]
impl AuditService for Rpc {
    type WatchEntriesStream = Messages<pb::WatchEntriesResponse>;
    type ExportEntriesStream = Messages<pb::ExportEntriesResponse>;

    async fn list_entries(
        &self,
        request: Request<pb::ListEntriesRequest>,
    ) -> Reply<pb::ListEntriesResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.scope(&call, &it.org_id, &it.project_id).await?;
        let wanted = wanted(&grant, it.filter.clone());
        let page = (it.page_size, it.page_token.as_str());
        let (entries, next_page_token) = self.page(&call, wanted, page).await?;
        reply(pb::ListEntriesResponse { entries, next_page_token })
    }

    async fn list_account_entries(
        &self,
        request: Request<pb::ListAccountEntriesRequest>,
    ) -> Reply<pb::ListAccountEntriesResponse> {
        let call = Call::of(request)?;
        let wanted = Wanted { account: Some(call.account()?.user_id), ..Wanted::default() };
        let page = (call.message.page_size, call.message.page_token.as_str());
        let (entries, next_page_token) = self.page(&call, wanted, page).await?;
        reply(pb::ListAccountEntriesResponse { entries, next_page_token })
    }

    async fn watch_entries(
        &self,
        request: Request<pb::WatchEntriesRequest>,
    ) -> Reply<Self::WatchEntriesStream> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.scope(&call, &it.org_id, &it.project_id).await?;
        let wanted = wanted(&grant, it.filter.clone());
        let end = find::search(&self.reader.db, &wanted).await?.end;
        let next_index = if it.from_index == 0 { end } else { it.from_index };
        let new = NewEntries { reader: self.reader.clone(), wanted, next_index };
        let (db, org_id) = (&self.reader.db, grant.org_id().0);
        Ok(Response::new(follow(db, org_id, self.draining.clone(), new)))
    }

    async fn export_entries(
        &self,
        request: Request<pb::ExportEntriesRequest>,
    ) -> Reply<Self::ExportEntriesStream> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let export = Export::begin(self, &call, &grant).await?;
        // it is in the log before the first line leaves.
        let audited = async |tx: &mut Tx| {
            tx.emit(export.event(grant.org_id()));
            Ok(pb::ExportEntriesResponse::default())
        };
        self.reader.db.write(&call, audited).await?;
        Ok(Response::new(Box::pin(export.stream())))
    }

    async fn get_retention(
        &self,
        request: Request<pb::GetRetentionRequest>,
    ) -> Reply<pb::GetRetentionResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let kept = retention::store::get(&self.reader.db, grant.org_id()).await?;
        reply(kept.unwrap_or_default())
    }

    async fn set_legal_hold(
        &self,
        request: Request<pb::SetLegalHoldRequest>,
    ) -> Reply<pb::SetLegalHoldResponse> {
        let call = Call::of(request)?;
        let grant = self.access.org(&call, &call.message.org_id).await?;
        let (held, note) = (call.message.held, call.message.note.as_str());
        let set = async |tx: &mut Tx| {
            retention::job::hold(tx, grant.org_id(), held, note).await?;
            Ok(pb::SetLegalHoldResponse { held })
        };
        reply(self.reader.db.write(&call, set).await?)
    }
}

impl Rpc {
    /// Where a head is in the suite's tree, as a bundle tells it.
    pub(crate) async fn suite(&self, signed: &Signed) -> Result<Option<serde_json::Value>> {
        let suite = in_suite(&self.reader.db, signed).await?;
        suite.map(|it| self.reader.json(&it)).transpose()
    }

    /// A page of entries, newest first, and the token of the next one (AU-12).
    async fn page<M>(
        &self,
        call: &Call<M>,
        wanted: Wanted,
        (size, token): (i32, &str),
    ) -> Result<(Vec<pb::Entry>, String)>
    where
        M: api::check::Check,
    {
        let size = if size == 0 { PAGE } else { size };
        let page = self.pager.page(call, size, token, &[&wanted.binding()])?;
        let mut search = find::search(&self.reader.db, &wanted).await?;
        if let Some(after) = page.after::<i64>()? {
            search.end = search.end.min(after);
        }
        let rows = store::newest(&self.reader.db, &search, page.limit()).await?;
        let (rows, next) = page.cut(rows, |it| it.index.to_string());
        Ok((self.reader.open(rows).await?, next))
    }
}

fn wanted(grant: &ScopeGrant, filter: Option<pb::EntryFilter>) -> Wanted {
    Wanted {
        org_id: Some(grant.org_id()),
        project_id: grant.project_id(),
        filter: filter.unwrap_or_default(),
        account: None,
    }
}

/// What an export without a filter, or with one, is narrowed to.
pub(crate) fn export_wanted(
    grant: &chassis::Grant,
    project_id: &str,
    filter: Option<pb::EntryFilter>,
) -> Result<Wanted, Error> {
    let project_id = Some(project_id).filter(|it| !it.is_empty());
    let project_id = project_id.map(str::parse).transpose()?;
    let filter = filter.unwrap_or_default();
    Ok(Wanted { org_id: Some(grant.org_id()), project_id, filter, account: None })
}
