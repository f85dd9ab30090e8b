//! The gRPC surface of alerts.

use api::{
    identity::{ListVisibleProjectsRequest, access_service_client::AccessServiceClient},
    invitation::{self as pb, alert_service_server::AlertService},
};
use chassis::{Access, Call, Db, Reply, Tx, error::remote, link::Link, page::Pager, reply};
use tonic::Request;

use super::{Alert, Report, Turn, store};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) identity: Link,
}

#[tonic::async_trait]
impl AlertService for Rpc {
    async fn report_alert(
        &self,
        request: Request<pb::ReportAlertRequest>,
    ) -> Reply<pb::ReportAlertResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let project_id = Some(&it.project_id).filter(|it| !it.is_empty());
        let report = Report {
            org_id: it.org_id.parse()?,
            project_id: project_id.map(|it| it.parse()).transpose()?,
            kind: it.kind,
            target: it.target.clone(),
            target_name: it.target_name.clone(),
            severity: it.severity(),
            value: it.value.clone(),
        };
        let hear = async |tx: &mut Tx| {
            let open = store::lock(tx, &report).await?;
            let alert = match Alert::hear(open, report, tx.now) {
                Turn::Open(opened) => Some(store::insert(tx, opened).await?),
                Turn::Change(it) | Turn::Close(it) => {
                    store::update(tx, it.state()).await?;
                    Some(tx.emit(it))
                }
                Turn::Same(it) => {
                    store::update(tx, &it).await?;
                    Some(it)
                }
                Turn::Nothing => None,
            };
            Ok(pb::ReportAlertResponse { alert: alert.as_ref().map(Into::into) })
        };
        reply(self.db.write(&call, hear).await?)
    }

    async fn list_alerts(
        &self,
        request: Request<pb::ListAlertsRequest>,
    ) -> Reply<pb::ListAlertsResponse> {
        let call = Call::of(request)?;
        let it = &call.message;
        let grant = self.access.org(&call, &it.org_id).await?;
        let page = self.pager.page(&call, it.page_size, &it.page_token, &[&it.org_id])?;
        let question =
            ListVisibleProjectsRequest { org_id: it.org_id.clone(), ..Default::default() };
        let mut identity = AccessServiceClient::new(self.identity.clone());
        let visible = identity.list_visible_projects(call.forward(question)).await;
        let visible = visible.map_err(remote("identity"))?.into_inner();
        // An Admin sees the names of all projects, but nothing inside without a role (ID-38).
        let ids = visible.projects.iter().filter_map(|it| it.project_id.parse().ok());
        let ids: Vec<uuid::Uuid> = ids.collect();
        let rows = store::list(&self.db, grant.org_id(), &ids, &page).await?;
        let (rows, next_page_token) = page.cut(rows, |it| it.id.to_string());
        let alerts = rows.iter().map(Into::into).collect();
        reply(pb::ListAlertsResponse { alerts, next_page_token })
    }
}
