//! Billing with Stripe: webhooks, outages, declined cards, seats, plan changes and invoices. The Stripe API
//! is `testkit::Stripe`, in the shape of its documentation.

use api::identity::{self as pb, organization_service_client::OrganizationServiceClient};
use serde_json::{Value, json};
use testkit::Stripe;
use time::Duration;

use crate::support::{
    billing::Customer,
    tables::tables_with,
    world::{add_member, new_member, text},
};

const INVITE: &str = "invitation.v1.InvitationService/CreateInvitation";

/// PL-46: nobody gets a paid plan without a payment; a checkout changes the plan only when the provider
/// confirms it.
#[tokio::test(flavor = "multi_thread")]
async fn a_paid_plan_needs_a_checkout() {
    let customer = Customer::new().await;
    let plan = |plan: &str| json!({ "plan": plan });
    assert_eq!(customer.refusal("ChangePlan", plan("PLAN_PRO")).await, "CHECKOUT_REQUIRED");
    assert_eq!(customer.refusal("ChangePlan", plan("PLAN_AGENCY")).await, "PLAN_NOT_SOLD");
    assert_eq!(customer.refusal("CreatePortalSession", json!({})).await, "NO_SUBSCRIPTION");
    let preview = customer.call("PreviewPlanChange", plan("PLAN_PRO")).await["preview"].clone();
    assert_eq!(preview["checkoutRequired"], json!(true));
    assert_eq!(preview["recurring"], json!({ "currency": "USD", "amount": "3900" }));
    let options = customer.call("GetBillingOptions", json!({})).await;
    assert_eq!(options["charges"], json!(true));
    let names = options["plans"].as_array().unwrap().iter().map(|it| text(&it["plan"]));
    assert_eq!(names.collect::<Vec<_>>(), ["PLAN_FREE", "PLAN_STARTER", "PLAN_PRO"]);
    let checkout = customer.call("CreateCheckoutSession", plan("PLAN_PRO")).await;
    assert!(text(&checkout["url"]).starts_with("https://checkout.stripe.com/"), "{checkout}");
    assert_eq!(customer.subscription().await["plan"], "PLAN_FREE");
    let account = customer.stripe.complete_checkout(customer.now());
    assert_eq!(customer.deliver("checkout.session.completed", "cs_1", &account).await, 200);
    let subscription = customer.wait_for("SUBSCRIPTION_TRIALING").await;
    assert_eq!(subscription["plan"], "PLAN_PRO");
    assert_eq!(
        customer.refusal("CreateCheckoutSession", plan("PLAN_PRO")).await,
        "SUBSCRIPTION_EXISTS"
    );
    // The state comes from the provider alone.
    let set = pb::SetSubscriptionRequest {
        org_id: customer.org.clone(),
        subscription: pb::Subscription::Active.into(),
        ..Default::default()
    };
    let mut external = OrganizationServiceClient::new(customer.suite.billing_to_identity.clone());
    let refused = external.set_subscription(set).await.unwrap_err();
    assert_eq!(crate::support::raw::reason(&refused), "BILLING_MANAGED");
    customer.suite.finish().await;
}

/// PL-46: a webhook counts once, in any order, and only with a fresh signature of this account's secret.
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_accepted_once_and_in_any_order() {
    let customer = Customer::subscribed("PRO").await;
    let (suite, stripe) = (&customer.suite, &customer.stripe);
    let account = customer.customer_id().await;
    let now = customer.now();
    let invoice = stripe.add_invoice(&account, "paid", 3_900, now);
    let paid = stripe.event("invoice.paid", &invoice, &account);
    // Twice.
    assert_eq!(stripe.deliver(suite, &paid).await, 200);
    customer.wait_for_webhooks().await;
    assert_eq!(stripe.deliver(suite, &paid).await, 200);
    // Late, from the future, forged, altered, without a signature, and of another account or mode.
    let signed = |body: &str, at| Stripe::signature(body, at, false);
    let other = stripe.event("invoice.paid", &invoice, "cus_unknown");
    let live = paid.replace("\"livemode\":false", "\"livemode\":true");
    let altered = paid.replace("evt_", "evt_x");
    for (body, signature, status) in [
        (&paid, signed(&paid, now - 400), 400),
        (&paid, signed(&paid, now + 400), 400),
        (&paid, Stripe::signature(&paid, now, true), 400),
        (&altered, signed(&paid, now), 400),
        (&paid, String::new(), 400),
        (&live, signed(&live, now), 400),
        (&other, signed(&other, now), 404),
    ] {
        assert_eq!(
            stripe.deliver_signed(suite, body, &signature).await,
            status,
            "{body} {signature}"
        );
    }
    // An invoice of another account is in no log.
    let foreign = stripe.add_invoice("cus_other", "paid", 1, now);
    assert_eq!(customer.deliver("invoice.paid", &foreign, &account).await, 200);
    // The event about the newer state arrives first, that about the older one last.
    stripe.change(|it| "past_due".clone_into(&mut it.status));
    let older = stripe.event("customer.subscription.updated", "sub_1", &account);
    stripe.change(|it| "active".clone_into(&mut it.status));
    let newer = stripe.event("customer.subscription.updated", "sub_1", &account);
    assert_eq!(stripe.deliver(suite, &newer).await, 200);
    customer.wait_for("SUBSCRIPTION_ACTIVE").await;
    assert_eq!(stripe.deliver(suite, &older).await, 200);
    customer.wait_for_webhooks().await;
    assert_eq!(customer.subscription().await["state"], "SUBSCRIPTION_ACTIVE");
    suite.wait_for_log().await;
    assert_eq!(suite.count_entries("invoice.paid").await, 1);
    customer.suite.finish().await;
}

/// PL-46: while the provider is down, the control plane works, and changes of the subscription are refused;
/// then it catches up with everything that happened meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_provider_for_a_day_is_caught_up() {
    let mut customer = Customer::subscribed("PRO").await;
    customer.call("UpdateSeats", json!({ "seatPolicy": "SEAT_POLICY_BUY" })).await;
    customer.stripe.set_down(true);
    assert_eq!(
        customer.refusal("ChangePlan", json!({ "plan": "PLAN_STARTER" })).await,
        "DEPENDENCY_UNAVAILABLE"
    );
    let account = customer.customer_id().await;
    assert_eq!(customer.deliver("customer.subscription.updated", "sub_1", &account).await, 200);
    let (suite, owner, org) = (&customer.suite, &customer.owner, &customer.org);
    new_member(suite, owner, org, "bob@example.com", "DEVELOPER").await;
    assert_eq!(customer.subscription().await["seatsUsed"], "2");
    customer.stripe.change(|it| "past_due".clone_into(&mut it.status));
    customer.suite.clock.advance(Duration::days(1));
    customer.owner = customer.owner.sign_in_again().await;
    customer.stripe.set_down(false);
    customer.suite.clock.advance(Duration::days(1));
    customer.owner = customer.owner.sign_in_again().await;
    let met = |it: &Value| it["state"] == "SUBSCRIPTION_PAST_DUE" && it["seatsPaid"] == "2";
    customer.wait_until("the end of the outage", met).await;
    assert_eq!(customer.stripe.subscription().quantity, 2);
    customer.suite.finish().await;
}

/// PL-46: a difference that no webhook has announced is found within a day, and is an event.
#[tokio::test(flavor = "multi_thread")]
async fn differences_from_the_provider_are_found_daily() {
    let mut customer = Customer::subscribed("PRO").await;
    customer.wait_for_webhooks().await;
    customer.stripe.change(|it| it.cancel_at_period_end = true);
    customer.suite.clock.advance(Duration::days(1) + Duration::MINUTE);
    customer.owner = customer.owner.sign_in_again().await;
    customer.wait_until("the comparison", |it| it["cancelAtPeriodEnd"] == json!(true)).await;
    customer.suite.wait_for_log().await;
    assert_eq!(customer.suite.count_entries("subscription.reconciled").await, 1);
    assert_eq!(customer.suite.count_entries("subscription.cancellation_scheduled").await, 1);
    customer.suite.finish().await;
}

/// PL-49: paid seats refuse joins, or are bought by them; a declined card changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn seats_are_refused_or_bought_as_the_owner_chose() {
    let customer = Customer::subscribed("PRO").await;
    let (suite, owner, org) = (&customer.suite, &customer.owner, &customer.org);
    assert_eq!(customer.subscription().await["seatsPaid"], "1");
    let invite = json!({ "orgId": org, "email": "bob@example.com", "role": "ORG_ROLE_VIEWER" });
    assert_eq!(owner.call_err(INVITE, invite).await, "MEMBER_LIMIT_REACHED");
    let seats = |seats: i64| json!({ "seatPolicy": "SEAT_POLICY_REFUSE", "seats": seats });
    customer.stripe.set_declining(true);
    assert_eq!(customer.refusal("UpdateSeats", seats(2)).await, "PAYMENT_FAILED");
    assert_eq!(customer.subscription().await["seatsPaid"], "1");
    customer.stripe.set_declining(false);
    customer.call("UpdateSeats", seats(2)).await;
    let bob = new_member(suite, owner, org, "bob@example.com", "VIEWER").await;
    let carl = suite.person("carl@example.com").await;
    let invite = json!({ "orgId": org, "email": carl.email, "role": "ORG_ROLE_VIEWER" });
    assert_eq!(owner.call_err(INVITE, invite).await, "MEMBER_LIMIT_REACHED");
    assert_eq!(customer.refusal("UpdateSeats", seats(1)).await, "SEATS_BELOW_MEMBERS");
    customer.call("UpdateSeats", json!({ "seatPolicy": "SEAT_POLICY_BUY" })).await;
    add_member(owner, org, &carl, "VIEWER").await;
    customer.wait_until("the third seat", |it| it["seatsPaid"] == "3").await;
    assert_eq!(customer.stripe.subscription().quantity, 3);
    // The number of seats follows the members, so a departure returns one.
    let remove = json!({ "orgId": org, "userId": bob.user_id });
    owner.call_ok("identity.v1.MemberService/RemoveMember", remove).await;
    customer.wait_until("the second seat", |it| it["seatsPaid"] == "2").await;
    customer.suite.finish().await;
}

/// PL-48: an upgrade is charged and takes effect at once; a cheaper plan waits for the end of the period, and
/// can be withdrawn; so can a cancellation. A repeated call is charged once.
#[tokio::test(flavor = "multi_thread")]
async fn a_cheaper_plan_waits_for_the_end_of_the_period() {
    let customer = Customer::subscribed("STARTER").await;
    let plan = |plan: &str| json!({ "plan": plan });
    let preview = customer.call("PreviewPlanChange", plan("PLAN_PRO")).await["preview"].clone();
    assert_eq!(preview["amountDue"], json!({ "currency": "USD", "amount": "2345" }));
    customer.stripe.set_declining(true);
    assert_eq!(customer.refusal("ChangePlan", plan("PLAN_PRO")).await, "PAYMENT_FAILED");
    assert_eq!(customer.subscription().await["plan"], "PLAN_STARTER");
    customer.stripe.set_declining(false);
    let request_id = chassis::id::new().to_string();
    let change = json!({ "plan": "PLAN_PRO", "requestId": request_id });
    let first = customer.call("ChangePlan", change.clone()).await;
    assert_eq!(first["organization"]["plan"], "PLAN_PRO");
    let count =
        || customer.stripe.requests().iter().filter(|it| it.starts_with("POST /v1/subsc")).count();
    let before = count();
    assert_eq!(customer.call("ChangePlan", change).await, first);
    assert_eq!(count(), before, "the repetition calls the provider");
    let scheduled = customer.call("ChangePlan", plan("PLAN_STARTER")).await;
    assert_eq!(scheduled["organization"]["plan"], "PLAN_PRO");
    assert_eq!(scheduled["subscription"]["scheduledPlan"], "PLAN_STARTER");
    let preview = customer.call("PreviewPlanChange", plan("PLAN_STARTER")).await;
    assert_eq!(preview["preview"]["effectiveTime"], scheduled["subscription"]["periodEndTime"]);
    let resumed = customer.call("ResumeSubscription", json!({})).await;
    assert_eq!(resumed["subscription"]["scheduledPlan"], json!(null));
    let cancelled = customer.call("CancelSubscription", json!({})).await;
    assert_eq!(cancelled["subscription"]["cancelAtPeriodEnd"], json!(true));
    assert!(customer.stripe.subscription().cancel_at_period_end);
    customer.call("ResumeSubscription", json!({})).await;
    assert!(!customer.stripe.subscription().cancel_at_period_end);
    let free = customer.call("ChangePlan", plan("PLAN_FREE")).await;
    assert_eq!(free["organization"]["plan"], "PLAN_PRO");
    assert_eq!(free["subscription"]["cancelAtPeriodEnd"], json!(true));
    customer.suite.finish().await;
}

/// PL-46: a change whose response is lost is repeated with the same idempotency key, so it is made once.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_with_a_lost_response_is_made_once() {
    let customer = Customer::subscribed("STARTER").await;
    let request_id = chassis::id::new().to_string();
    let change = json!({ "plan": "PLAN_PRO", "requestId": request_id });
    customer.stripe.set_losing_responses(true);
    assert_eq!(customer.refusal("ChangePlan", change.clone()).await, "DEPENDENCY_UNAVAILABLE");
    assert_eq!(customer.stripe.subscription().price, "price_pro");
    assert_eq!(customer.subscription().await["plan"], "PLAN_STARTER");
    customer.stripe.set_losing_responses(false);
    let changed = customer.call("ChangePlan", change).await;
    assert_eq!(changed["organization"]["plan"], "PLAN_PRO");
    assert_eq!(customer.stripe.updates(), 1);
    customer.suite.finish().await;
}

/// PL-5: invoices are listed newest first, page by page; an invoice of another organization is not found. The
/// portal is a link. No text that the suite stores has card data or a link of the provider.
#[tokio::test(flavor = "multi_thread")]
async fn invoices_are_read_from_the_provider_page_by_page() {
    let customer = Customer::subscribed("PRO").await;
    let account = customer.customer_id().await;
    let now = customer.now();
    let mut ids: Vec<_> =
        (0..7).map(|it| customer.stripe.add_invoice(&account, "paid", 100 + it, now)).collect();
    let foreign = customer.stripe.add_invoice("cus_other", "paid", 1, now);
    ids.reverse();
    let mut read: Vec<String> = vec![];
    let mut page_token = String::new();
    loop {
        let page = json!({ "pageSize": 3, "pageToken": page_token });
        let page = customer.call("ListInvoices", page).await;
        read.extend(page["invoices"].as_array().unwrap().iter().map(|it| text(&it["id"])));
        page_token = text(&page["nextPageToken"]);
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(read, ids);
    let invoice =
        customer.call("GetInvoice", json!({ "invoiceId": ids[0] })).await["invoice"].clone();
    assert_eq!(invoice["state"], "INVOICE_STATE_PAID");
    assert_eq!(invoice["total"], json!({ "currency": "USD", "amount": "106" }));
    assert!(text(&invoice["url"]).starts_with("https://invoice.stripe.com/"), "{invoice}");
    for id in [foreign.as_str(), "in_none"] {
        assert_eq!(customer.refusal("GetInvoice", json!({ "invoiceId": id })).await, "NOT_FOUND");
    }
    let portal = customer.call("CreatePortalSession", json!({})).await;
    assert!(text(&portal["url"]).starts_with("https://"), "{portal}");
    assert_eq!(customer.deliver("invoice.payment_failed", &ids[0], &account).await, 200);
    customer.wait_for_webhooks().await;
    customer.suite.wait_for_log().await;
    assert_eq!(customer.suite.count_entries("billing_portal.opened").await, 1);
    let links = "select count(*) from audit.entry where position('stripe.com'::bytea in leaf) > 0";
    assert_eq!(customer.suite.count(links).await, 0);
    for secret in Stripe::SECRETS {
        let tables = tables_with(&customer.suite, secret.as_bytes()).await;
        assert_eq!(tables, Vec::<String>::new(), "{secret}");
    }
    customer.suite.finish().await;
}

/// ID-35: the subscription of a deleted organization ends at the provider.
#[tokio::test(flavor = "multi_thread")]
async fn the_subscription_of_a_deleted_organization_ends() {
    let customer = Customer::subscribed("PRO").await;
    let delete = json!({ "orgId": customer.org, "confirmName": "Acme" });
    customer.owner.call_ok("identity.v1.OrganizationService/DeleteOrganization", delete).await;
    testkit::eventually("the end of the subscription", async || {
        (customer.stripe.subscription().status == "canceled").then_some(())
    })
    .await;
    customer.suite.finish().await;
}
