//! gRPC methods of billing.

use api::identity::{self as pb, billing_service_server::BillingService};
use chassis::{Access, Call, Reply, Tx, page::Pager, reply};
use identity_rules::{billing::SeatPolicy, organization::Plan};
use tonic::Request;

use super::{commands::Billing, wire};

/// Largest page of invoices: the provider returns at most 100 rows, one more than the page.
const PAGE_SIZE_MAX: i32 = 50;

/// The service and what its methods need.
pub(crate) struct Rpc {
    pub(crate) access: Access,
    pub(crate) pager: Pager,
    pub(crate) billing: Billing,
}

#[tonic::async_trait]
impl BillingService for Rpc {
    async fn get_subscription(
        &self,
        request: Request<pb::GetSubscriptionRequest>,
    ) -> Reply<pb::GetSubscriptionResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let subscribed = self.billing.get(authorization.org_id()).await?;
        let subscription = Some(self.billing.details(&subscribed));
        reply(pb::GetSubscriptionResponse { subscription })
    }

    async fn get_billing_options(
        &self,
        request: Request<pb::GetBillingOptionsRequest>,
    ) -> Reply<pb::GetBillingOptionsResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let options = self.billing.options(authorization.org_id()).await?;
        reply(wire::options(&self.billing, options))
    }

    async fn preview_plan_change(
        &self,
        request: Request<pb::PreviewPlanChangeRequest>,
    ) -> Reply<pb::PreviewPlanChangeResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let plan = Plan::try_from(call.message.plan())?;
        let preview = self.billing.preview(&call, authorization.org_id(), plan).await?;
        reply(pb::PreviewPlanChangeResponse { preview: Some(preview.into()) })
    }

    async fn change_plan(
        &self,
        request: Request<pb::ChangePlanRequest>,
    ) -> Reply<pb::ChangePlanResponse> {
        let call = Call::of(request)?;
        let pb::ChangePlanRequest { org_id, etag, request_id, .. } = &call.message;
        let authorization = self.access.org(&call, org_id).await?;
        let plan = Plan::try_from(call.message.plan())?;
        let billing = &self.billing;
        if let Some(first) = billing.db.stored_response(&call).await? {
            return reply(first);
        }
        let change =
            billing.prepare_plan_change(authorization.org_id(), plan, etag, request_id).await?;
        let store = async |tx: &mut Tx| {
            let changed = billing.store_plan_change(tx, &authorization, plan, etag, change).await?;
            Ok(wire::plan_changed(billing, &changed))
        };
        reply(billing.db.write(&call, store).await?)
    }

    async fn cancel_subscription(
        &self,
        request: Request<pb::CancelSubscriptionRequest>,
    ) -> Reply<pb::CancelSubscriptionResponse> {
        let call = Call::of(request)?;
        let pb::CancelSubscriptionRequest { org_id, request_id } = &call.message;
        let authorization = self.access.org(&call, org_id).await?;
        let billing = &self.billing;
        if let Some(first) = billing.db.stored_response(&call).await? {
            return reply(first);
        }
        let change = billing.set_cancellation(authorization.org_id(), true, request_id).await?;
        let store = async |tx: &mut Tx| {
            let changed = billing.store_cancellation(tx, &authorization, change).await?;
            let subscription = Some(billing.details(&changed));
            Ok(pb::CancelSubscriptionResponse { subscription })
        };
        reply(billing.db.write(&call, store).await?)
    }

    async fn resume_subscription(
        &self,
        request: Request<pb::ResumeSubscriptionRequest>,
    ) -> Reply<pb::ResumeSubscriptionResponse> {
        let call = Call::of(request)?;
        let pb::ResumeSubscriptionRequest { org_id, request_id } = &call.message;
        let authorization = self.access.org(&call, org_id).await?;
        let billing = &self.billing;
        if let Some(first) = billing.db.stored_response(&call).await? {
            return reply(first);
        }
        let change = billing.set_cancellation(authorization.org_id(), false, request_id).await?;
        let store = async |tx: &mut Tx| {
            let changed = billing.store_cancellation(tx, &authorization, change).await?;
            let subscription = Some(billing.details(&changed));
            Ok(pb::ResumeSubscriptionResponse { subscription })
        };
        reply(billing.db.write(&call, store).await?)
    }

    async fn update_seats(
        &self,
        request: Request<pb::UpdateSeatsRequest>,
    ) -> Reply<pb::UpdateSeatsResponse> {
        let call = Call::of(request)?;
        let pb::UpdateSeatsRequest { org_id, seats, request_id, .. } = &call.message;
        let authorization = self.access.org(&call, org_id).await?;
        let policy = SeatPolicy::try_from(call.message.seat_policy())?;
        let billing = &self.billing;
        if let Some(first) = billing.db.stored_response(&call).await? {
            return reply(first);
        }
        let id = authorization.org_id();
        let change = billing.change_seats(id, policy, *seats, request_id).await?;
        let store = async |tx: &mut Tx| {
            let changed = billing.store_seats(tx, &authorization, policy, change).await?;
            Ok(pb::UpdateSeatsResponse { subscription: Some(billing.details(&changed)) })
        };
        reply(billing.db.write(&call, store).await?)
    }

    async fn list_invoices(
        &self,
        request: Request<pb::ListInvoicesRequest>,
    ) -> Reply<pb::ListInvoicesResponse> {
        let call = Call::of(request)?;
        let pb::ListInvoicesRequest { org_id, page_size, page_token } = &call.message;
        let authorization = self.access.org(&call, org_id).await?;
        let size = (*page_size).min(PAGE_SIZE_MAX);
        let page = self.pager.page(&call, size, page_token, &[org_id])?;
        let rows = self.billing.invoices(authorization.org_id(), &page).await?;
        let (rows, next_page_token) = page.paginate(rows, |it| it.id.clone());
        let invoices = rows.iter().map(Into::into).collect();
        reply(pb::ListInvoicesResponse { invoices, next_page_token })
    }

    async fn get_invoice(
        &self,
        request: Request<pb::GetInvoiceRequest>,
    ) -> Reply<pb::GetInvoiceResponse> {
        let call = Call::of(request)?;
        let authorization = self.access.org(&call, &call.message.org_id).await?;
        let invoice =
            self.billing.invoice(authorization.org_id(), &call.message.invoice_id).await?;
        reply(pb::GetInvoiceResponse { invoice: Some((&invoice).into()) })
    }

    async fn create_checkout_session(
        &self,
        request: Request<pb::CreateCheckoutSessionRequest>,
    ) -> Reply<pb::CreateCheckoutSessionResponse> {
        let call = Call::of(request)?;
        let pb::CreateCheckoutSessionRequest { org_id, request_id, .. } = &call.message;
        let authorization = self.access.org(&call, org_id).await?;
        let plan = Plan::try_from(call.message.plan())?;
        let billing = &self.billing;
        if let Some(first) = billing.db.stored_response(&call).await? {
            return reply(first);
        }
        let url = billing.start_checkout(authorization.org_id(), plan, request_id).await?;
        let record = async |tx: &mut Tx| {
            let event = |details| wire::checkout_started(details, plan);
            billing.record_page(tx, &authorization, event).await?;
            Ok(pb::CreateCheckoutSessionResponse { url })
        };
        reply(billing.db.write(&call, record).await?)
    }

    async fn create_portal_session(
        &self,
        request: Request<pb::CreatePortalSessionRequest>,
    ) -> Reply<pb::CreatePortalSessionResponse> {
        let call = Call::of(request)?;
        let pb::CreatePortalSessionRequest { org_id, request_id } = &call.message;
        let authorization = self.access.org(&call, org_id).await?;
        let billing = &self.billing;
        if let Some(first) = billing.db.stored_response(&call).await? {
            return reply(first);
        }
        let url = billing.open_portal(authorization.org_id(), request_id).await?;
        let record = async |tx: &mut Tx| {
            billing.record_page(tx, &authorization, wire::portal_opened).await?;
            Ok(pb::CreatePortalSessionResponse { url })
        };
        reply(billing.db.write(&call, record).await?)
    }
}
