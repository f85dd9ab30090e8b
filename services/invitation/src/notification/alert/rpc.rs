//! gRPC service of alerts.

use std::collections::BTreeSet;

use api::{
    identity::{BatchCheckRequest, CheckItem, access_service_client::AccessServiceClient},
    notification::{self as pb, alert_service_server::AlertService},
};
use chassis::{
    Access, Call, Db, OrgId, ProjectId, Reply, Result, Tx,
    channel::ServiceChannel,
    error::remote,
    page::{Page, Pager},
    reply,
};
use tonic::Request;
use uuid::Uuid;

use super::{Alert, Report, commands, store};

/// Checks of one call of identity at most, and so alerts of one read.
const CHECKS_MAX: i64 = 128;

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
        let rows = self.visible_rows(&call, grant.org_id(), &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.to_string());
        let alerts = rows.iter().map(Into::into).collect();
        reply(pb::ListAlertsResponse { alerts, next_page_token })
    }
}

impl Rpc {
    /// Rows of a page, and the first one of the next page. Identity is asked about the projects of the read
    /// alerts only, because the caller may see any number of others.
    async fn visible_rows<M>(
        &self,
        call: &Call<M>,
        org_id: OrgId,
        page: &Page,
    ) -> Result<Vec<Alert>> {
        let mut limit = page.limit();
        let mut rows = vec![];
        let mut before = page.after::<Uuid>()?;
        loop {
            let read = store::list(&self.db, org_id, before, limit).await?;
            let is_last = i64::try_from(read.len()).is_ok_and(|it| it < limit);
            before = read.last().map(|it| it.id);
            let visible = self.visible_projects(call, org_id, &read).await?;
            let is_visible = |it: &Alert| it.project_id.is_none_or(|it| visible.contains(&it));
            rows.extend(read.into_iter().filter(is_visible));
            if is_last || rows.len() > page.size() {
                rows.truncate(page.size() + 1);
                return Ok(rows);
            }
            limit = CHECKS_MAX;
        }
    }

    /// Ids of the projects of these alerts in which the caller has a role. An Admin of the organization sees
    /// that other projects exist, but not their alerts (ID-38).
    async fn visible_projects<M>(
        &self,
        call: &Call<M>,
        org_id: OrgId,
        alerts: &[Alert],
    ) -> Result<BTreeSet<ProjectId>> {
        let ids: BTreeSet<_> = alerts.iter().filter_map(|it| it.project_id).collect();
        if ids.is_empty() {
            return Ok(ids);
        }
        let item = |id: &ProjectId| CheckItem {
            org_id: org_id.into(),
            project_id: (*id).into(),
            permission: "project.view".to_owned(),
            ..Default::default()
        };
        let request =
            BatchCheckRequest { items: ids.iter().map(item).collect(), ..Default::default() };
        let mut identity = AccessServiceClient::new(self.identity.clone());
        let checked = identity.batch_check(call.forward(request)).await;
        let answers = checked.map_err(remote("identity"))?.into_inner().answers;
        Ok(ids.into_iter().zip(answers).filter(|it| it.1.allowed).map(|it| it.0).collect())
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
