//! Tests of the marks: which records the suite changes, and which it leaves.

use super::*;

fn owner(environment: &str) -> Owner {
    let org_id = "0193a4b2-7c00-7000-8000-000000000001".parse().unwrap();
    let environment = environment.to_owned();
    Owner { installation: "0011".to_owned(), org_id, environment }
}

fn record(record_type: RecordType, value: &str) -> Record {
    let name = "shop.apps.example.com".to_owned();
    Record { name, record_type, value: value.to_owned(), ttl: 60 }
}

/// Records of a name after a change.
fn applied(change: Change) -> Snapshot {
    let mut snapshot = Snapshot { marks: change.marks, ..change.before };
    match change.after {
        Some(it) => {
            snapshot.records.insert(change.record_type, vec![it.value]);
        }
        None => {
            snapshot.records.remove(&change.record_type);
        }
    }
    snapshot
}

#[test]
fn a_record_is_published_once_replaced_and_removed() {
    let owner = owner("one");
    let a = record(RecordType::A, "192.0.2.1");
    let change = Snapshot::default().publication(&a, &owner).unwrap().unwrap();
    assert_eq!(change.marks.len(), 1);
    let published = applied(change);
    assert_eq!(published.clone().publication(&a, &owner).unwrap(), None);
    let aaaa = record(RecordType::Aaaa, "2001:db8::1");
    let both = applied(published.publication(&aaaa, &owner).unwrap().unwrap());
    assert_eq!(both.marks.len(), 2);
    let moved = record(RecordType::A, "192.0.2.2");
    let moved = applied(both.publication(&moved, &owner).unwrap().unwrap());
    assert_eq!(moved.records[&RecordType::A], ["192.0.2.2"]);
    let one = applied(moved.removal("shop.apps.example.com", RecordType::A, &owner).unwrap());
    assert_eq!(one.records.len(), 1);
    assert_eq!(one.marks.len(), 1);
    assert_eq!(one.removal("shop.apps.example.com", RecordType::A, &owner), None);
}

#[test]
fn records_of_others_are_neither_changed_nor_removed() {
    let a = record(RecordType::A, "192.0.2.1");
    let by_hand = Snapshot {
        records: BTreeMap::from([(RecordType::Txt, vec!["v=spf1 -all".to_owned()])]),
        marks: vec![],
    };
    let refused = by_hand.clone().publication(&a, &owner("one")).unwrap_err();
    assert!(matches!(refused, DnsFailure::Foreign { record_type: "TXT", .. }), "{refused}");
    assert_eq!(by_hand.removal(&a.name, RecordType::Txt, &owner("one")), None);

    let change = Snapshot::default().publication(&a, &owner("one")).unwrap().unwrap();
    let of_one = applied(change);
    for other in [
        owner("two"),
        Owner { installation: "0022".to_owned(), ..owner("one") },
        Owner { org_id: "0193a4b2-7c00-7000-8000-000000000002".parse().unwrap(), ..owner("one") },
    ] {
        assert!(of_one.clone().publication(&a, &other).is_err());
        assert_eq!(of_one.clone().removal(&a.name, RecordType::A, &other), None);
    }
    // Only the mark is left, because the record was removed by hand.
    let only_mark = Snapshot { records: BTreeMap::new(), ..of_one };
    assert!(only_mark.clone().publication(&a, &owner("two")).is_err());
    assert!(only_mark.publication(&a, &owner("one")).unwrap().is_some());
}

#[test]
fn records_are_below_the_zone_and_have_valid_values() {
    let zone = "apps.example.com";
    let long = format!("{}.apps.example.com", ["x"; 120].join("."));
    for (name, record_type, value, is_valid) in [
        ("shop.apps.example.com", RecordType::A, "192.0.2.1", true),
        ("_acme-challenge.shop.apps.example.com", RecordType::Txt, "a b", true),
        ("shop.apps.example.com", RecordType::Cname, "eu-1.example.com", true),
        ("apps.example.com", RecordType::A, "192.0.2.1", false),
        ("evil-apps.example.com", RecordType::A, "192.0.2.1", false),
        ("shop.example.com", RecordType::A, "192.0.2.1", false),
        ("*.apps.example.com", RecordType::A, "192.0.2.1", false),
        (long.as_str(), RecordType::A, "192.0.2.1", false),
        ("shop.apps.example.com", RecordType::A, "2001:db8::1", false),
        ("shop.apps.example.com", RecordType::Aaaa, "192.0.2.1", false),
        ("shop.apps.example.com", RecordType::Cname, "a b", false),
        ("shop.apps.example.com", RecordType::Txt, "a\"b", false),
    ] {
        let record = Record { name: name.to_owned(), ..record(record_type, value) };
        assert_eq!(record.require_valid(zone).is_ok(), is_valid, "{name} {value}");
    }
}
