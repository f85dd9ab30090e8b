//! Rotation of the secret key: the keys that a start needs. Rolling restarts under load are in `drills`.

use chassis::{Clock, Db, FaultInjection, key::Key};
use testkit::Database;

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

fn db(database: &Database, key: &Key) -> Db {
    let faults = FaultInjection::default();
    Db::new("identity", database.options.clone(), Clock::default(), faults, key, 2)
}

async fn refusal(db: &Db, key: &Key) -> String {
    let required = db.require_key(key).await.unwrap_err().to_string();
    assert_eq!(db.register_key(key).await.unwrap_err().to_string(), required);
    required
}

/// A start needs every key that was a current one, until it is retired; and that is refused while a process
/// uses it, or has used it since the search for its values began.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_without_a_needed_key_is_refused() {
    let database = Database::new().await;
    let [old_only, both, after, new_only] =
        [&[OLD][..], &[OLD, NEW], &[NEW, OLD], &[NEW]].map(Key::new);
    let (before, current) = (db(&database, &both), db(&database, &after));
    let owner = sqlx::PgPool::connect(&database.url()).await.unwrap();
    sqlx::query("delete from identity.deployment_key").execute(&owner).await.unwrap();

    before.register_key(&old_only).await.unwrap();
    before.register_key(&both).await.unwrap();
    let refused = refusal(&current, &new_only).await;
    assert!(refused.contains("was set up with the key"), "{refused}");
    current.register_key(&after).await.unwrap();
    let [old_id, new_id] = [&old_only, &new_only].map(|it| it.ids().remove(0));
    for (key, missing) in [(&new_only, &old_id), (&old_only, &new_id)] {
        let refused = refusal(&current, key).await;
        assert!(refused.contains(&format!("also need the key {missing}")), "{refused}");
        assert!(refused.contains("nothing was written"), "{refused}");
    }

    let retire = async || {
        let began_at = current.now();
        current.retain_keys(&after).await.unwrap();
        current.retire_previous_keys(&after, began_at).await.unwrap()
    };
    assert!(!retire().await, "a process uses the old key");
    let began_at = current.now();
    before.renew_key_use(&both).await.unwrap();
    before.release_key().await.unwrap();
    let retired = current.retire_previous_keys(&after, began_at).await.unwrap();
    assert!(!retired, "the old key was used since the beginning");
    assert!(retire().await);
    current.require_key(&new_only).await.unwrap();
    let refused = refusal(&current, &old_only).await;
    assert!(refused.contains("was set up with the key"), "{refused}");

    // The key of stored responses is there without the old key.
    let purpose = chassis::db::deployment_key::RESPONSES;
    let responses = new_only.derive(purpose);
    assert_eq!(responses.original(), old_only.derive(purpose).current());
    // A return to the old order makes the old key a needed one again.
    before.register_key(&both).await.unwrap();
    let refused = refusal(&current, &new_only).await;
    assert!(refused.contains(&format!("also need the key {old_id}")), "{refused}");
    owner.close().await;
    for db in [before, current] {
        db.close().await;
    }
    database.drop().await;
}
