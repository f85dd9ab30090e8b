//! Sessions of an account for support: operators list and end them at the AdminService.

use api::{
    admin::{
        AccountSession, EndAccountSessionsRequest, EndAccountSessionsResponse,
        ListAccountSessionsRequest,
    },
    identity as id,
};
use serde_json::json;
use testkit::{PASSWORD, Person, Suite, eventually};
use tonic::{Code, Status};

use crate::support::admin_client::{Admin, connect};

async fn sessions(admin: &mut Admin, account: &str) -> Vec<AccountSession> {
    let list = ListAccountSessionsRequest { account: account.to_owned() };
    admin.list_account_sessions(list).await.unwrap().into_inner().sessions
}

/// Ends a session of an account; all if `session_id` is empty.
async fn end(
    admin: &mut Admin,
    account: &str,
    session_id: &str,
) -> Result<EndAccountSessionsResponse, Status> {
    let (account, session_id) = (account.to_owned(), session_id.to_owned());
    let ended = admin.end_account_sessions(EndAccountSessionsRequest { account, session_id });
    Ok(ended.await?.into_inner())
}

async fn is_signed_in(person: &Person) -> bool {
    match person.call("identity.v1.UserService/GetMe", json!({})).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.code, Code::Unauthenticated);
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_an_account_are_listed_and_ended() {
    let suite = Suite::start().await;
    let mut admin = connect(suite.data_dir()).await;
    let ann = suite.person("ann@example.com").await;
    let bob = suite.person("bob@example.com").await;
    let laptop = ann.sign_in_again().await;
    let phone = ann.sign_in_again().await;

    let listed = sessions(&mut admin, "Ann@Example.com").await;
    assert_eq!(listed, sessions(&mut admin, &ann.user_id).await);
    assert!(listed.len() >= 3, "{listed:?}");
    assert!(listed.iter().all(|it| !it.address.is_empty() && it.expire_time.is_some()));
    let shown = format!("{listed:?}");
    for token in [&ann.token, &laptop.token, &phone.token] {
        let secret = token.rsplit('_').next().unwrap();
        assert!(!shown.contains(secret), "the answer has no secret");
    }

    // The newest session is that of the phone.
    let newest = listed[0].id.clone();
    assert_eq!(end(&mut admin, "ann@example.com", &newest).await.unwrap().ended_count, 1);
    assert!(!is_signed_in(&phone).await);
    assert!(is_signed_in(&laptop).await);
    assert!(sessions(&mut admin, &ann.user_id).await.iter().all(|it| it.id != newest));
    let error = end(&mut admin, "ann@example.com", &newest).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "it is ended once");
    let other = end(&mut admin, "bob@example.com", &listed[1].id).await.unwrap_err();
    assert_eq!(other.code(), Code::NotFound, "it is a session of another account");

    let rest = i32::try_from(listed.len()).unwrap() - 1;
    assert_eq!(end(&mut admin, &ann.user_id, "").await.unwrap().ended_count, rest);
    assert!(!is_signed_in(&laptop).await);
    assert!(!is_signed_in(&ann).await);
    assert!(is_signed_in(&bob).await);
    assert!(sessions(&mut admin, &ann.user_id).await.is_empty());

    // The person sees in the log of the account who did it.
    let ann = ann.sign_in_again().await;
    suite.wait_for_log().await;
    for action in ["session.revoked", "user.sessions_revoked"] {
        let entry = eventually("the entry", async || {
            let list = json!({ "pageSize": 100 });
            let log = ann.call_ok("audit.v1.AuditService/ListAccountEntries", list).await;
            let entries = log["entries"].as_array().cloned().unwrap_or_default();
            entries.into_iter().find(|it| it["action"] == action)
        })
        .await;
        let actor = &entry["envelope"]["actor"];
        assert_eq!(actor["kind"], "ACTOR_KIND_SYSTEM", "{entry}");
        assert_eq!(actor["id"], "operator", "{entry}");
    }
    suite.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_not_unique_is_refused() {
    let suite = Suite::start().await;
    let mut admin = connect(suite.data_dir()).await;
    let unknown = chassis::id::new().to_string();
    for account in [&unknown, "nobody@example.com", "nobody"] {
        let list = ListAccountSessionsRequest { account: account.to_owned() };
        let error = admin.list_account_sessions(list).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{error}");
    }
    // Two people claim an address that nobody has confirmed.
    let mut claims = vec![];
    for name in ["One", "Two"] {
        let register = id::RegisterRequest {
            email: "claimed@example.com".to_owned(),
            password: format!("{PASSWORD} {name}"),
            display_name: name.to_owned(),
            ..Default::default()
        };
        let method = "tenantry.identity.v1.UserService/Register";
        let _: id::RegisterResponse = suite.client.call(method, register).await.unwrap();
    }
    let claim_ids = "select id::text from identity.account where email = 'claimed@example.com'";
    let ids: Vec<String> = sqlx::query_scalar(claim_ids).fetch_all(&suite.pool).await.unwrap();
    claims.extend(ids);
    assert_eq!(claims.len(), 2);
    let error = end(&mut admin, "claimed@example.com", "").await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(claims.iter().all(|it| error.message().contains(it)), "{error}");
    assert_eq!(end(&mut admin, &claims[0], "").await.unwrap().ended_count, 0);
    let malformed = end(&mut admin, &claims[0], "7").await.unwrap_err();
    assert_eq!(malformed.code(), Code::InvalidArgument);
    suite.finish().await;
}
