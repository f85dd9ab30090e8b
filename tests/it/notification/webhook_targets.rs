//! Addresses to which no webhook is sent: private addresses, redirects, and DNS rebinding.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use testkit::{Dns, Options, Receiver, Response, Suite};

use crate::{
    notification::webhook_service::CREATE,
    support::world::{World, text},
};

/// NO-1: forbidden targets are rejected when a webhook is saved and again before each delivery, with the
/// reason in the delivery.
#[tokio::test(flavor = "multi_thread")]
async fn no_webhook_is_sent_to_private_addresses() {
    let internal = Receiver::start().await;
    let dns = Dns::start(&[Ipv4Addr::new(93, 184, 215, 14)]).await;
    let redirect = format!("location: {}", internal.url("/inside"));
    let redirecting = Receiver::with_script(move |_| Response {
        header: redirect.clone(),
        ..Response::status(302)
    })
    .await;
    let webhook_exceptions = vec![redirecting.exception()];
    let webhook_dns = Some(dns.address());
    let suite =
        Suite::start_with(Options { webhook_exceptions, webhook_dns, ..Options::default() }).await;
    let world = World::new(&suite).await;
    let private = [
        "https://127.0.0.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest",
        "https://[fd00::1]/",
        "http://93.184.215.14/",
        "https://user:pass@hooks.example.com/",
    ];
    for url in private {
        let refusal =
            world.owner.call(CREATE, world.org_request(json!({ "url": url }))).await.unwrap_err();
        assert_eq!(refusal.reason, "WEBHOOK_TARGET_FORBIDDEN", "{url}");
    }
    // DNS rebinding: the name is public when it is saved and then resolves to this machine.
    let rebinding = world.create_webhook("https://hooks.example.com/", json!({})).await;
    dns.set_addresses(&[Ipv4Addr::LOCALHOST]);
    let reason = world
        .owner
        .call_err(CREATE, world.org_request(json!({ "url": "https://hooks.example.com/" })))
        .await;
    assert_eq!(reason, "WEBHOOK_TARGET_FORBIDDEN");
    let redirected = world.create_webhook(&redirecting.url("/"), json!({})).await;
    // A stored webhook that the current rules reject.
    let stale = world.create_webhook(&redirecting.url("/stale"), json!({})).await;
    let id: uuid::Uuid = text(&stale["webhook"]["id"]).parse().unwrap();
    sqlx::query("update invitation.webhook set url = 'https://[::ffff:127.0.0.1]/' where id = $1")
        .bind(id)
        .execute(&suite.pool)
        .await
        .unwrap();
    world.trigger_event().await;
    let wait_for_failure = async |hook: &Value, message: &str| {
        let has_message = |delivery: &Value| text(&delivery["failure"]).contains(message);
        world.delivery(hook, message, has_message).await;
    };
    wait_for_failure(&rebinding, "127.0.0.1 are not allowed: loopback address").await;
    wait_for_failure(&redirected, "redirects are not followed").await;
    wait_for_failure(&stale, "loopback address").await;
    assert!(internal.requests().is_empty(), "{:?}", internal.requests());
    // A name without addresses.
    dns.set_addresses(&[]);
    let unknown = world
        .owner
        .call_err(CREATE, world.org_request(json!({ "url": "https://nowhere.example/" })))
        .await;
    assert_eq!(unknown, "WEBHOOK_TARGET_FORBIDDEN");
    suite.finish().await;
}
