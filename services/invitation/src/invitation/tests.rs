//! The rules of invitations, without anything around them.

use super::*;

fn invitation(max_uses: i32, use_count: i32) -> Invitation {
    Invitation {
        id: InvitationId(Uuid::nil()),
        org_id: OrgId(Uuid::nil()),
        email: Email("Bob@example.com".to_owned()),
        canonical_email: "bob@example.com".to_owned(),
        role: 2,
        project_access: Json(vec![]),
        team_ids: vec![],
        message: String::new(),
        max_uses,
        use_count,
        secret_hash: vec![],
        copied_hash: vec![],
        inviter_id: UserId(Uuid::nil()),
        inviter_name: String::new(),
        org_name: String::new(),
        created_at: OffsetDateTime::UNIX_EPOCH,
        expires_at: OffsetDateTime::UNIX_EPOCH + Duration::days(7),
        mailed_at: vec![OffsetDateTime::UNIX_EPOCH],
        mail_count: 1,
        revoked_at: None,
        revoke_cause: 0,
        revoker_id: None,
        expiry_told_at: None,
        cleaned_at: None,
    }
}

fn guest(email: &str) -> Account {
    Account {
        user_id: UserId(Uuid::nil()),
        email: email.to_owned(),
        display_name: String::new(),
        email_verified: true,
        credential_id: Uuid::nil(),
        key: None,
        authenticated_at: None,
    }
}

/// IN-13, IN-14, IN-17.
#[test]
fn a_guest_comes_in_time_with_the_right_address_and_once() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let late = now + Duration::days(7);
    let bob = guest("BOB@Example.com");
    let check = |it: &Invitation, guest: &Account, now| it.check_guest(guest, false, now);
    let one = invitation(1, 0);

    assert_eq!(check(&one, &bob, now), Ok(()));
    assert_eq!(check(&one, &bob, late), Err(Refused::Expired));
    assert_eq!(check(&invitation(1, 1), &bob, now), Err(Refused::Exhausted));
    assert_eq!(one.check_guest(&bob, true, now), Err(Refused::AlreadyAccepted));
    let eve = guest("eve@example.com");
    assert_eq!(check(&one, &eve, now), Err(Refused::EmailMismatch("b…@example.com".to_owned())));
    assert_eq!(check(&invitation(3, 2), &eve, now), Ok(()));
    let unknown = Account { email_verified: false, ..bob };
    assert_eq!(check(&one, &unknown, now), Err(Refused::EmailNotVerified));
}

/// IN-22, IN-28, and 3.2: nothing leads out of REVOKED or EXPIRED, whatever is tried.
#[test]
fn what_is_over_stays_over() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let late = now + Duration::days(8);
    let bob = guest("bob@example.com");
    let revoked = invitation(1, 0).revoke(Cause::Manager, Some(bob.user_id), now).unwrap();
    let declined = invitation(1, 0).decline(&bob, now).unwrap();
    let over = [
        (revoked.state().clone(), now, State::Revoked),
        (declined.state().clone(), now, State::Revoked),
        (invitation(1, 1), now, State::UsedUp),
        (invitation(1, 0), late, State::Late),
    ];
    for (it, now, state) in over {
        assert_eq!(it.state(now), state);
        let refused = Refused::NotPending(state);
        assert_eq!(it.clone().revoke(Cause::Manager, None, now).unwrap_err(), refused);
        assert_eq!(it.clone().copy_link(now).unwrap_err(), refused);
        assert_eq!(it.clone().resend(now).unwrap_err(), refused);
        assert!(it.clone().decline(&bob, now).is_err());
        assert!(it.check_guest(&bob, false, now).is_err());
    }
}

/// IN-19, IN-20: the link is mailed again a minute later at the earliest, five times a day, for as long as
/// the invitation lives.
#[test]
fn a_link_is_mailed_again_but_not_often() {
    let start = OffsetDateTime::UNIX_EPOCH;
    let mut it = invitation(1, 0);
    assert_eq!(it.clone().resend(start).unwrap_err(), Refused::TooSoon(PAUSE));
    for i in 1..5 {
        let end = it.expires_at;
        it = it.resend(start + PAUSE * i).unwrap().state().clone();
        assert_eq!(it.expires_at, end);
    }
    assert_eq!((it.mail_count, it.mailed_at.len()), (5, 5));
    let sixth = start + Duration::hours(1);
    assert_eq!(it.clone().resend(sixth).unwrap_err(), Refused::TooSoon(DAY - Duration::hours(1)));
    let tomorrow = it.resend(start + DAY).unwrap();
    assert_eq!(tomorrow.state().mail_count, 6);
}

/// N-01: a token opens by its secret, and tells which way it came.
#[test]
fn only_its_own_links_open_an_invitation() {
    let dir = tempfile::tempdir().unwrap();
    let key = chassis::key::Key::read_or_create(&dir.path().join("key")).unwrap();
    let links = Links::new(&key, "https://tenantry.example".to_owned());
    let token = |id: Uuid, way| {
        let link = links.link(id, way);
        let text = link.strip_prefix("https://tenantry.example/invitations/").unwrap();
        Token::parse(chassis::token::Kind::Invitation, text).unwrap()
    };
    let id = chassis::id::new();
    let it = Invitation {
        id: InvitationId(id),
        secret_hash: links.hash(id, Way::Mailed),
        copied_hash: links.hash(id, Way::Copied),
        ..invitation(1, 0)
    };
    assert_eq!(it.opened_by(&token(id, Way::Mailed)), Some(Way::Mailed));
    assert_eq!(it.opened_by(&token(id, Way::Copied)), Some(Way::Copied));
    assert_eq!(it.opened_by(&token(chassis::id::new(), Way::Mailed)), None);
    assert_eq!(it.opened_by(&Token::random(id)), None);
    assert_eq!(invitation(1, 0).opened_by(&Token::random(Uuid::nil())), None);
    let address = "bob@example.com";
    let sealed = links.opt_out(address);
    let sealed = sealed.strip_prefix("https://tenantry.example/opt-out/").unwrap();
    assert_eq!(links.opting_out(sealed).as_deref(), Some(address));
    assert_eq!(links.opting_out("AAAA"), None);
}

/// Each refusal has its own reason and its own sentence.
#[test]
fn every_refusal_says_what_to_do() {
    use chassis::Refusal;
    let all = [
        Refused::Expired,
        Refused::Exhausted,
        Refused::Revoked(1),
        Refused::EmailMismatch("b…@example.com".to_owned()),
        Refused::EmailNotVerified,
        Refused::AlreadyAccepted,
        Refused::OpenLink,
        Refused::ProvesNothing,
    ];
    let reasons: std::collections::BTreeSet<_> =
        all.iter().map(|it| it.reason().as_str_name()).collect();
    assert_eq!(reasons.len(), all.len());
    let does = ["ask ", "sign in", "confirm", "open ", "do not use", "register"];
    for it in &all {
        assert!(does.iter().any(|word| it.to_string().contains(word)), "{it}");
    }
    let causes: std::collections::BTreeSet<_> =
        (1..=6).map(|it| Refused::Revoked(it).to_string()).collect();
    assert_eq!(causes.len(), 5, "{causes:?}");
}
