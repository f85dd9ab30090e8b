//! Synchronization of stored subscriptions with the provider.

use chassis::{Changed, Error, EventTarget, OrgId, Result, Tx};
use identity_rules::{
    billing::{Action, Cause, SubscriptionRecord, Synced, events, stripe::Invoice},
    organization::Organization,
};
use time::OffsetDateTime;

use super::{Billing, ProviderChange, Subscribed};
use crate::{
    billing::{
        provider::{Change, Stripe},
        store::{self, PendingEvent},
    },
    organization,
};

impl Billing {
    /// Returns the stored subscription with the state of the provider taken over.
    pub(super) fn sync(
        &self,
        organization: &Organization,
        change: &ProviderChange,
        now: OffsetDateTime,
    ) -> Synced {
        change.before.sync(organization, change.current.as_ref(), &self.terms, now)
    }

    /// Stores a synchronized subscription with its events, and the plan, state and seats of its organization,
    /// which must be locked. Fails with a conflict if the subscription has changed since it was read.
    pub(super) async fn store_synced(
        &self,
        tx: &mut Tx,
        organization: Organization,
        before: &SubscriptionRecord,
        synced: Synced,
        cause: Cause,
    ) -> Result<Subscribed> {
        let events = events(&organization, before, &synced, &self.terms, cause);
        let Synced { record, state, plan } = synced;
        if !store::update(tx, &record).await? {
            return Err(Error::conflict("the subscription has changed meanwhile; retry"));
        }
        for event in events {
            tx.emit(event);
        }
        let seat_limit = record.seat_limit();
        if seat_limit != organization.seat_limit {
            organization::store::set_seat_limit(tx, organization.id, seat_limit).await?;
        }
        let mut organization = organization;
        if plan != organization.plan {
            organization = organization::commands::change_plan(tx, organization, plan, "").await?;
        }
        organization = organization::commands::set_subscription(tx, organization, state).await?;
        Ok(Subscribed { organization, record: Some(record) })
    }

    /// Makes the next call to the provider for an organization, and stores the result with the webhooks that
    /// had arrived before the call.
    pub(crate) async fn synchronize(&self, stripe: &Stripe, org_id: OrgId) -> Result<()> {
        let pending = store::pending_events(&self.db, org_id).await?;
        let Subscribed { organization, record } = self.get(org_id).await?;
        let Some(before) = record else { return Ok(()) };
        let action = before.next_action(&organization, self.db.now());
        let change = self.execute(stripe, before, action).await?;
        let mut invoices = vec![];
        for event in pending.iter().filter(|it| invoice_event(&it.kind).is_some()) {
            invoices
                .push((event, stripe.invoice(&change.before.customer_id, &event.object_id).await));
        }
        let is_reconciliation = pending.is_empty() && action == Action::Read;
        let cause = if is_reconciliation { Cause::Reconciliation } else { Cause::Change };
        let work = async |tx: &mut Tx| {
            let organization = organization::store::lock(tx, org_id).await?;
            for (event, invoice) in invoices {
                record_invoice(tx, &organization, event, invoice).await?;
            }
            for event in &pending {
                store::finish_event(tx, org_id, &event.id).await?;
            }
            let synced = self.sync(&organization, &change, tx.now);
            log_differences(&change.before, &synced, cause);
            self.store_synced(tx, organization, &change.before, synced, cause).await
        };
        self.db.write_as_system("billing", work).await.map(|_| ())
    }

    async fn execute(
        &self,
        stripe: &Stripe,
        before: SubscriptionRecord,
        action: Action,
    ) -> Result<ProviderChange> {
        let now = self.db.now();
        let change = match action {
            Action::End => {
                stripe.end(before.provider_id.as_deref().unwrap_or_default()).await?;
                return self.unchanged(before).await;
            }
            Action::Read => return self.unchanged(before).await,
            Action::SetSeats(seats) => {
                let is_more = before.seats_paid.is_some_and(|it| seats > it);
                // The member has joined already. A declined card makes the subscription past due.
                Change::Seats { seats, is_more, must_succeed: false }
            }
            Action::SetPlan(plan) => {
                let organization = organization::store::get(&self.db, before.org_id).await?;
                // After the end of the period the present one was invoiced with the former price.
                let is_charged = before.period_end.is_some_and(|it| it <= now);
                Change::Plan { plan, seats: organization.members, is_charged }
            }
        };
        // A failed attempt gets a new key: the provider repeats its response to a key that it has seen.
        let attempt = format!("{}-{}", before.revision, before.failures);
        self.change_at_provider(before, &change, &attempt).await
    }
}

/// Warns about a difference that no webhook has announced.
fn log_differences(before: &SubscriptionRecord, synced: &Synced, cause: Cause) {
    let after = &synced.record;
    let differs = (&before.provider_id, before.status, before.seats_paid, before.period_end)
        != (&after.provider_id, after.status, after.seats_paid, after.period_end);
    if cause == Cause::Reconciliation && differs {
        let org_id = before.org_id;
        tracing::warn!(%org_id, ?before, ?after, "a subscription differed from that of the provider");
    }
}

/// An event of an invoice that is recorded in the audit log.
#[derive(Clone, Copy)]
enum InvoiceEvent {
    Paid,
    PaymentFailed,
}

/// Returns the audit event of a webhook with a type.
fn invoice_event(kind: &str) -> Option<InvoiceEvent> {
    match kind {
        "invoice.paid" => Some(InvoiceEvent::Paid),
        "invoice.payment_failed" => Some(InvoiceEvent::PaymentFailed),
        _ => None,
    }
}

/// Records an invoice once. One that the provider does not have for this organization is ignored.
async fn record_invoice(
    tx: &mut Tx,
    organization: &Organization,
    event: &PendingEvent,
    invoice: Result<Invoice>,
) -> Result<()> {
    let invoice = match invoice {
        Err(Error::NotFound(_)) => return Ok(()),
        other => other?,
    };
    if !store::finish_event(tx, organization.id, &event.id).await? {
        return Ok(());
    }
    let id = organization.id;
    let target = EventTarget::object("organization", id, &organization.name).in_org(id);
    let after = Some(invoice.without_links());
    match invoice_event(&event.kind) {
        Some(InvoiceEvent::Paid) => {
            // A first invoice of a trial has no amount.
            tx.emit(Changed::new((), &api::identity::InvoicePaid { after }, target));
        }
        Some(InvoiceEvent::PaymentFailed) => {
            tx.emit(Changed::new((), &api::identity::InvoicePaymentFailed { after }, target));
        }
        None => {}
    }
    Ok(())
}
