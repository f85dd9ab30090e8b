//! Attacks with credentials: forged consistency tokens, guessed secrets, forged addresses, revoked sessions.

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

use crate::support::{
    audit_client::as_person,
    raw,
    world::{World, text},
};

const CHECK: &str = "identity.v1.AccessService/Check";

/// A forged consistency token gets the same error for an existing and an unknown organization.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_consistency_token_reveals_nothing() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let stranger = suite.person("stranger@example.com").await;
    let answers = async |org: &str| {
        let future_version =
            [uuid::Uuid::parse_str(org).unwrap().as_bytes().as_slice(), &i64::MAX.to_be_bytes()]
                .concat();
        let forged = data_encoding::BASE64URL_NOPAD.encode(&future_version);
        let check =
            json!({ "orgId": org, "permission": "org.view", "consistency": { "atLeast": forged } });
        let single = stranger.call(CHECK, check.clone()).await.map_err(|it| it.reason);
        let item = json!({ "orgId": org, "permission": "org.view" });
        let items = json!({ "items": [item], "consistency": { "atLeast": forged } });
        let batch = stranger.call("identity.v1.AccessService/BatchCheck", items).await;
        let channel = raw::connect(suite.address).await;
        let list = id::ListMembersRequest { org_id: org.to_owned(), ..Default::default() };
        let mut list = as_person(&stranger, list);
        list.metadata_mut().insert("tenantry-consistency-token", forged.parse().unwrap());
        let mut members = id::member_service_client::MemberServiceClient::new(channel);
        let listed = members.list_members(list).await.map(|_| ()).map_err(|it| raw::reason(&it));
        (single, batch.map_err(|it| it.reason), listed)
    };
    let unknown = answers(&chassis::id::new().to_string()).await;
    assert_eq!(answers(&world.org).await, unknown);
    assert_eq!(unknown.2.unwrap_err(), "NOT_FOUND");
    suite.finish().await;
}

/// The credential of a person with the right id and a wrong secret.
fn with_wrong_secret(person: &Person, kind: Kind) -> Person {
    let id = Token::parse(kind, &person.token).unwrap().id;
    person.with_token(Token::random(id).reveal(kind).expose_secret())
}

/// A wrong secret updates neither the last use of a session nor that of an API key.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_does_not_count_as_use() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let create = world.org_request(json!({ "name": "ci" }));
    let key = world.owner.call_ok("identity.v1.ApiKeyService/CreateApiKey", create).await;
    let key = world.owner.with_token(&text(&key["token"]));
    // A change, because reads may use a cached credential check.
    let change = "identity.v1.TeamService/CreateTeam";
    let create_team = world.org_request(json!({ "name": "crew" }));
    let last_use = "select max(last_used_at)::text from (
                    select last_used_at from identity.session union all
                    select last_used_at from identity.api_key) as it";
    let last_use = async || -> Option<String> {
        sqlx::query_scalar(last_use).fetch_one(&suite.pool).await.unwrap()
    };
    suite.clock.advance(Duration::minutes(5));
    let before = last_use().await;
    for (guess, kind) in [(&world.viewer, Kind::Session), (&key, Kind::ApiKey)] {
        let guess = with_wrong_secret(guess, kind);
        assert_eq!(guess.call_err(change, create_team.clone()).await, "INVALID_CREDENTIAL");
    }
    assert_eq!(last_use().await, before);
    assert_eq!(world.viewer.call_err(change, create_team.clone()).await, "MISSING_PERMISSION");
    let after_session = last_use().await;
    assert_ne!(after_session, before);
    suite.clock.advance(Duration::minutes(5));
    assert_eq!(key.call_err(change, create_team).await, "READ_ONLY_KEY");
    assert_ne!(last_use().await, after_session);
    suite.finish().await;
}

/// A session that is opened after a jump of the machine's clock has the times of the database.
#[tokio::test(flavor = "multi_thread")]
async fn a_jump_of_the_machine_clock_opens_no_session_from_the_future() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    suite.clock.jump_wall_clock(Duration::days(400));
    let login = json!({ "email": ann.email, "password": PASSWORD });
    ann.call_ok("identity.v1.SessionService/Login", login).await;
    let future =
        "select count(*) from identity.session where created_at > now() + interval '1 minute'";
    assert_eq!(suite.count(future).await, 0);
    suite.finish().await;
}

/// The address of a client is the last one in the last `x-forwarded-for` line, which the trusted proxy has
/// added; addresses before it come from the client and are ignored.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_choose_its_address() {
    let proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let suite = Suite::start_with(Options { trusted_proxies: proxies, ..Options::default() }).await;
    let ann = suite.person("ann@example.com").await;
    let channel = raw::connect(suite.address).await;
    let session_address = async |lines: &[&str]| {
        let email = ann.email.clone();
        let password = PASSWORD.to_owned();
        let mut request = Request::new(id::LoginRequest { email, password });
        for line in lines {
            request.metadata_mut().append("x-forwarded-for", line.parse().unwrap());
        }
        let mut client = SessionServiceClient::new(channel.clone());
        client.login(request).await.unwrap().into_inner().session.unwrap().address
    };
    assert_eq!(session_address(&["6.6.6.6", "192.0.2.7"]).await, "192.0.2.7");
    assert_eq!(session_address(&["192.0.2.7", "6.6.6.6, 192.0.2.8"]).await, "192.0.2.8");
    assert_eq!(session_address(&["6.6.6.6", "[2001:db8::7]:4711"]).await, "2001:db8::7");
    assert_eq!(session_address(&["6.6.6.6", "192.0.2.9:80"]).await, "192.0.2.9");
    // A malformed last line falls back to the address of the proxy, not to an earlier line.
    assert_eq!(session_address(&["6.6.6.6", "unknown"]).await, "127.0.0.1");
    assert_eq!(session_address(&[]).await, "127.0.0.1");
    suite.finish().await;
}

/// A change uses a fresh credential check: a session that another replica has revoked is rejected at once,
/// while reads may accept it for one more second.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_another_process_uses_a_fresh_credential_check() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let authenticate = async |fresh: bool| {
        let mut request = Request::new(id::AuthenticateRequest { fresh });
        let bearer = format!("Bearer {}", ann.token).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let mut identity = AccessServiceClient::new(suite.project_to_identity.clone());
        identity.authenticate(request).await.map_err(|it| raw::reason(&it))
    };
    assert_eq!(authenticate(true).await.unwrap().into_inner().user_id, ann.user_id);
    // A revocation by another replica is visible in the database only.
    sqlx::query("update identity.session set revoked_at = now()")
        .execute(&suite.pool)
        .await
        .unwrap();
    assert_eq!(authenticate(true).await.unwrap_err(), "INVALID_CREDENTIAL");
    suite.finish().await;
}
