//! Tests of domains and their proofs.

use super::{
    proof::{Answers, Finding, ProofTargets},
    *,
};
use crate::environment::lifecycle::tests::environment;

fn create(hostname: &str, existing: &[String]) -> Result<Domain> {
    let environment = environment(crate::environment::State::Running);
    let draft = Draft { environment: &environment, hostname, creator_id: UserId::new() };
    let reserved = [
        ReservedDomain { name: "apps.example".to_owned(), owner: "an apps domain" },
        ReservedDomain { name: "suite.test".to_owned(), owner: "the suite" },
    ];
    let created = Domain::create(&draft, existing, &reserved, OffsetDateTime::UNIX_EPOCH)?;
    Ok(created.state().clone())
}

fn domain() -> Domain {
    create("shop.example.com", &[]).unwrap()
}

/// Descriptions of the violations, each after its field.
fn violations(hostname: &str, existing: &[String]) -> Vec<String> {
    match create(hostname, existing) {
        Err(Error::Invalid(violations)) => {
            violations.into_iter().map(|it| format!("{}: {}", it.field, it.description)).collect()
        }
        other => panic!("{hostname} was not refused: {other:?}"),
    }
}

#[test]
fn a_domain_has_a_canonical_name_and_a_random_value() {
    let (one, other) = (create("Bücher.Example", &[]).unwrap(), domain());
    assert_eq!(one.hostname, "xn--bcher-kva.example");
    assert_eq!(one.txt_name(), "_tenantry-challenge.xn--bcher-kva.example");
    assert_eq!(one.txt_value.len(), 32);
    assert_ne!(one.txt_value, other.txt_value);
}

#[test]
fn every_violation_is_named_at_once() {
    for invalid in ["*.example.com", "10.0.0.1", "shop", "a b.example", "{env.HOME}.example"] {
        assert!(violations(invalid, &[])[0].starts_with("hostname: must be a host name"));
    }
    for reserved in ["apps.example", "a.b.apps.example", "www.suite.test"] {
        assert!(violations(reserved, &[])[0].starts_with("hostname: must not be"), "{reserved}");
    }
    assert!(create("myapps.example", &[]).is_ok());
    let full: Vec<_> = (0..DOMAINS_MAX).map(|it| format!("d{it}.example.com")).collect();
    assert_eq!(violations("*", &full).len(), 2);
    assert_eq!(violations("D7.example.com", &full).len(), 2);
    let long = format!("{}.example", ["a".repeat(63).as_str(); 4].join(".")[..230].to_owned());
    assert!(violations(&long, &[])[0].contains("233"));
}

fn answers(texts: &[&str], cnames: &[&str], addresses: &[&str]) -> Answers {
    let owned = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect();
    Answers {
        texts: Ok(owned(texts)),
        cnames: Ok(owned(cnames)),
        addresses: Ok(addresses.iter().map(|it| it.parse().unwrap()).collect()),
        server_addresses: Ok(vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]),
    }
}

const TARGET: &str = "main-shop.apps.example";

fn targets(server_address: &str) -> ProofTargets {
    ProofTargets { cname_target: TARGET.to_owned(), server_address: server_address.to_owned() }
}

#[test]
fn the_strongest_record_counts() {
    let domain = domain();
    let value = domain.txt_value.as_str();
    let (shared, connected) = (targets(""), targets("192.0.2.1"));
    let proof = |answers: &Answers, targets| match answers.finding(&domain, targets) {
        Finding::Proven(proof) => Some(proof),
        _ => None,
    };
    assert_eq!(proof(&answers(&["x", value], &[TARGET], &[]), &shared), Some(Proof::Txt));
    assert_eq!(proof(&answers(&[], &["cdn.test", TARGET], &[]), &shared), Some(Proof::Cname));
    // Every tenant has the address of a shared server, and the apps domain of a connected one is not checked.
    assert_eq!(proof(&answers(&[], &[], &["192.0.2.1"]), &shared), None);
    assert_eq!(proof(&answers(&[], &[TARGET], &[]), &connected), None);
    let both = answers(&[], &[], &["192.0.2.1", "2001:db8::1"]);
    assert_eq!(proof(&both, &connected), Some(Proof::Address));
    let mixed = answers(&[], &[], &["192.0.2.1", "192.0.2.9"]);
    assert_eq!(proof(&mixed, &connected), None);
    assert_eq!(proof(&answers(&[], &[""], &[]), &ProofTargets::default()), None);
    assert!(Proof::Txt > Proof::Cname && Proof::Cname > Proof::Address);
}

#[test]
fn a_failed_query_is_no_absence() {
    let domain = domain();
    let finding = answers(&["x"], &[], &[]).finding(&domain, &targets(""));
    let Finding::Absent(found) = finding else { panic!("{finding:?}") };
    assert_eq!(
        found,
        "_tenantry-challenge.shop.example.com has other TXT records: \"x\"; \
         shop.example.com has no CNAME record"
    );
    let failed = Answers { cnames: Err("SERVFAIL".to_owned()), ..answers(&[], &[], &[]) };
    let finding = failed.finding(&domain, &targets(""));
    let Finding::Unknown(error) = finding else { panic!("{finding:?}") };
    assert_eq!(error, "_tenantry-challenge.shop.example.com has no TXT record; SERVFAIL");
    // It does not matter where a CNAME record is no proof.
    let finding = failed.finding(&domain, &targets("192.0.2.1"));
    assert!(matches!(finding, Finding::Absent(_)), "{finding:?}");
}

#[test]
fn a_verified_domain_outlives_seven_days_without_a_proof() {
    let start = OffsetDateTime::UNIX_EPOCH;
    let mut domain = domain().verify(Proof::Txt, start).unwrap().state().clone();
    assert!(!domain.record_absence("gone", start));
    // Failed queries do not count, in neither direction.
    domain.record_error("SERVFAIL", start + Duration::days(6));
    assert!(!domain.record_absence("gone", start + Duration::days(6)));
    assert!(domain.clone().record_absence("gone", start + Duration::days(7)));
    domain.record_proof(Proof::Cname, start + Duration::days(6));
    assert!(!domain.record_absence("gone", start + Duration::days(7)));
    let pending = domain.unverify("gone", start).state().clone();
    assert_eq!((pending.state, pending.check_error.as_str()), (State::Pending, "gone"));
}
