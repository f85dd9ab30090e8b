//! Credentials and proofs as an attacker would use them: half of one, an old one, or a forged one.

use api::identity::{
    self as id, access_service_client::AccessServiceClient,
    session_service_client::SessionServiceClient,
};
use chassis::{
    clock::Duration,
    token::{Kind, Token},
};
use secrecy::ExposeSecret;
use serde_json::json;
use testkit::{Options, PASSWORD, Person, Suite};
use tonic::Request;

use crate::{
    raw,
    world::{World, text},
};

const CHECK: &str = "identity.v1.AccessService/Check";

/// A forged consistency token answers alike about an organization that exists and one that does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_consistency_token_tells_nothing() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let stranger = suite.person("stranger@example.com").await;
    let answers = async |org: &str| {
        let of_future =
            [uuid::Uuid::parse_str(org).unwrap().as_bytes().as_slice(), &i64::MAX.to_be_bytes()]
                .concat();
        let forged = data_encoding::BASE64URL_NOPAD.encode(&of_future);
        let check =
            json!({ "orgId": org, "permission": "org.view", "consistency": { "atLeast": forged } });
        let one = stranger.ask(CHECK, check.clone()).await.map_err(|it| it.reason);
        let item = json!({ "orgId": org, "permission": "org.view" });
        let items = json!({ "items": [item], "consistency": { "atLeast": forged } });
        let many = stranger.ask("identity.v1.AccessService/BatchCheck", items).await;
        let channel = raw::connect(suite.address).await;
        let list = id::ListMembersRequest { org_id: org.to_owned(), ..Default::default() };
        let mut list = crate::ledger::as_person(&stranger, list);
        list.metadata_mut().insert("tenantry-consistency-token", forged.parse().unwrap());
        let mut members = id::member_service_client::MemberServiceClient::new(channel);
        let listed = members.list_members(list).await.map(|_| ()).map_err(|it| raw::reason(&it));
        (one, many.map_err(|it| it.reason), listed)
    };
    let nothing = answers(&chassis::id::new().to_string()).await;
    assert_eq!(answers(&world.org).await, nothing);
    assert_eq!(nothing.2.unwrap_err(), "NOT_FOUND");
    suite.finish().await;
}

/// The same id with a secret that was guessed.
fn guessed(person: &Person, kind: Kind) -> Person {
    let id = Token::parse(kind, &person.token).unwrap().id;
    person.with_token(Token::random(id).reveal(kind).expose_secret())
}

/// A credential with a wrong secret is not in use: it keeps no session alive, and shows nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_no_use_of_a_credential() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let create = world.here(json!({ "name": "ci" }));
    let key = world.owner.tell("identity.v1.ApiKeyService/CreateApiKey", create).await;
    let key = world.owner.with_token(&text(&key["token"]));
    // A change, so that no proof of a moment ago answers instead of the database.
    let change = "identity.v1.TeamService/CreateTeam";
    let draft = world.here(json!({ "name": "crew" }));
    let used = "select max(last_used_at)::text from (
                    select last_used_at from identity.session union all
                    select last_used_at from identity.api_key) as it";
    let used = async || -> Option<String> {
        sqlx::query_scalar(used).fetch_one(&suite.pool).await.unwrap()
    };
    suite.clock.advance(Duration::minutes(5));
    let before = used().await;
    for (guess, kind) in [(&world.viewer, Kind::Session), (&key, Kind::ApiKey)] {
        let guess = guessed(guess, kind);
        assert_eq!(guess.refused(change, draft.clone()).await, "INVALID_CREDENTIAL");
    }
    assert_eq!(used().await, before);
    assert_eq!(world.viewer.refused(change, draft.clone()).await, "MISSING_PERMISSION");
    let by_session = used().await;
    assert_ne!(by_session, before);
    suite.clock.advance(Duration::minutes(5));
    assert_eq!(key.refused(change, draft).await, "READ_ONLY_KEY");
    assert_ne!(used().await, by_session);
    suite.finish().await;
}

/// The nearest trusted proxy says where a call came from: the last address of the last line. What a client
/// put before it counts for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_does_not_choose_its_address() {
    let proxies = vec!["127.0.0.1".parse().unwrap()];
    let suite = Suite::start_with(Options { trusted_proxies: proxies, ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    let channel = raw::connect(suite.address).await;
    let seen = async |lines: &[&str]| {
        let (email, password) = (ann.email.clone(), PASSWORD.to_owned());
        let mut request = Request::new(id::LoginRequest { email, password });
        for line in lines {
            request.metadata_mut().append("x-forwarded-for", line.parse().unwrap());
        }
        let mut client = SessionServiceClient::new(channel.clone());
        client.login(request).await.unwrap().into_inner().session.unwrap().address
    };
    assert_eq!(seen(&["6.6.6.6", "192.0.2.7"]).await, "192.0.2.7");
    assert_eq!(seen(&["192.0.2.7", "6.6.6.6, 192.0.2.8"]).await, "192.0.2.8");
    assert_eq!(seen(&["6.6.6.6", "[2001:db8::7]:4711"]).await, "2001:db8::7");
    assert_eq!(seen(&["6.6.6.6", "192.0.2.9:80"]).await, "192.0.2.9");
    // Garbage names nobody, least of all whom an earlier line names.
    assert_eq!(seen(&["6.6.6.6", "unknown"]).await, "127.0.0.1");
    assert_eq!(seen(&[]).await, "127.0.0.1");
    suite.finish().await;
}

/// A change rests on the newest state also if another process makes it: a credential that another replica
/// ended a moment ago is refused, although reads may still remember it for a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_another_process_rests_on_the_newest_proof() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let authenticate = async |fresh: bool| {
        let mut request = Request::new(id::AuthenticateRequest { fresh });
        let bearer = format!("Bearer {}", ann.token).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let mut identity = AccessServiceClient::new(suite.identity.clone());
        identity.authenticate(request).await.map_err(|it| raw::reason(&it))
    };
    assert_eq!(authenticate(true).await.unwrap().into_inner().user_id, ann.user_id);
    // As another replica does it, of whose change this one learns from the database only.
    sqlx::query("update identity.session set revoked_at = now()")
        .execute(&suite.pool)
        .await
        .unwrap();
    assert_eq!(authenticate(true).await.unwrap_err(), "INVALID_CREDENTIAL");
    suite.finish().await;
}
