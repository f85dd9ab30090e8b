//! Sixty-four callers at once, and many removals: constraints and locks decide, and what was
//! taken away stays away.

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

use crate::world::{World, text};

const CALLERS: usize = 64;

/// So many accounts, each signed in.
async fn crowd(suite: &Suite, count: usize) -> Vec<Person> {
    let mut people = vec![];
    for start in (0..count).step_by(16) {
        let mut joining = JoinSet::new();
        for number in start..count.min(start + 16) {
            let (client, mailbox) = (suite.client.clone(), suite.mailbox.clone());
            let email = format!("guest{number}@example.com");
            joining.spawn(async move { Person::join(&client, &mailbox, &email).await.unwrap() });
        }
        people.extend(joining.join_all().await);
    }
    people
}

/// Everybody asks at once; again as long as they are told to.
async fn all(calls: Vec<(Person, &'static str, Value)>) -> BTreeMap<String, usize> {
    let mut asking = JoinSet::new();
    for (person, method, body) in calls {
        asking.spawn(async move {
            loop {
                match person.ask(method, body.clone()).await {
                    Ok(_) => return "OK".to_owned(),
                    Err(it) if ["CONFLICT", "RATE_LIMITED"].contains(&it.reason.as_str()) => {}
                    Err(it) => return it.reason,
                }
            }
        });
    }
    let mut outcomes = BTreeMap::new();
    for outcome in asking.join_all().await {
        *outcomes.entry(outcome).or_default() += 1;
    }
    outcomes
}

fn outcomes(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
}

/// A link that lets in so many.
async fn open_link(owner: &Person, org: &str) -> String {
    let invite = json!({
        "orgId": org, "email": "link@example.com", "role": "ORG_ROLE_VIEWER", "maxUses": 100
    });
    let made = owner.tell("invitation.v1.InvitationService/CreateInvitation", invite).await;
    let link = json!({ "orgId": org, "invitationId": made["invitation"]["id"] });
    let link = owner.tell("invitation.v1.InvitationService/GetInvitationLink", link).await;
    text(&link["link"]).rsplit('/').next().unwrap_or_default().to_owned()
}

/// G-07, ID-12, ID-13, PL-2: the last seat, and joins while the plan changes all the time: read back from the
/// events in the order of their commits, there is never one member more than the plan of that moment allows.
#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_guests_take_as_many_seats_as_there_are() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let guests = crowd(&suite, CALLERS).await;
    let accept = |token: &str| {
        let body = json!({ "token": token });
        let method = "invitation.v1.InvitationService/AcceptInvitation";
        guests.iter().map(|it| (it.clone(), method, body.clone())).collect::<Vec<_>>()
    };
    let one = ann.create_organization("one").await.unwrap();
    let token = open_link(&ann, &one).await;
    ann.change_plan(&one, id::Plan::Free).await.unwrap();
    let got = all(accept(&token)).await;
    assert_eq!(got, outcomes(&[("MEMBER_LIMIT_REACHED", 63), ("OK", 1)]));

    let two = ann.create_organization("two").await.unwrap();
    let token = open_link(&ann, &two).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (changer, org, stopped) = (ann.clone(), two.clone(), stop.clone());
    let changing = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            for plan in [id::Plan::Free, id::Plan::Starter] {
                let _ = changer.change_plan(&org, plan).await;
            }
        }
    });
    ann.change_plan(&two, id::Plan::Free).await.unwrap();
    all(accept(&token)).await;
    stop.store(true, Ordering::Relaxed);
    changing.await.unwrap();
    let joined = never_above_the_limit(&suite, &two).await;
    assert!((1..5).contains(&joined), "{joined} joined");
    suite.finish().await;
}

/// G-09, IN-7, IN-13, IN-17: fifty redemptions of a link for ten make ten members, whoever asks twice; and a
/// hundred acceptances of the last seat make one.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_for_ten_makes_ten_and_the_last_seat_one() {
    let suite = Suite::start().await;
    let ann = suite.person("ann@example.com").await;
    let guests = crowd(&suite, 50).await;
    let accept = "invitation.v1.InvitationService/AcceptInvitation";
    let ten = ann.create_organization("ten").await.unwrap();
    let invite =
        json!({ "orgId": ten, "email": "x@example.com", "role": "ORG_ROLE_VIEWER", "maxUses": 10 });
    let made = ann.tell("invitation.v1.InvitationService/CreateInvitation", invite).await;
    let token = suite.mailbox.token("x@example.com", "tny_inv_").await.unwrap();
    let each = |token: &str| {
        guests.iter().map(|it| (it.clone(), accept, json!({ "token": token }))).collect::<Vec<_>>()
    };
    let got = all(each(&token)).await;
    assert_eq!(got, outcomes(&[("INVITATION_EXHAUSTED", 40), ("OK", 10)]));
    let one = json!({ "orgId": ten, "invitationId": made["invitation"]["id"] });
    let used = ann.tell("invitation.v1.InvitationService/GetInvitation", one).await;
    assert_eq!(used["invitation"]["useCount"], 10);
    assert_eq!(used["invitation"]["acceptances"].as_array().unwrap().len(), 10);

    let last = ann.create_organization("last").await.unwrap();
    let token = open_link(&ann, &last).await;
    ann.change_plan(&last, id::Plan::Free).await.unwrap();
    let twice = [each(&token), each(&token)].concat();
    let got = all(twice).await;
    // The winner's second call finds them a member.
    assert_eq!(got, outcomes(&[("ALREADY_MEMBER", 1), ("MEMBER_LIMIT_REACHED", 98), ("OK", 1)]));
    suite.finish().await;
}

/// Plays the events of an organization in the order of their commits. Answers how many joined.
async fn never_above_the_limit(suite: &Suite, org: &str) -> i64 {
    let events = "select envelope from identity.outbox where org_id = $1::uuid order by position";
    let rows = sqlx::query(events).bind(org).fetch_all(&suite.pool).await.unwrap();
    let (mut members, mut limit) = (1, None);
    for row in rows {
        let envelope = event::Envelope::decode(row.get::<&[u8], _>(0)).unwrap();
        let told = envelope.event.unwrap();
        if told.type_url.ends_with("PlanChanged") {
            let changed = id::PlanChanged::decode(&*told.value).unwrap();
            limit = match changed.after.unwrap().plan() {
                id::Plan::Free => Some(2),
                id::Plan::Starter => Some(5),
                _ => None,
            };
        } else if told.type_url.ends_with("MemberJoined") {
            members += 1;
            assert!(limit.is_none_or(|it| members <= it), "{members} members, {limit:?} allowed");
        }
    }
    members - 1
}

/// G-08, ID-1, ID-5: sixty-four owners' actions at once leave one Owner, and one of them wins.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_transfers_one_wins_and_there_is_one_owner() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    for _ in 0..3 {
        let owner = "select user_id::text from identity.member where role = 'owner'";
        let owner: String = sqlx::query_scalar(owner).fetch_one(&suite.pool).await.unwrap();
        let people = [&world.owner, &world.admin, &world.developer, &world.viewer];
        let by = (*people.iter().find(|it| it.user_id == owner).unwrap()).clone();
        let others: Vec<_> = people.iter().filter(|it| it.user_id != owner).collect();
        let calls = (0..CALLERS).map(|i| {
            let to = &others[i % others.len()].user_id;
            let transfer = json!({ "userId": to, "confirmName": "acme" });
            let method = "identity.v1.OrganizationService/TransferOwnership";
            (by.clone(), method, world.here(transfer))
        });
        let got = all(calls.collect()).await;
        assert_eq!(got.get("OK"), Some(&1), "{got:?}");
        assert_eq!(got.get("MISSING_PERMISSION"), Some(&63), "{got:?}");
        let owners = "select count(*) from identity.member where role = 'owner'";
        assert_eq!(suite.count(owners).await, 1);
    }
    // What the rules would never do, the database refuses (I-19).
    let nobody = "update identity.member set role = 'admin' where role = 'owner'";
    assert!(sqlx::query(nobody).execute(&suite.pool).await.is_err());
    suite.finish().await;
}

/// One team of a name, and one account of an address, whatever the case of their letters.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_with_one_name_one_comes_to_be() {
    let suite = Suite::start().await;
    let world = World::new(&suite).await;
    let names = ["Support", "SUPPORT", "support ", "sUPPORT"];
    let calls = (0..CALLERS).map(|i| {
        let create = world.here(json!({ "name": names[i % 4] }));
        let by = if i % 2 == 0 { &world.owner } else { &world.admin };
        (by.clone(), "identity.v1.TeamService/CreateTeam", create)
    });
    let got = all(calls.collect()).await;
    assert_eq!(got, outcomes(&[("OK", 1), ("TEAM_NAME_TAKEN", 63)]));

    let emails = ["New@example.com", "new@EXAMPLE.com", "NEW@example.com", "new@example.com"];
    let anyone = world.owner.with_token("");
    let calls = (0..CALLERS).map(|i| {
        let register = json!({ "email": emails[i % 4], "password": testkit::PASSWORD });
        (anyone.clone(), "identity.v1.UserService/Register", register)
    });
    assert_eq!(
        all(calls.collect()).await,
        outcomes(&[("OK", CALLERS)]),
        "nobody learns who was first"
    );
    let accounts =
        "select count(*) from identity.account where canonical_email = 'new@example.com'";
    assert_eq!(suite.count(accounts).await, 1);
    suite.finish().await;
}

/// How many removals there are; `REVOCATIONS` asks for more.
const REVOCATIONS: usize = 400;

/// How many people are members of each organization.
const PEOPLE: usize = 20;

/// G-05, G-06, ID-19, ID-49: after the reply to a removal no check allows, fresh or with its token, while
/// others check all the time; and one that may be a second old allows for a second at most.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_away_stays_away() {
    let suite = Arc::new(Suite::start().await);
    let ann = suite.person("ann@example.com").await;
    let people = Arc::new(crowd(&suite, PEOPLE).await);
    let wanted = std::env::var("REVOCATIONS").ok().and_then(|it| it.parse().ok());
    let orgs = Arc::new(
        organizations(&suite, &ann, &people, wanted.unwrap_or(REVOCATIONS) / PEOPLE).await,
    );
    let (next, slowest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut working = JoinSet::new();
    for _ in 0..8 {
        let (ann, people, orgs) = (ann.clone(), people.clone(), orgs.clone());
        let (next, slowest) = (next.clone(), slowest.clone());
        working.spawn(async move {
            loop {
                let number = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
                let Some(org) = orgs.get(number / PEOPLE) else { return };
                let late = remove(&ann, &people[number % PEOPLE], org).await;
                slowest.fetch_max(u64::try_from(late.as_millis()).unwrap(), Ordering::Relaxed);
            }
        });
    }
    working.join_all().await;
    let left = "select count(*) from identity.member where role <> 'owner'";
    assert_eq!(suite.count(left).await, 0);
    let slowest = slowest.load(Ordering::Relaxed);
    assert!(slowest <= 1_000, "a check that may be old allowed after {slowest} ms");
    Arc::into_inner(suite).unwrap().finish().await;
}

/// Removes a member; answers how long after the reply a check that may be old still allowed.
async fn remove(ann: &Person, person: &Person, org: &str) -> Duration {
    let check = |how: Value| json!({ "orgId": org, "permission": "org.view", "consistency": how });
    let method = "identity.v1.AccessService/Check";
    let old = check(json!({ "maxAgeMs": 1000 }));
    assert_eq!(person.tell(method, old.clone()).await["allowed"], true);
    let remove = json!({ "orgId": org, "userId": person.user_id });
    let removed = ann.tell("identity.v1.MemberService/RemoveMember", remove).await;
    let replied = Instant::now();
    let mut late = Duration::ZERO;
    // Before anything fresh makes this replica learn of it.
    for _ in 0..3 {
        if person.tell(method, old.clone()).await["allowed"] == true {
            late = replied.elapsed();
        }
    }
    let token = check(json!({ "atLeast": removed["consistencyToken"] }));
    assert_eq!(person.tell(method, token).await["allowed"], Value::Null, "with its token");
    assert_eq!(person.tell(method, check(json!({}))).await["allowed"], Value::Null, "fresh");
    late
}

/// Organizations of Ann's with all these members, made by SQL: ten thousand invitations are another test.
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
