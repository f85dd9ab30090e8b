//! Where webhooks may not go, tried with a name server and receivers of our own.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use testkit::{Answer, Names, Options, Receiver, Suite};

use crate::{
    webhooks::CREATE,
    world::{World, text},
};

/// NO-1, N-12: nothing goes where it must not: refused when it is saved, and again before each delivery, with
/// the reason in the delivery.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_what_is_not_public() {
    let secret = Receiver::start().await;
    let names = Names::start(&[Ipv4Addr::new(93, 184, 215, 14)]).await;
    let redirect = format!("location: {}", secret.url("/inside"));
    let redirecting =
        Receiver::answering(move |_| Answer { header: redirect.clone(), ..Answer::status(302) })
            .await;
    let webhook_exceptions = vec![redirecting.exception()];
    let webhook_dns = Some(names.address());
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
        let refusal = world.owner.ask(CREATE, world.here(json!({ "url": url }))).await.unwrap_err();
        assert_eq!(refusal.reason, "WEBHOOK_TARGET_FORBIDDEN", "{url}");
    }
    // Saved when it was public; then the name leads to this machine.
    let rebinding = world.hook("https://hooks.example.com/", json!({})).await;
    names.lead_to(&[Ipv4Addr::LOCALHOST]);
    let refused = world
        .owner
        .refused(CREATE, world.here(json!({ "url": "https://hooks.example.com/" })))
        .await;
    assert_eq!(refused, "WEBHOOK_TARGET_FORBIDDEN");
    let redirected = world.hook(&redirecting.url("/"), json!({})).await;
    // Saved under laxer settings.
    let stale = world.hook(&redirecting.url("/stale"), json!({})).await;
    let id: uuid::Uuid = text(&stale["webhook"]["id"]).parse().unwrap();
    sqlx::query("update invitation.webhook set url = 'https://[::ffff:127.0.0.1]/' where id = $1")
        .bind(id)
        .execute(&suite.pool)
        .await
        .unwrap();
    world.happen().await;
    let because = async |hook: &Value, why: &str| {
        let fits = |it: &Value| text(&it["failure"]).contains(why);
        world.delivery(hook, why, fits).await;
    };
    because(&rebinding, "127.0.0.1: it is this machine").await;
    because(&redirected, "redirects are not followed").await;
    because(&stale, "it is this machine").await;
    assert!(secret.posts().is_empty(), "{:?}", secret.posts());
    // The name of another zone leads nowhere.
    names.lead_to(&[]);
    let unknown =
        world.owner.refused(CREATE, world.here(json!({ "url": "https://nowhere.example/" }))).await;
    assert_eq!(unknown, "WEBHOOK_TARGET_FORBIDDEN");
    suite.finish().await;
}
