//! 64 concurrent callers and many removals: limits hold, one of many conflicting calls succeeds, and removed
//! access is not restored.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use api::{event, identity as id};
use prost::Message;
use serde_json::{Value, json};
use sqlx::Row;
use testkit::{Person, Suite};
use tokio::task::JoinSet;

use crate::support::world::{World, merge, text};

/// Number of concurrent calls.
const CALLERS: usize = 64;

/// Registers and signs in `count` people.
async fn sign_up_many(suite: &Suite, count: usize) -> Vec<Person> {
    let mut people = vec![];
    for start in (0..count).step_by(16) {
        let mut joining = JoinSet::new();
        for number in start..count.min(start + 16) {
            let client = suite.client.clone();
            let mailbox = suite.mailbox.clone();
            let email = format!("guest{number}@example.com");
            joining.spawn(async move { Person::join(&client, &mailbox, &email).await.unwrap() });
        }
        people.extend(joining.join_all().await);
    }
    people
}

/// Makes all calls concurrently, repeating those with a conflict or rate limit. Returns the number of calls
/// by outcome: `OK` or the reason of the error.
async fn call_all(calls: Vec<(Person, &'static str, Value)>) -> BTreeMap<String, usize> {
    let mut running = JoinSet::new();
    for (person, method, body) in calls {
        running.spawn(async move {
            loop {
                match person.call(method, body.clone()).await {
                    Ok(_) => return "OK".to_owned(),
                    Err(error) if ["CONFLICT", "RATE_LIMITED"].contains(&error.reason.as_str()) => {
                    }
                    Err(error) => return error.reason,
                }
            }
        });
    }
    let mut outcomes = BTreeMap::new();
    for outcome in running.join_all().await {
        *outcomes.entry(outcome).or_default() += 1;
    }
    outcomes
}

/// Expected numbers of calls by outcome.
fn outcomes(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
}

/// Creates a link with 100 uses; returns its token.
async fn create_link(owner: &Person, org: &str) -> String {
    let invite = json!({
        "orgId": org, "email": "link@example.com", "role": "ORG_ROLE_VIEWER", "maxUses": 100
    });
    let created = owner.call_ok("invitation.v1.InvitationService/CreateInvitation", invite).await;
    let link = json!({ "orgId": org, "invitationId": created["invitation"]["id"] });
    let link = owner.call_ok("invitation.v1.InvitationService/GetInvitationLink", link).await;
    text(&link["link"]).rsplit('/').next().unwrap_or_default().to_owned()
}

/// G-07, ID-12, ID-13, PL-2: one of 64 guests gets the last seat; while the plan changes continuously, the
/// events in commit order never show more members than the plan at that time allows.
#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_guests_take_the_free_seats_only() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let guests = sign_up_many(&suite, CALLERS).await;
    let accept = |token: &str| {
        let body = json!({ "token": token });
        let method = "invitation.v1.InvitationService/AcceptInvitation";
        guests.iter().map(|it| (it.clone(), method, body.clone())).collect::<Vec<_>>()
    };
    let one = ann.create_organization("one").await.unwrap();
    let token = create_link(&ann, &one).await;
    ann.change_plan(&one, id::Plan::Free).await.unwrap();
    let outcome_counts = call_all(accept(&token)).await;
    assert_eq!(outcome_counts, outcomes(&[("MEMBER_LIMIT_REACHED", 63), ("OK", 1)]));

    let two = ann.create_organization("two").await.unwrap();
    let token = create_link(&ann, &two).await;
    let stop = Arc::new(AtomicBool::new(false));
    let owner = ann.clone();
    let org = two.clone();
    let stopped = stop.clone();
    let changing = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            for plan in [id::Plan::Free, id::Plan::Starter] {
                let _ = owner.change_plan(&org, plan).await;
            }
        }
    });
    ann.change_plan(&two, id::Plan::Free).await.unwrap();
    call_all(accept(&token)).await;
    stop.store(true, Ordering::Relaxed);
    changing.await.unwrap();
    let joined = assert_within_limit(&suite, &two).await;
    assert!((1..5).contains(&joined), "{joined} guests joined; STARTER has 5 seats, one is Ann's");
    suite.finish().await;
}

/// G-09, IN-7, IN-13, IN-17: of 50 acceptances of a link with ten uses ten succeed; of 100 acceptances of the
/// last seat one does.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_acceptances_respect_uses_and_seats() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let guests = sign_up_many(&suite, 50).await;
    let accept = "invitation.v1.InvitationService/AcceptInvitation";
    let ten = ann.create_organization("ten").await.unwrap();
    let invite =
        json!({ "orgId": ten, "email": "x@example.com", "role": "ORG_ROLE_VIEWER", "maxUses": 10 });
    let created = ann.call_ok("invitation.v1.InvitationService/CreateInvitation", invite).await;
    let token = suite.mailbox.token("x@example.com", "tny_inv_").await.unwrap();
    let accept_by_each = |token: &str| {
        guests.iter().map(|it| (it.clone(), accept, json!({ "token": token }))).collect::<Vec<_>>()
    };
    let outcome_counts = call_all(accept_by_each(&token)).await;
    assert_eq!(outcome_counts, outcomes(&[("INVITATION_EXHAUSTED", 40), ("OK", 10)]));
    let get = json!({ "orgId": ten, "invitationId": created["invitation"]["id"] });
    let used = ann.call_ok("invitation.v1.InvitationService/GetInvitation", get).await;
    assert_eq!(used["invitation"]["useCount"], 10);
    assert_eq!(used["invitation"]["acceptances"].as_array().unwrap().len(), 10);

    let last = ann.create_organization("last").await.unwrap();
    let token = create_link(&ann, &last).await;
    ann.change_plan(&last, id::Plan::Free).await.unwrap();
    let twice = [accept_by_each(&token), accept_by_each(&token)].concat();
    let outcome_counts = call_all(twice).await;
    // The second call of the new member fails with ALREADY_MEMBER.
    assert_eq!(
        outcome_counts,
        outcomes(&[("ALREADY_MEMBER", 1), ("MEMBER_LIMIT_REACHED", 98), ("OK", 1)])
    );
    suite.finish().await;
}

/// Replays the events of an organization in commit order and checks the member limit; returns the number of
/// joins.
async fn assert_within_limit(suite: &Suite, org: &str) -> i64 {
    let events = "select envelope from identity.outbox where org_id = $1::uuid order by position";
    let rows = sqlx::query(events).bind(org).fetch_all(&suite.pool).await.unwrap();
    let mut members = 1;
    let mut limit = None;
    for row in rows {
        let envelope = event::Envelope::decode(row.get::<&[u8], _>(0)).unwrap();
        let event = envelope.event.unwrap();
        if event.type_url.ends_with("PlanChanged") {
            let changed = id::SubscriptionPlanChanged::decode(&*event.value).unwrap();
            limit = match changed.after.unwrap().plan() {
                id::Plan::Free => Some(2),
                id::Plan::Starter => Some(5),
                _ => None,
            };
        } else if event.type_url.ends_with("MemberJoined") {
            members += 1;
            assert!(limit.is_none_or(|it| members <= it), "{members} members, {limit:?} allowed");
        }
    }
    members - 1
}

/// G-08, ID-1, ID-5: of 64 concurrent transfers one succeeds, and there is one Owner.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_transfers_succeeds() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    for _ in 0..3 {
        let owner = "select user_id::text from identity.member where role = 'owner'";
        let owner: String = sqlx::query_scalar(owner).fetch_one(&suite.pool).await.unwrap();
        let people = [&world.owner, &world.admin, &world.developer, &world.viewer];
        let current_owner = (*people.iter().find(|it| it.user_id == owner).unwrap()).clone();
        let others: Vec<_> = people.iter().filter(|it| it.user_id != owner).collect();
        let calls = (0..CALLERS).map(|i| {
            let to = &others[i % others.len()].user_id;
            let transfer = json!({ "userId": to, "confirmName": "acme" });
            let method = "identity.v1.OrganizationService/TransferOwnership";
            (current_owner.clone(), method, world.org_request(transfer))
        });
        let outcome_counts = call_all(calls.collect()).await;
        assert_eq!(
            outcome_counts.get("OK"),
            Some(&1),
            "outcomes of the transfers: {outcome_counts:?}"
        );
        assert_eq!(
            outcome_counts.get("MISSING_PERMISSION"),
            Some(&63),
            "outcomes of the transfers: {outcome_counts:?}"
        );
        let owners = "select count(*) from identity.member where role = 'owner'";
        assert_eq!(suite.count(owners).await, 1);
    }
    // A constraint prevents an organization without an Owner.
    let demote = "update identity.member set role = 'admin' where role = 'owner'";
    assert!(sqlx::query(demote).execute(&suite.pool).await.is_err());
    suite.finish().await;
}

/// Of 64 concurrent calls one creates a team with a name, and one an account with an address, compared
/// without case.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_creations_with_a_name_succeeds() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let names = ["Support", "SUPPORT", "support ", "sUPPORT"];
    let calls = (0..CALLERS).map(|i| {
        let create = world.org_request(json!({ "name": names[i % 4] }));
        let person = if i % 2 == 0 { &world.owner } else { &world.admin };
        (person.clone(), "identity.v1.TeamService/CreateTeam", create)
    });
    let outcome_counts = call_all(calls.collect()).await;
    assert_eq!(outcome_counts, outcomes(&[("OK", 1), ("TEAM_NAME_TAKEN", 63)]));

    let emails = ["New@example.com", "new@EXAMPLE.com", "NEW@example.com", "new@example.com"];
    let anyone = world.owner.with_token("");
    let calls = (0..CALLERS).map(|i| {
        let register = json!({ "email": emails[i % 4], "password": testkit::PASSWORD });
        (anyone.clone(), "identity.v1.UserService/Register", register)
    });
    assert_eq!(
        call_all(calls.collect()).await,
        outcomes(&[("OK", CALLERS)]),
        "the responses do not reveal accounts"
    );
    let accounts =
        "select count(*) from identity.account where canonical_email = 'new@example.com'";
    assert_eq!(suite.count(accounts).await, 5, "claims to one address are limited");
    suite.finish().await;
}

/// Number of removals; the environment variable `REVOCATIONS` overrides it.
const REVOCATIONS: usize = 400;

/// Number of members of each organization.
const PEOPLE: usize = 20;

/// G-05, G-06, ID-19, ID-49: after the response to a removal, neither a fresh check nor a check with its
/// consistency token allows access; a check with `maxAgeMs` allows access for one second at most.
#[tokio::test(flavor = "multi_thread")]
async fn removed_members_have_no_access() {
    let suite = Arc::new(Suite::start().await);
    let ann = suite.person("ann@example.com").await;
    let people = Arc::new(sign_up_many(&suite, PEOPLE).await);
    let count = std::env::var("REVOCATIONS").ok().and_then(|it| it.parse().ok());
    let orgs =
        Arc::new(organizations(&suite, &ann, &people, count.unwrap_or(REVOCATIONS) / PEOPLE).await);
    let next = Arc::new(AtomicU64::new(0));
    let slowest = Arc::new(AtomicU64::new(0));
    let mut removals = JoinSet::new();
    for _ in 0..8 {
        let ann = ann.clone();
        let people = people.clone();
        let orgs = orgs.clone();
        let next = next.clone();
        let slowest = slowest.clone();
        removals.spawn(async move {
            loop {
                let number = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
                let Some(org) = orgs.get(number / PEOPLE) else { return };
                let late = remove(&ann, &people[number % PEOPLE], org).await;
                slowest.fetch_max(u64::try_from(late.as_millis()).unwrap(), Ordering::Relaxed);
            }
        });
    }
    removals.join_all().await;
    let members = "select count(*) from identity.member where role <> 'owner'";
    assert_eq!(suite.count(members).await, 0);
    let slowest = slowest.load(Ordering::Relaxed);
    assert!(slowest <= 1_000, "a cached check allowed access after {slowest} ms");
    Arc::into_inner(suite).unwrap().finish().await;
}

/// Removes a member; returns the time from the response to the begin of the last cached check that still
/// allowed access.
async fn remove(ann: &Person, person: &Person, org: &str) -> Duration {
    let request = json!({ "orgId": org, "permission": "org.view" });
    let check = |consistency: Value| merge(request.clone(), json!({ "consistency": consistency }));
    let method = "identity.v1.AccessService/Check";
    let cached = check(json!({ "maxAgeMs": 1000 }));
    assert_eq!(person.call_ok(method, cached.clone()).await["allowed"], true);
    let remove = json!({ "orgId": org, "userId": person.user_id });
    let removed = loop {
        match ann.call("identity.v1.MemberService/RemoveMember", remove.clone()).await {
            Err(error) if error.reason == "CONFLICT" => {}
            removed => break removed.unwrap(),
        }
    };
    let responded_at = Instant::now();
    let mut late = Duration::ZERO;
    // These checks come first, because a fresh check would update the cache.
    for _ in 0..3 {
        let begin = responded_at.elapsed();
        if person.call_ok(method, cached.clone()).await["allowed"] == true {
            late = begin;
        }
    }
    let token = check(json!({ "atLeast": removed["consistencyToken"] }));
    assert_eq!(person.call_ok(method, token).await["allowed"], Value::Null, "with the token");
    assert_eq!(person.call_ok(method, check(json!({}))).await["allowed"], Value::Null, "fresh");
    late
}

/// Creates organizations of Ann with all these members by SQL, because invitations would take too long.
async fn organizations(
    suite: &Suite,
    ann: &Person,
    people: &[Person],
    count: usize,
) -> Vec<String> {
    let members: Vec<_> = people.iter().map(|it| it.user_id.clone()).collect();
    let mut orgs = vec![];
    for number in 0..count {
        let org = chassis::id::new().to_string();
        let mut tx = suite.pool.begin().await.unwrap();
        // Each statement has the same three parameters, so that one that is not needed is in a condition.
        let statements = [
            "insert into identity.organization (id, name, slug, plan, owner_id, created_by, access_version,
                 created_at) values ($1::uuid, 'Org', $2, 'pro', $3::uuid, $3::uuid, 1, now())",
            "insert into identity.member (id, org_id, user_id, role, created_at)
                 select gen_random_uuid(), $1::uuid, $3::uuid, 'owner', now() where $2 <> ''",
            "insert into identity.access_change (org_id, version, event_id, changed_at)
                 select $1::uuid, 1, gen_random_uuid(), now() where $2 <> $3",
        ];
        sqlx::query("set local search_path = identity").execute(&mut *tx).await.unwrap();
        for statement in statements {
            let slug = format!("org-{number}");
            let insert = sqlx::query(statement).bind(&org).bind(slug).bind(&ann.user_id);
            insert.execute(&mut *tx).await.unwrap();
        }
        let insert = "insert into identity.member (id, org_id, user_id, role, created_at)
            select gen_random_uuid(), $1::uuid, unnest($2::text[])::uuid, 'viewer', now()";
        sqlx::query(insert).bind(&org).bind(&members).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        orgs.push(org);
    }
    orgs
}
