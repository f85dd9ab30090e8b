//! gRPC service of alerts.

use api::{
    identity::{ListVisibleProjectsRequest, access_service_client::AccessServiceClient},
    notification::{self as pb, alert_service_server::AlertService},
};
use chassis::{
    Access, Call, Db, Reply, Result, Tx, channel::ServiceChannel, error::remote, page::Pager, reply,
};
use tonic::Request;
use uuid::Uuid;

use super::{Report, commands, store};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) identity: ServiceChannel,
}

#[tonic::async_trait]
impl AlertService for Rpc {
    async fn report_alert(
        &self,
        request: Request<pb::ReportAlertRequest>,
    ) -> Reply<pb::ReportAlertResponse> {
        let call = Call::of(request)?;
        let report = to_report(&call.message)?;
        let write = async |tx: &mut Tx| {
            let alert = commands::report(tx, report).await?;
            Ok(pb::ReportAlertResponse { alert: alert.as_ref().map(Into::into) })
        };
        reply(self.db.write(&call, write).await?)
    }

    async fn list_alerts(
        &self,
        request: Request<pb::ListAlertsRequest>,
    ) -> Reply<pb::ListAlertsResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let grant = self.access.org(&call, &message.org_id).await?;
        let filter_key = [message.org_id.as_str()];
        let page = self.pager.page(&call, message.page_size, &message.page_token, &filter_key)?;
        let project_ids = self.visible_projects(&call, &message.org_id).await?;
        let rows = store::list(&self.db, grant.org_id(), &project_ids, &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.to_string());
        let alerts = rows.iter().map(Into::into).collect();
        reply(pb::ListAlertsResponse { alerts, next_page_token })
    }
}

impl Rpc {
    /// Ids of the projects in which the caller has a role. An Admin of the organization sees that other
    /// projects exist, but not their alerts (ID-38).
    async fn visible_projects<M>(&self, call: &Call<M>, org_id: &str) -> Result<Vec<Uuid>> {
        let request =
            ListVisibleProjectsRequest { org_id: org_id.to_owned(), ..Default::default() };
        let mut identity = AccessServiceClient::new(self.identity.clone());
        let visible = identity.list_visible_projects(call.forward(request)).await;
        let visible = visible.map_err(remote("identity"))?.into_inner();
        Ok(visible.projects.iter().filter_map(|it| it.project_id.parse().ok()).collect())
    }
}

fn to_report(message: &pb::ReportAlertRequest) -> Result<Report> {
    let project_id = Some(&message.project_id).filter(|it| !it.is_empty());
    Ok(Report {
        org_id: message.org_id.parse()?,
        project_id: project_id.map(|it| it.parse()).transpose()?,
        kind: message.kind(),
        target: message.target.clone(),
        target_name: message.target_name.clone(),
        severity: message.severity(),
        value: message.value.clone(),
    })
}
