//! Registration, changes and deletion of accounts.

pub(crate) mod claims;

use api::{error::Reason, identity as pb};
use chassis::{
    Account, Error, Result, Tx, UserId,
    call::Context,
    email::Address,
    token::{Kind, Token},
};
use identity_rules::{
    mailed_link::{LinkFactory, MailedLink, Purpose, Refused as LinkRefused, require_interval},
    organization::RESTORE_PERIOD,
    user::{
        Draft, OwnedOrganization, Refused, User, VerifiedPassword,
        claim::{CLAIMS_PER_ADDRESS_MAX, require_mail_allowance},
    },
};
use uuid::Uuid;

use super::store::{self, MemberOf};
use crate::{
    mailed_link, member, second_factor,
    session::{self, commands::SignIn},
};

/// The actor's credential in calls that need none, like a registration.
const NO_CREDENTIAL: Uuid = Uuid::nil();

/// Proof that the person who follows a mailed link is the person who set up the account. The link itself
/// proves the mailbox only: its reader may have never asked for it.
pub(super) enum PersonProof {
    /// The call comes from this session of the account.
    Session(Uuid),
    /// The password of the account.
    Password(VerifiedPassword),
    /// None: the account gets this password (its hash), and its former password and sessions end.
    NewPassword(String),
}

/// Registers an account and mails a link that confirms its address. If another account has confirmed the
/// address, mails a notice to its owner instead; if the address has the maximum of open claims, a link that
/// sets a password. The client cannot see the difference.
pub(super) async fn register(
    tx: &mut Tx,
    links: &LinkFactory,
    draft: Draft,
    password_hash: &str,
) -> Result<()> {
    let canonical = draft.address.canonical.clone();
    store::claims::lock_address(tx, &canonical).await?;
    let registered = User::register(draft, None, tx.now);
    tx.act_as(&registered.state().account(NO_CREDENTIAL));
    if let Some(owner) = store::lock_by_email(tx, &canonical).await? {
        send_link_if_due(tx, links, Purpose::AlreadyRegistered, &owner).await?;
        return Ok(());
    }
    let claims = store::claims::of_address(tx, &canonical).await?;
    if i64::try_from(claims.len()).unwrap_or(i64::MAX) >= CLAIMS_PER_ADDRESS_MAX {
        return request_password_reset_of(tx, links, &canonical).await;
    }
    if let Some(user) = store::insert(tx, registered, Some(password_hash)).await? {
        send_link_if_due(tx, links, Purpose::VerifyEmail, &user).await?;
    }
    Ok(())
}

/// Registers an account with a confirmed address, because the invitation was mailed there, and starts a
/// session. Returns the token of the session.
pub(super) async fn register_invited(
    tx: &mut Tx,
    sign_in: &SignIn,
    context: &Context,
    draft: Draft,
    password_hash: &str,
) -> Result<String> {
    store::claims::lock_address(tx, &draft.address.canonical).await?;
    let registered = User::register(draft, Some(tx.now), tx.now);
    tx.act_as(&registered.state().account(NO_CREDENTIAL));
    let user = store::insert(tx, registered, Some(password_hash)).await?;
    let user = user.ok_or(Refused::EmailTaken)?;
    claims::end_others(tx, &user).await?;
    let account = user.account(NO_CREDENTIAL);
    Ok(sign_in.start_session(tx, context, account, "invitation").await?.token)
}

/// Confirms the address of an account by a mailed link, and ends all other claims to the address.
pub(super) async fn verify_email(tx: &mut Tx, token: &Token, proof: &PersonProof) -> Result<User> {
    let (user, _) = consume_link(tx, Purpose::VerifyEmail, token).await?;
    require_proof(tx, &user, proof).await?;
    let now = tx.now;
    let user = match proof {
        PersonProof::NewPassword(hash) => {
            let user = store::update(tx, user.verify_email_with_new_password(now)).await?;
            store::set_password_hash(tx, user.id, Some(hash)).await?;
            session::store::end_all(tx, user.id, None).await?;
            user
        }
        _ => store::update(tx, user.verify_email(now)).await?,
    };
    mailed_link::store::invalidate_all(tx, user.id).await?;
    claims::end_others(tx, &user).await?;
    Ok(user)
}

/// Confirms the address of the calling account, because it follows a link that the invitation service has
/// mailed to the address (IN-14). Does nothing if the address is confirmed already.
pub(super) async fn verify_invited(
    tx: &mut Tx,
    account: &Account,
    address: &Address,
) -> Result<()> {
    store::claims::lock_address(tx, &address.canonical).await?;
    let user = store::lock_caller(tx, account).await?;
    if user.canonical_email != address.canonical {
        return Err(LinkRefused::Invalid.into());
    }
    if !user.is_claim() {
        return Ok(());
    }
    let user = store::update(tx, user.verify_email(tx.now)).await?;
    mailed_link::store::invalidate_all(tx, user.id).await?;
    claims::end_others(tx, &user).await
}

/// The account whose present address an earlier use of this link, or of another one, has confirmed.
pub(super) async fn confirmed_by(tx: &mut Tx, token: &Token) -> Result<Option<User>> {
    let Some(link) = mailed_link::store::lock(tx, token.id).await? else { return Ok(None) };
    let Some(user) = store::lock(tx, link.user_id).await? else { return Ok(None) };
    let has_confirmed = link.has_confirmed(token, &user);
    if has_confirmed {
        tx.act_as(&user.account(link.id));
    }
    Ok(has_confirmed.then_some(user))
}

/// Mails the link that confirms the address again.
pub(super) async fn resend_verification(
    tx: &mut Tx,
    links: &LinkFactory,
    account: &Account,
) -> Result<()> {
    let user = store::lock_caller(tx, account).await?;
    require_mail_due(tx, Purpose::VerifyEmail, &user).await?;
    let link = MailedLink::new(links, Purpose::VerifyEmail, &user, &user.address(), tx.now);
    mailed_link::store::send(tx, &link).await?;
    let event = pb::UserVerificationSent { after: Some((&user).into()) };
    tx.emit(user.with_event(&event));
    Ok(())
}

/// Changes the display name. Does nothing if it is the same.
pub(super) async fn rename(tx: &mut Tx, account: &Account, name: String) -> Result<User> {
    let user = store::lock_caller(tx, account).await?;
    if user.display_name == name {
        return Ok(user);
    }
    store::update(tx, user.rename(name)).await
}

/// Changes the password, ends all other sessions and invalidates mailed links.
pub(super) async fn change_password(
    tx: &mut Tx,
    account: &Account,
    verified: &VerifiedPassword,
    password_hash: &str,
) -> Result<()> {
    let user = store::lock_caller(tx, account).await?;
    user.require_current(verified)?;
    let user = store::update(tx, user.change_password()).await?;
    store::set_password_hash(tx, user.id, Some(password_hash)).await?;
    session::store::end_all(tx, user.id, Some(account.credential_id)).await?;
    mailed_link::store::invalidate_all(tx, user.id).await
}

/// Mails a link that sets a new password, if the address has an account or a claim. Sends it to the address
/// of the account, which may differ in case from the requested one (I-07).
pub(super) async fn request_password_reset(
    tx: &mut Tx,
    links: &LinkFactory,
    address: &Address,
) -> Result<()> {
    store::claims::lock_address(tx, &address.canonical).await?;
    request_password_reset_of(tx, links, &address.canonical).await
}

/// Like [`request_password_reset`], under the lock of the address. Without an account that has confirmed the
/// address, the link is of the newest claim.
async fn request_password_reset_of(
    tx: &mut Tx,
    links: &LinkFactory,
    canonical: &str,
) -> Result<()> {
    let mut user = store::lock_by_email(tx, canonical).await?;
    if user.is_none()
        && let Some(id) = store::claims::of_address(tx, canonical).await?.first()
    {
        user = store::lock(tx, *id).await?;
    }
    let Some(user) = user else { return Ok(()) };
    if send_link_if_due(tx, links, Purpose::ResetPassword, &user).await? {
        let event = pb::UserPasswordResetRequested { after: Some((&user).into()) };
        tx.emit(user.with_event(&event));
    }
    Ok(())
}

/// Sets a new password by a mailed link, ends all sessions and invalidates other links.
pub(super) async fn reset_password(tx: &mut Tx, token: &Token, password_hash: &str) -> Result<()> {
    let (user, _) = consume_link(tx, Purpose::ResetPassword, token).await?;
    let user = store::update(tx, user.reset_password(tx.now)).await?;
    store::set_password_hash(tx, user.id, Some(password_hash)).await?;
    session::store::end_all(tx, user.id, None).await?;
    mailed_link::store::invalidate_all(tx, user.id).await?;
    claims::end_others(tx, &user).await
}

/// Mails a link that changes the address of the account to `new_address`, and a notice to the present one.
/// Earlier links to a new address end. The same work for any address: if it has an account already, only its
/// mail says so.
pub(super) async fn request_email_change(
    tx: &mut Tx,
    links: &LinkFactory,
    account: &Account,
    verified: &VerifiedPassword,
    new_address: &Address,
) -> Result<()> {
    let user = store::lock_caller(tx, account).await?;
    user.require_current(verified)?;
    let last_sent_at = mailed_link::store::last_sent_at(tx, user.id, Purpose::ChangeEmail).await?;
    require_interval(last_sent_at, tx.now)?;
    mailed_link::store::invalidate(tx, user.id, Purpose::ChangeEmail).await?;
    let link = MailedLink::new(links, Purpose::ChangeEmail, &user, new_address, tx.now);
    mailed_link::store::send(tx, &link).await?;
    // The owner of an address that was never confirmed has not asked for mails of this account.
    if !user.is_claim() {
        let present = user.address();
        let notice = MailedLink::new(links, Purpose::ChangeRequested, &user, &present, tx.now);
        mailed_link::store::send(tx, &notice).await?;
    }
    let event = pb::UserEmailChangeRequested {
        after: Some((&user).into()),
        new_email: new_address.typed.0.clone(),
    };
    tx.emit(user.with_event(&event));
    Ok(())
}

/// Ends the requested change of the address, if there is one.
pub(super) async fn cancel_email_change(tx: &mut Tx, account: &Account) -> Result<()> {
    let user = store::lock_caller(tx, account).await?;
    if mailed_link::store::invalidate(tx, user.id, Purpose::ChangeEmail).await? > 0 {
        let event = pb::UserEmailChangeCancelled { after: Some((&user).into()) };
        tx.emit(user.with_event(&event));
    }
    Ok(())
}

/// Changes the address by a mailed link, ends all sessions and all claims to the new address, and mails a
/// notice to the old address.
pub(super) async fn confirm_email_change(
    tx: &mut Tx,
    links: &LinkFactory,
    token: &Token,
    proof: &PersonProof,
) -> Result<User> {
    let (user, link) = consume_link(tx, Purpose::ChangeEmail, token).await?;
    require_proof(tx, &user, proof).await?;
    let old_address = user.address();
    let was_claim = user.is_claim();
    let changed = user.change_email(link.email, link.canonical_email, tx.now);
    let user = store::update(tx, changed).await?;
    claims::end_others(tx, &user).await?;
    session::store::end_all(tx, user.id, None).await?;
    mailed_link::store::invalidate_all(tx, user.id).await?;
    // An address that was never confirmed may be another person's: it gets no notice, and is not erased with
    // this account.
    if !was_claim {
        store::insert_former_address(tx, user.id, &old_address).await?;
        let notice = MailedLink::new(links, Purpose::AddressChanged, &user, &old_address, tx.now);
        mailed_link::store::send(tx, &notice).await?;
    }
    Ok(user)
}

/// Deletes the account with its memberships, and erases its personal data. `confirm_email` is the canonical
/// form of the address that the person has entered. With `give_up_restore`, deleted organizations that the
/// account owns stay without a person who can restore them, until their purge.
pub(super) async fn delete(
    tx: &mut Tx,
    account: &Account,
    confirm_email: Option<&str>,
    give_up_restore: bool,
) -> Result<()> {
    let organizations = store::organizations(tx, account.user_id).await?;
    for MemberOf { org_id, .. } in organizations.iter().filter(|it| !it.is_owner) {
        member::commands::leave_deleted_account(tx, *org_id, account.user_id).await?;
    }
    let user = store::lock_caller(tx, account).await?;
    let is_kept = |it: &&MemberOf| it.is_owner && !(give_up_restore && it.deleted_at.is_some());
    let owned = |it: &MemberOf| OwnedOrganization {
        org_id: it.org_id,
        restorable_until: it.deleted_at.map(|time| time + RESTORE_PERIOD),
    };
    let owned_orgs = organizations.iter().filter(is_kept).map(owned).collect();
    let mut addresses = store::take_former_addresses(tx, user.id).await?;
    // The address of a claim may be another person's, whose links are kept.
    let current_address = (!user.is_claim()).then(|| user.address());
    let deleted = user.delete(owned_orgs, confirm_email, &addresses, tx.now)?;
    tx.set_primary(&deleted);
    let user = store::update(tx, deleted).await?;
    addresses.extend(current_address);
    erase_personal_data(tx, user.id, addresses).await
}

/// Deletes everything that refers to a deleted account or to its addresses.
async fn erase_personal_data(tx: &mut Tx, id: UserId, addresses: Vec<Address>) -> Result<()> {
    store::set_password_hash(tx, id, None).await?;
    store::unlink_identities(tx, id).await?;
    second_factor::store::delete(tx, id).await?;
    session::store::delete_all(tx, id).await?;
    let canonical: Vec<_> = addresses.into_iter().map(|it| it.canonical).collect();
    mailed_link::store::delete_all(tx, id, &canonical).await
}

/// Parses the token of a mailed link.
pub(super) fn parse_link_token(kind: Kind, text: &str) -> Result<Token> {
    Token::parse(kind, text).ok_or_else(|| LinkRefused::Invalid.into())
}

/// Mails a link to the account's address; returns false if the last one was sent too recently.
async fn send_link_if_due(
    tx: &mut Tx,
    links: &LinkFactory,
    purpose: Purpose,
    user: &User,
) -> Result<bool> {
    match require_mail_due(tx, purpose, user).await {
        Ok(()) => {}
        Err(error) if error.reason() == Reason::RateLimited => return Ok(false),
        Err(error) => return Err(error),
    }
    let link = MailedLink::new(links, purpose, user, &user.address(), tx.now);
    mailed_link::store::send(tx, &link).await?;
    Ok(true)
}

/// Refuses a mail to the account's address too soon after the last one of its purpose; to an address that
/// nobody has confirmed, also after too many mails of a day.
async fn require_mail_due(tx: &mut Tx, purpose: Purpose, user: &User) -> Result<()> {
    let last_sent_at = mailed_link::store::last_sent_at(tx, user.id, purpose).await?;
    require_interval(last_sent_at, tx.now)?;
    if user.is_claim() {
        let sent = mailed_link::store::count_sent_to(tx, &user.canonical_email).await?;
        require_mail_allowance(sent)?;
    }
    Ok(())
}

/// Refuses a proof that has ended since it was verified.
async fn require_proof(tx: &mut Tx, user: &User, proof: &PersonProof) -> Result<()> {
    match proof {
        PersonProof::Session(id) if session::store::is_active(tx, *id).await? => Ok(()),
        PersonProof::Session(_) => Err(Error::invalid_credential()),
        PersonProof::Password(verified) => Ok(user.require_current(verified)?),
        PersonProof::NewPassword(_) => Ok(()),
    }
}

/// Marks a mailed link as used, and returns its account, which is the actor of the transaction from then on.
/// Takes the lock of the address to which the link was mailed.
async fn consume_link(tx: &mut Tx, purpose: Purpose, token: &Token) -> Result<(User, MailedLink)> {
    let invalid = || Error::from(LinkRefused::Invalid);
    let address = mailed_link::store::find_address(tx, token.id).await?.ok_or_else(invalid)?;
    store::claims::lock_address(tx, &address).await?;
    let link = mailed_link::store::lock(tx, token.id).await?.ok_or_else(invalid)?;
    let user = store::lock(tx, link.user_id).await?.ok_or_else(invalid)?;
    link.require_valid(purpose, token, &user, tx.now)?;
    mailed_link::store::mark_used(tx, link.id).await?;
    tx.act_as(&user.account(link.id));
    Ok((user, link))
}
