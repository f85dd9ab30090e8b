//! Tests of the ring of keys.

use super::*;

const OLD: Secret = [1; 32];
const NEW: Secret = [2; 32];
const OTHER: Secret = [3; 32];

/// Step 1 of a rotation: every replica accepts both keys. Step 2: replicas of both orders run.
#[test]
fn replicas_with_both_orders_open_the_values_of_each_other() {
    let (before, after) = (Key::new(&[OLD, NEW]), Key::new(&[NEW, OLD]));
    for (sealing, opening) in [(&before, &after), (&after, &before)] {
        let (sealing, opening) = (sealing.derive("p"), opening.derive("p"));
        let sealed = sealing.seal(b"row", b"text");
        assert_eq!(opening.open(b"row", &sealed), Some(b"text".to_vec()));
        assert_eq!(opening.open(b"other row", &sealed), None);
        let tag = sealing.mac(&[b"a", b"b"]);
        assert!(opening.verify_mac(&[b"a", b"b"], &tag));
        assert!(opening.verify_mac(&[b"a", b"b"], &tag[..16]));
        assert!(!opening.verify_mac(&[b"ab"], &tag));
    }
    let sealed = after.derive("p").seal(b"row", b"text");
    assert_eq!(Key::new(&[OLD]).derive("p").open(b"row", &sealed), None);
    assert_eq!(after.derive("q").open(b"row", &sealed), None);
}

#[test]
fn a_value_is_sealed_again_under_the_current_key_only_once() {
    let old = Key::new(&[OLD]);
    let keys = Key::new(&[NEW, OLD]).derive("p");
    let sealed = old.derive("p").seal(b"row", b"text");
    let Resealed::Changed { sealed, previous } = keys.reseal(b"row", &sealed) else {
        panic!("the previous key sealed the value");
    };
    assert_eq!(previous, old.check_value());
    assert_eq!(keys.reseal(b"row", &sealed), Resealed::Current);
    assert_eq!(Key::new(&[NEW]).derive("p").open(b"row", &sealed), Some(b"text".to_vec()));
    let foreign = Key::new(&[OTHER]).derive("p").seal(b"row", b"text");
    assert_eq!(keys.reseal(b"row", &foreign), Resealed::Unreadable);
}

#[test]
fn a_retained_key_replaces_the_one_that_was_removed_from_the_file() {
    let old = Key::new(&[OLD]);
    let key = Key::new(&[NEW]);
    let keys = key.derive("p");
    assert_eq!(keys.original(), keys.current(), "without a database");
    let sealed = old.derive("p").seal(b"", b"text");
    assert_eq!(keys.open(b"", &sealed), None);
    key.set_original("p", old.check_value());
    key.retain("p", old.check_value(), old.derive("p").current());
    assert_eq!(keys.open(b"", &sealed), Some(b"text".to_vec()));
    assert_eq!(keys.original(), old.derive("p").current());
    assert!(!keys.is_original());
    assert_eq!(keys.with_id(&old.ids()[0]), Some(old.derive("p").current()));
    assert_eq!(keys.with_id(&Key::new(&[OTHER]).ids()[0]), None);
    let current = keys.seal(b"", b"text");
    assert_eq!(old.derive("p").open(b"", &current), None, "new values need the current key");
    assert_eq!(keys.in_file().count(), 1);
    assert_eq!(keys.secrets().count(), 2);
    assert_eq!(key.derive("q").secrets().count(), 1, "of this purpose only");
}
