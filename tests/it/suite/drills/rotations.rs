//! Certificates and their authority are replaced without a restart, the secret key with rolling restarts.

use chassis::key::Key;
use serde_json::{Value, json};
use sqlx::PgPool;
use testkit::{Database, Person, Process, eventually};
use uuid::Uuid;

use super::Drill;
use crate::support::authority::Authority;

/// Number of keys of people that a rotation of the secret key seals again.
const PEOPLE: u16 = 4_000;
/// Number of calls in more than the age of a connection.
const CALLS_BETWEEN_ALL_CONNECTIONS: u64 = 200;
/// Purpose of the keys that seal keys of people.
const PERSON_KEYS: &str = "audit person keys";

/// New certificates of the same authority, then a new authority while both are trusted. Connections end after
/// five seconds, so that the new certificates are used.
#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_and_a_new_authority_fail_no_call() {
    let database = Database::new().await;
    let url = |service: &str| database.url_as(&format!("tenantry_{service}"));
    let more = ["--connection-age-ms-max=5000"];
    let mut drill = Drill::start_with("certificate rotation", url, &more).await;
    drill.cluster.write_certificates();
    drill.cluster.wait_for_tls_reload(1).await;
    drill.wait_for_calls().await;

    let first = drill.cluster.authority.pem();
    drill.cluster.authority = Authority::new("second");
    let second = drill.cluster.authority.pem();
    drill.cluster.write_authorities(&[&first, &second]);
    drill.cluster.wait_for_tls_reload(2).await;
    // Clients trust both, too.
    drill.load.replace_endpoints(drill.cluster.endpoints());
    drill.wait_for_calls().await;
    drill.cluster.write_certificates();
    drill.cluster.wait_for_tls_reload(3).await;
    drill.wait_for_calls().await;
    drill.cluster.write_authorities(&[&second]);
    drill.cluster.wait_for_tls_reload(4).await;
    drill.load.replace_endpoints(drill.cluster.endpoints());
    // Each connection that was made with the former authority has ended, and was made anew.
    drill.load.wait_for_more(CALLS_BETWEEN_ALL_CONNECTIONS).await;
    drill.finish().await;
    database.drop().await;
}

/// The steps of a rotation of the secret key: both keys are accepted, the new one seals, values are sealed
/// again, the previous key is removed. A process is killed while it seals values again.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_key_loses_nothing() {
    let database = Database::new().await;
    let mut drill = Drill::start("secret key rotation", &database).await;
    let pool = PgPool::connect(&database.url()).await.unwrap();
    let file = drill.cluster.path("secret.key");
    let old = Key::read(&file).unwrap();
    let old_id = old.ids().remove(0);
    let people = insert_people(&pool, &old).await;
    let before = people_keys(&pool, &people).await;
    let values = Values::new(&drill).await;

    change_keys(&drill, &["add"]);
    let new_id = Key::read(&file).unwrap().ids().remove(1);
    restart_all(&mut drill).await;
    change_keys(&drill, &["promote", &new_id]);
    restart_all(&mut drill).await;
    eventually("a value under the new key", async || {
        (people_keys(&pool, &people).await != before).then_some(())
    })
    .await;
    let killed = drill.cluster.replica_of("audit");
    drill.cluster.kill_replica(killed);
    drill.cluster.start_replica(killed).await;
    drill.wait_for_calls().await;
    for service in ["identity", "project", "invitation", "audit"] {
        wait_until_retired(&pool, service, &old_id).await;
    }
    change_keys(&drill, &["remove", &old_id]);
    restart_all(&mut drill).await;

    let new = Key::read(&file).unwrap();
    assert_eq!(new.ids(), [new_id]);
    let sealing_keys = new.derive(PERSON_KEYS);
    for (id, sealed) in people.iter().zip(people_keys(&pool, &people).await) {
        let opened = sealing_keys.open(id.as_bytes(), &sealed);
        assert_eq!(opened, Some(id.as_bytes().repeat(2)), "the key of {id}");
    }
    assert_eq!(Values::new(&drill).await, values);
    pool.close().await;
    drill.finish().await;
    database.drop().await;
}

/// Restarts one replica of each service, then the other one: half of them serve at any time.
async fn restart_all(drill: &mut Drill) {
    for number in [0, 1] {
        drill.cluster.restart_half(number).await;
        // A call that failed is repeated on the other replica before that one stops.
        drill.wait_for_calls().await;
    }
}

/// Runs a step of the rotation on the file of the secret key.
fn change_keys(drill: &Drill, step: &[&str]) {
    let file = format!("--secret-key={}", drill.cluster.path("secret.key").display());
    let arguments: Vec<_> = ["keys"].iter().chain(step).copied().chain([file.as_str()]).collect();
    let ended = Process::run("tenantry", &arguments);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// Stores keys of people who are in no entry of the log; returns their ids in the order of the index.
async fn insert_people(pool: &PgPool, key: &Key) -> Vec<Uuid> {
    let keys = key.derive(PERSON_KEYS);
    let ids: Vec<_> = (0..PEOPLE).map(|it| Uuid::from_u128(u128::from(it) + 1)).collect();
    let sealed = ids.iter().map(|it| keys.seal(it.as_bytes(), &it.as_bytes().repeat(2)));
    let insert =
        "insert into audit.person (id, sealed) select unnest($1::uuid[]), unnest($2::bytea[])";
    let sealed: Vec<_> = sealed.collect();
    sqlx::query(insert).bind(&ids).bind(&sealed).execute(pool).await.unwrap();
    ids
}

async fn people_keys(pool: &PgPool, ids: &[Uuid]) -> Vec<Vec<u8>> {
    let select = "select sealed from audit.person where id = any ($1) order by id";
    sqlx::query_scalar(select).bind(ids).fetch_all(pool).await.unwrap()
}

/// Waits until the values of a service do not need a secret key.
async fn wait_until_retired(pool: &PgPool, service: &str, key_id: &str) {
    let select = format!(
        "select retired_at is not null from {service}.deployment_key
         where encode(substr(check_value, 1, 4), 'hex') = $1"
    );
    eventually(&format!("the end of the old key of {service}"), async || {
        let select = sqlx::AssertSqlSafe(select.as_str());
        let retired: bool = sqlx::query_scalar(select).bind(key_id).fetch_one(pool).await.unwrap();
        retired.then_some(())
    })
    .await;
}

/// Values that depend on the secret key, which a rotation does not change.
#[derive(Debug, PartialEq)]
struct Values {
    /// Response of a call with one request id.
    repeated: Value,
    /// Link of one invitation.
    link: Value,
}

impl Values {
    /// Reads the values; creates them at the first time. Signs in with a password of before the rotation.
    async fn new(drill: &Drill) -> Self {
        let at = async |service: &str| {
            let client = drill.cluster.client(service).await;
            Person { client: client.with_token(&drill.owner.token), ..drill.owner.clone() }
        };
        let (identity, invitation) = (at("identity").await, at("invitation").await);
        Person::login(&identity.client, &drill.owner.email).await.unwrap();
        let create = json!({
            "orgId": drill.org_id, "email": "invited@example.com", "role": "ORG_ROLE_VIEWER",
            "requestId": "01a21db4-1f44-74b1-b97e-6956ffd86d1e",
        });
        let method = "invitation.v1.InvitationService/CreateInvitation";
        let repeated = invitation.call_ok(method, create).await;
        let get = json!({ "orgId": drill.org_id, "invitationId": repeated["invitation"]["id"] });
        let method = "invitation.v1.InvitationService/GetInvitationLink";
        let link = invitation.call_ok(method, get).await;
        Self { repeated, link }
    }
}
