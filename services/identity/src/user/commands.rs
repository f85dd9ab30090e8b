//! Registration, changes and deletion of accounts.

use api::identity as pb;
use chassis::{
    Account, Error, Result, Tx, UserId,
    call::Context,
    email::Address,
    token::{Kind, Token},
};
use identity_rules::{
    mailed_link::{LinkFactory, MailedLink, Purpose, Refused as LinkRefused, require_interval},
    user::{Draft, Refused, User, VerifiedPassword},
};
use uuid::Uuid;

use super::store::{self, MemberOf};
use crate::{
    mailed_link, member, second_factor,
    session::{self, commands::SignIn},
};

/// The actor's credential in calls that need none, like a registration.
const NO_CREDENTIAL: Uuid = Uuid::nil();

/// Registers an account and mails a link that confirms its address. If the address has an account already,
/// mails a notice to its owner instead; the client cannot see the difference.
pub(super) async fn register(
    tx: &mut Tx,
    links: &LinkFactory,
    draft: Draft,
    password_hash: &str,
) -> Result<()> {
    let canonical = draft.address.canonical.clone();
    let registered = User::register(draft, None, tx.now);
    tx.act_as(&registered.state().account(NO_CREDENTIAL));
    let (user, purpose) = match store::insert(tx, registered, Some(password_hash)).await? {
        Some(user) => (Some(user), Purpose::VerifyEmail),
        None => (store::lock_by_email(tx, &canonical).await?, Purpose::AlreadyRegistered),
    };
    if let Some(user) = user {
        send_link_if_due(tx, links, purpose, &user).await?;
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
    let registered = User::register(draft, Some(tx.now), tx.now);
    tx.act_as(&registered.state().account(NO_CREDENTIAL));
    let user = store::insert(tx, registered, Some(password_hash)).await?;
    let account = user.ok_or(Refused::EmailTaken)?.account(NO_CREDENTIAL);
    Ok(sign_in.start_session(tx, context, account, "invitation").await?.token)
}

/// Confirms the address of an account by a mailed link.
pub(super) async fn verify_email(tx: &mut Tx, token: &Token) -> Result<User> {
    if let Some(user) = confirmed_by(tx, token).await? {
        return Ok(user);
    }
    let (user, _) = consume_link(tx, Purpose::VerifyEmail, token).await?;
    store::update(tx, user.verify_email(tx.now)).await
}

/// The account whose present address an earlier use of this link, or of another one, has confirmed.
async fn confirmed_by(tx: &mut Tx, token: &Token) -> Result<Option<User>> {
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
    let last_sent_at = mailed_link::store::last_sent_at(tx, user.id, Purpose::VerifyEmail).await?;
    require_interval(last_sent_at, tx.now)?;
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

/// Mails a link that sets a new password, if the address has an account. Sends it to the address of the
/// account, which may differ in case from the requested one (I-07).
pub(super) async fn request_password_reset(
    tx: &mut Tx,
    links: &LinkFactory,
    address: Option<Address>,
) -> Result<()> {
    let Some(address) = address else { return Ok(()) };
    let Some(user) = store::lock_by_email(tx, &address.canonical).await? else { return Ok(()) };
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
    mailed_link::store::invalidate_all(tx, user.id).await
}

/// Mails a link that changes the address of the account to `new_address`. The same work for any address: if
/// it has an account already, only its mail says so.
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
    let link = MailedLink::new(links, Purpose::ChangeEmail, &user, new_address, tx.now);
    mailed_link::store::send(tx, &link).await?;
    let event = pb::UserEmailChangeRequested {
        after: Some((&user).into()),
        new_email: new_address.typed.0.clone(),
    };
    tx.emit(user.with_event(&event));
    Ok(())
}

/// Changes the address by a mailed link, ends all sessions, and mails a notice to the old address.
pub(super) async fn confirm_email_change(
    tx: &mut Tx,
    links: &LinkFactory,
    token: &Token,
) -> Result<User> {
    let (user, link) = consume_link(tx, Purpose::ChangeEmail, token).await?;
    let old_address = user.address();
    let changed = user.change_email(link.email, link.canonical_email, tx.now);
    let user = store::update(tx, changed).await?;
    store::insert_former_address(tx, user.id, &old_address).await?;
    session::store::end_all(tx, user.id, None).await?;
    mailed_link::store::invalidate_all(tx, user.id).await?;
    let notice = MailedLink::new(links, Purpose::AddressChanged, &user, &old_address, tx.now);
    mailed_link::store::send(tx, &notice).await?;
    Ok(user)
}

/// Deletes the account with its memberships, and erases its personal data. `confirm_email` is the canonical
/// form of the address that the person has entered.
pub(super) async fn delete(
    tx: &mut Tx,
    account: &Account,
    confirm_email: Option<&str>,
) -> Result<()> {
    let organizations = store::organizations(tx, account.user_id).await?;
    for MemberOf { org_id, .. } in organizations.iter().filter(|it| !it.is_owner) {
        member::commands::leave_deleted_account(tx, *org_id, account.user_id).await?;
    }
    let user = store::lock_caller(tx, account).await?;
    let owned_orgs = organizations.iter().filter(|it| it.is_owner).map(|it| it.org_id).collect();
    let mut addresses = store::take_former_addresses(tx, user.id).await?;
    let current_address = user.address();
    let deleted = user.delete(owned_orgs, confirm_email, &addresses, tx.now)?;
    tx.set_primary(&deleted);
    let user = store::update(tx, deleted).await?;
    addresses.push(current_address);
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
    let last_sent_at = mailed_link::store::last_sent_at(tx, user.id, purpose).await?;
    if require_interval(last_sent_at, tx.now).is_err() {
        return Ok(false);
    }
    let link = MailedLink::new(links, purpose, user, &user.address(), tx.now);
    mailed_link::store::send(tx, &link).await?;
    Ok(true)
}

/// Marks a mailed link as used, and returns its account, which is the actor of the transaction from then on.
async fn consume_link(tx: &mut Tx, purpose: Purpose, token: &Token) -> Result<(User, MailedLink)> {
    let invalid = || Error::from(LinkRefused::Invalid);
    let link = mailed_link::store::lock(tx, token.id).await?.ok_or_else(invalid)?;
    let user = store::lock(tx, link.user_id).await?.ok_or_else(invalid)?;
    link.require_valid(purpose, token, &user, tx.now)?;
    mailed_link::store::mark_used(tx, link.id).await?;
    tx.act_as(&user.account(link.id));
    Ok((user, link))
}
