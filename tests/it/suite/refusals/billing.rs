//! Remedies of billing: a checkout, another card, and fewer members.

use serde_json::json;

use super::remedied;
use crate::support::{billing::Customer, world::new_member};

const CHECKOUT: &str = "identity.v1.BillingService/CreateCheckoutSession";

/// An organization pays for its first plan, changes its card, and reduces its seats.
pub(super) async fn billing() {
    let customer = Customer::new().await;
    let open_portal = async || customer.try_call("CreatePortalSession", json!({})).await;
    let starter = json!({ "plan": "PLAN_STARTER" });
    let check_out = async || {
        customer.call("CreateCheckoutSession", starter.clone()).await;
    };
    remedied("NO_SUBSCRIPTION", CHECKOUT, open_portal, check_out).await;
    remedied(
        "CHECKOUT_REQUIRED",
        CHECKOUT,
        async || customer.try_call("ChangePlan", starter.clone()).await,
        async || customer.subscribe("STARTER").await,
    )
    .await;
    customer.stripe.set_declining(true);
    remedied(
        "PAYMENT_FAILED",
        "identity.v1.BillingService/CreatePortalSession",
        async || customer.try_call("ChangePlan", json!({ "plan": "PLAN_PRO" })).await,
        async || {
            open_portal().await.unwrap();
            customer.stripe.set_declining(false);
        },
    )
    .await;
    let seats = async |seats: i64| {
        let update = json!({ "seatPolicy": "SEAT_POLICY_REFUSE", "seats": seats });
        customer.try_call("UpdateSeats", update).await
    };
    seats(2).await.unwrap();
    let (suite, owner, org) = (&customer.suite, &customer.owner, &customer.org);
    let bob = new_member(suite, owner, org, "bob@example.com", "VIEWER").await;
    let remove = "identity.v1.MemberService/RemoveMember";
    remedied(
        "SEATS_BELOW_MEMBERS",
        remove,
        async || seats(1).await,
        async || {
            owner.call_ok(remove, json!({ "orgId": org, "userId": bob.user_id })).await;
        },
    )
    .await;
    customer.suite.finish().await;
}
