//! Tests of the rules of invitations.

use std::collections::BTreeSet;

use super::*;

fn invitation(max_uses: i32, use_count: i32) -> Invitation {
    Invitation {
        id: InvitationId(Uuid::nil()),
        org_id: OrgId(Uuid::nil()),
        email: Email("Bob@example.com".to_owned()),
        canonical_email: "bob@example.com".to_owned(),
        role: DbEnum(OrgRole::Developer),
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
        link_generation: 0,
        renewed_at: None,
        mailed_at: vec![OffsetDateTime::UNIX_EPOCH],
        mail_count: 1,
        revoked_at: None,
        revoke_cause: DbEnum(RevokeCause::Unspecified),
        revoker_id: None,
        expiry_event_at: None,
        cleaned_at: None,
    }
}

fn account(email: &str) -> Account {
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

fn links_of(secrets: &[[u8; 32]]) -> Links {
    Links::new(&chassis::key::Key::new(secrets), "https://tenantry.example".to_owned())
}

/// IN-13, IN-14, IN-17.
#[test]
fn an_account_accepts_in_time_with_the_invited_address_and_once() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let expired = now + Duration::days(7);
    let bob = account("BOB@Example.com");
    let check = |it: &Invitation, account: &Account, now| it.check_acceptable(account, false, now);
    let single_use = invitation(1, 0);

    assert_eq!(check(&single_use, &bob, now), Ok(()));
    assert_eq!(check(&single_use, &bob, expired), Err(Refused::Expired));
    assert_eq!(check(&invitation(1, 1), &bob, now), Err(Refused::Exhausted));
    assert_eq!(single_use.check_acceptable(&bob, true, now), Err(Refused::AlreadyAccepted));
    let eve = account("eve@example.com");
    let mismatch = Refused::EmailMismatch("b…@example.com".to_owned());
    assert_eq!(check(&single_use, &eve, now), Err(mismatch));
    assert_eq!(check(&invitation(3, 2), &eve, now), Ok(()));
    let unverified = Account { email_verified: false, ..bob };
    assert_eq!(check(&single_use, &unverified, now), Err(Refused::EmailNotVerified));
}

/// IN-22, IN-28: an ended invitation does not change.
#[test]
fn an_ended_invitation_stays_ended() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let later = now + Duration::days(8);
    let bob = account("bob@example.com");
    let revoked = invitation(1, 0).revoke(RevokeCause::Manager, Some(bob.user_id), now).unwrap();
    let declined = invitation(1, 0).decline(&bob, now).unwrap();
    let ended = [
        (revoked.state().clone(), now, State::Revoked),
        (declined.state().clone(), now, State::Revoked),
        (invitation(1, 1), now, State::Exhausted),
        (invitation(1, 0), later, State::Expired),
    ];
    for (invitation, now, state) in ended {
        assert_eq!(invitation.state(now), state);
        let refused = Refused::NotPending(state);
        let revoked = invitation.clone().revoke(RevokeCause::Manager, None, now);
        assert_eq!(revoked.unwrap_err(), refused);
        assert_eq!(invitation.clone().copy_link(now).unwrap_err(), refused);
        if state != State::Expired {
            assert_eq!(invitation.clone().resend(&links_of(&[[7; 32]]), now).unwrap_err(), refused);
        }
        assert!(invitation.clone().decline(&bob, now).is_err());
        assert!(invitation.check_acceptable(&bob, false, now).is_err());
    }
}

/// The expiry has one event, whether the lifetime ended or the last use was counted first.
#[test]
fn the_last_use_expires_an_invitation_once() {
    let now = OffsetDateTime::UNIX_EPOCH;
    let later = now + Duration::days(8);
    assert_eq!(invitation(2, 0).accept(now).state().expiry_event_at, None);
    let last_use = invitation(2, 1).accept(now);
    assert_eq!(last_use.state().expiry_event_at, Some(now));
    assert_eq!(last_use.state().state(now), State::Exhausted);
    let expired = invitation(1, 0).expire(now).state().clone();
    assert_eq!(expired.accept(later).state().expiry_event_at, Some(now));
    let revoked = invitation(1, 0).revoke(RevokeCause::Manager, None, now).unwrap();
    assert_eq!(revoked.state().clone().accept(later).state().expiry_event_at, None);
}

/// IN-19, IN-20: the link is mailed again after a minute at the earliest, and five times a day.
#[test]
fn a_link_is_mailed_again_but_not_often() {
    let start = OffsetDateTime::UNIX_EPOCH;
    let links = links_of(&[[7; 32]]);
    let mut resent = invitation(1, 0);
    let too_soon = resent.clone().resend(&links, start).unwrap_err();
    assert_eq!(too_soon, Refused::TooSoon(RESEND_INTERVAL));
    for i in 1..5 {
        let expires_at = resent.expires_at;
        resent = resent.resend(&links, start + RESEND_INTERVAL * i).unwrap().state().clone();
        assert_eq!(resent.expires_at, expires_at);
    }
    assert_eq!((resent.mail_count, resent.mailed_at.len()), (5, 5));
    let hour = Duration::hours(1);
    let sixth = resent.clone().resend(&links, start + hour).unwrap_err();
    assert_eq!(sixth, Refused::TooSoon(DAY - hour));
    let next_day = resent.resend(&links, start + DAY).unwrap();
    assert_eq!(next_day.state().mail_count, 6);
}

/// IN-19: an expired invitation begins another lifetime of the same length, with new links and a new event of
/// its expiry.
#[test]
fn an_expired_invitation_is_renewed_with_new_links() {
    let links = links_of(&[[7; 32]]);
    let later = OffsetDateTime::UNIX_EPOCH + Duration::days(20);
    let expired = invitation(1, 0).expire(later).state().clone();
    let renewed = expired.resend(&links, later).unwrap().state().clone();
    assert_eq!(renewed.state(later), State::Pending);
    assert_eq!(renewed.expires_at, later + Duration::days(7));
    assert_eq!((renewed.expiry_event_at, renewed.link_generation), (None, 1));
    let old_hash = links.secret_hash(renewed.id.0, 0, LinkKind::Mailed);
    assert_ne!(renewed.secret_hash, old_hash);
    let much_later = later + Duration::days(30);
    let again = renewed.resend(&links, much_later).unwrap().state().clone();
    assert_eq!(again.expires_at, much_later + Duration::days(7));
}

/// N-01: a token opens its own invitation only, and shows the kind of its link.
#[test]
fn only_its_own_links_open_an_invitation() {
    let links = links_of(&[[7; 32]]);
    let token = |links: &Links, invitation: &Invitation, kind| {
        let url = links.url(invitation, kind);
        let text = url.strip_prefix("https://tenantry.example/invitations/").unwrap();
        Token::parse(chassis::token::Kind::Invitation, text).unwrap()
    };
    let with_links = |generation| {
        let id = chassis::id::new();
        Invitation {
            id: InvitationId(id),
            secret_hash: links.secret_hash(id, generation, LinkKind::Mailed),
            copied_hash: links.secret_hash(id, generation, LinkKind::Copied),
            link_generation: generation,
            ..invitation(1, 0)
        }
    };
    // After a rotation of the secret key, the same links are mailed and copied again.
    let rotated = links_of(&[[8; 32], [7; 32]]);
    for generation in [0, 1] {
        let invited = with_links(generation);
        for kind in [LinkKind::Mailed, LinkKind::Copied] {
            for links in [&links, &rotated] {
                assert_eq!(invited.link_kind(&token(links, &invited, kind)), Some(kind));
            }
        }
        let other = token(&links, &with_links(generation), LinkKind::Mailed);
        assert_eq!(invited.link_kind(&other), None);
        assert_eq!(invited.link_kind(&Token::random(invited.id.0)), None);
    }
    assert_eq!(invitation(1, 0).link_kind(&Token::random(Uuid::nil())), None);
}

/// Every error of an invited person has a reason of its own, and a message with the next step.
#[test]
fn every_refusal_contains_the_next_step() {
    use chassis::Refusal;
    let refusals = [
        Refused::Expired,
        Refused::Exhausted,
        Refused::Revoked(RevokeCause::Manager),
        Refused::EmailMismatch("b…@example.com".to_owned()),
        Refused::EmailNotVerified,
        Refused::AlreadyAccepted,
        Refused::OpenLink,
        Refused::ProvesNothing,
    ];
    let reasons: BTreeSet<_> = refusals.iter().map(|it| it.reason().as_str_name()).collect();
    assert_eq!(reasons.len(), refusals.len());
    let steps = ["ask ", "sign in", "confirm", "open ", "ignore", "register"];
    for refusal in &refusals {
        let message = refusal.to_string();
        assert!(steps.iter().any(|step| message.contains(step)), "{message}");
    }
    let causes = (1..=6).map(|number| RevokeCause::try_from(number).unwrap());
    let messages: BTreeSet<_> = causes.map(|it| Refused::Revoked(it).to_string()).collect();
    assert_eq!(messages.len(), 5, "{messages:?}");
}
