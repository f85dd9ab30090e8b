//! The gRPC surface of accounts.

use std::sync::Arc;

use api::identity::{self as pb, user_service_server::UserService};
use chassis::{
    Call, Db, Error, Reply, Result, Tx, email, mask, reply,
    token::{Kind, Token},
};
use tonic::Request;

use super::{Draft, Refused, User, store};
use crate::{
    access::Proofs,
    mailed_link::{self, Links, MailedLink, Purpose},
    member, organization,
    password::{self, Passwords},
    second_factor,
    session::{self, sign_in::SignIn},
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) passwords: Arc<Passwords>,
    pub(crate) links: Links,
    pub(crate) proofs: Proofs,
    pub(crate) sign_in: Arc<SignIn>,
}

#[tonic::async_trait]
impl UserService for Rpc {
    async fn register(&self, request: Request<pb::RegisterRequest>) -> Reply<pb::RegisterResponse> {
        let call = Call::of(request)?;
        self.sign_in.count_source(&call)?;
        let it = &call.message;
        let draft = Draft::new(&it.email, &it.password, &it.display_name)?;
        // Before the transaction, and also for an address that has an account: it must take as long.
        let hash =
            self.passwords.hash_for_new_account(call.message.password.clone().into()).await?;
        let register = async |tx: &mut Tx| {
            let address = draft.address.clone();
            let registered = User::register(draft, None, tx.now);
            tx.act_as(&registered.state().account(uuid::Uuid::nil()));
            let (user, purpose) = match store::insert(tx, registered, Some(&hash)).await? {
                Some(user) => (Some(user), Purpose::Verify),
                None => {
                    (store::lock_by_email(tx, &address.canonical).await?, Purpose::ToldRegistered)
                }
            };
            if let Some(user) = user {
                let last = mailed_link::store::last(tx, user.id, purpose).await?;
                if mailed_link::pause(last, tx.now).is_ok() {
                    let to = user.address();
                    let link = MailedLink::new(&self.links, purpose, &user, &to, tx.now);
                    mailed_link::store::send(tx, &link).await?;
                }
            }
            Ok(pb::RegisterResponse {})
        };
        reply(self.db.write(&call, register).await?)
    }

    async fn register_invited(
        &self,
        request: Request<pb::RegisterInvitedRequest>,
    ) -> Reply<pb::RegisterInvitedResponse> {
        let call = Call::of(request)?;
        self.sign_in.count_source(&call)?;
        let it = &call.message;
        let draft = Draft::new(&it.email, &it.password, &it.display_name)?;
        let hash = self.passwords.hash_for_new_account(it.password.clone().into()).await?;
        let register = async |tx: &mut Tx| {
            let registered = User::register(draft, Some(tx.now), tx.now);
            tx.act_as(&registered.state().account(uuid::Uuid::nil()));
            let user = store::insert(tx, registered, Some(&hash)).await?;
            let account = user.ok_or(Refused::EmailTaken)?.account(uuid::Uuid::nil());
            let (_, token) = self.sign_in.session(tx, &call, account, "invitation").await?;
            Ok(pb::RegisterInvitedResponse { token })
        };
        reply(self.db.write(&call, register).await?)
    }

    async fn verify_email(
        &self,
        request: Request<pb::VerifyEmailRequest>,
    ) -> Reply<pb::VerifyEmailResponse> {
        let call = Call::of(request)?;
        let token = token(Kind::Verification, &call.message.token)?;
        let verify = async |tx: &mut Tx| {
            let (user, _) = open(tx, Purpose::Verify, &token).await?;
            let user = store::update(tx, user.verify(tx.now)).await?;
            Ok(pb::VerifyEmailResponse { user: Some((&user).into()) })
        };
        reply(self.db.write(&call, verify).await?)
    }

    async fn resend_verification(
        &self,
        request: Request<pb::ResendVerificationRequest>,
    ) -> Reply<pb::ResendVerificationResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        let resend = async |tx: &mut Tx| {
            let user = store::lock_caller(tx, account).await?;
            let last = mailed_link::store::last(tx, user.id, Purpose::Verify).await?;
            mailed_link::pause(last, tx.now)?;
            let to = user.address();
            let link = MailedLink::new(&self.links, Purpose::Verify, &user, &to, tx.now);
            mailed_link::store::send(tx, &link).await?;
            let event = pb::VerificationSent { after: Some((&user).into()) };
            tx.emit(user.told(&event));
            Ok(pb::ResendVerificationResponse {})
        };
        reply(self.db.write(&call, resend).await?)
    }

    async fn get_me(&self, request: Request<pb::GetMeRequest>) -> Reply<pb::GetMeResponse> {
        let call = Call::of(request)?;
        let user = store::get(&self.db, call.account()?.user_id).await?;
        let user = user.ok_or(Error::NotFound("user"))?;
        reply(pb::GetMeResponse { user: Some((&user).into()) })
    }

    async fn update_profile(
        &self,
        request: Request<pb::UpdateProfileRequest>,
    ) -> Reply<pb::UpdateProfileResponse> {
        let call = Call::of(request)?;
        mask::paths(call.message.update_mask.as_ref(), &["display_name"])?;
        let name = call.message.display_name.trim().to_owned();
        if name.is_empty() {
            return Err(Error::invalid("display_name", "must not be empty").into());
        }
        let account = call.account()?;
        let update = async |tx: &mut Tx| {
            let user = store::lock_caller(tx, account).await?;
            let user = if user.display_name == name {
                user
            } else {
                store::update(tx, user.rename(name)).await?
            };
            Ok(pb::UpdateProfileResponse { user: Some((&user).into()) })
        };
        let updated = self.db.write(&call, update).await?;
        self.proofs.invalidate_all();
        reply(updated)
    }

    async fn change_password(
        &self,
        request: Request<pb::ChangePasswordRequest>,
    ) -> Reply<pb::ChangePasswordResponse> {
        let call = Call::of(request)?;
        let (it, account) = (&call.message, call.account()?);
        strong(&it.new_password, &account.email)?;
        let proof = self.sign_in.prove_password(&call, account, &it.current_password).await?;
        let hash = self.passwords.hash(it.new_password.clone().into()).await?;
        let change = async |tx: &mut Tx| {
            let user = store::lock_caller(tx, account).await?;
            user.require_current(&proof)?;
            let user = store::update(tx, user.change_password()).await?;
            store::set_password(tx, user.id, Some(&hash)).await?;
            session::store::end_all(tx, user.id, Some(account.credential_id)).await?;
            mailed_link::store::end_all(tx, user.id).await?;
            Ok(pb::ChangePasswordResponse {})
        };
        reply(self.and_forget(self.db.write(&call, change).await)?)
    }

    async fn request_password_reset(
        &self,
        request: Request<pb::RequestPasswordResetRequest>,
    ) -> Reply<pb::RequestPasswordResetResponse> {
        let call = Call::of(request)?;
        self.sign_in.count_source(&call)?;
        let address = email::parse(&call.message.email);
        let send = async |tx: &mut Tx| {
            let Some(address) = address else { return Ok(pb::RequestPasswordResetResponse {}) };
            if let Some(user) = store::lock_by_email(tx, &address.canonical).await? {
                let last = mailed_link::store::last(tx, user.id, Purpose::Reset).await?;
                if mailed_link::pause(last, tx.now).is_ok() {
                    // To the address of the account, not to the one that was typed (I-07).
                    let to = user.address();
                    let link = MailedLink::new(&self.links, Purpose::Reset, &user, &to, tx.now);
                    mailed_link::store::send(tx, &link).await?;
                    let event = pb::PasswordResetRequested { after: Some((&user).into()) };
                    tx.emit(user.told(&event));
                }
            }
            Ok(pb::RequestPasswordResetResponse {})
        };
        reply(self.db.write(&call, send).await?)
    }

    async fn reset_password(
        &self,
        request: Request<pb::ResetPasswordRequest>,
    ) -> Reply<pb::ResetPasswordResponse> {
        let call = Call::of(request)?;
        self.sign_in.count_source(&call)?;
        let token = token(Kind::Reset, &call.message.token)?;
        strong(&call.message.new_password, "")?;
        // Before the costly hash, and once more under the lock of the link.
        mailed_link::store::check(&self.db, Purpose::Reset, &token).await?;
        let hash = self.passwords.hash(call.message.new_password.clone().into()).await?;
        let reset = async |tx: &mut Tx| {
            let (user, _) = open(tx, Purpose::Reset, &token).await?;
            let user = store::update(tx, user.reset_password(tx.now)).await?;
            store::set_password(tx, user.id, Some(&hash)).await?;
            session::store::end_all(tx, user.id, None).await?;
            mailed_link::store::end_all(tx, user.id).await?;
            Ok(pb::ResetPasswordResponse {})
        };
        reply(self.and_forget(self.db.write(&call, reset).await)?)
    }

    async fn request_email_change(
        &self,
        request: Request<pb::RequestEmailChangeRequest>,
    ) -> Reply<pb::RequestEmailChangeResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        let to = email::parse(&call.message.new_email);
        let to = to.ok_or_else(|| Error::invalid("new_email", "must be an e-mail address"))?;
        let proof = self.sign_in.prove_password(&call, account, &call.message.password).await?;
        let send = async |tx: &mut Tx| {
            let user = store::lock_caller(tx, account).await?;
            user.require_current(&proof)?;
            let last = mailed_link::store::last(tx, user.id, Purpose::Change).await?;
            mailed_link::pause(last, tx.now)?;
            // The same work for any address: the mail says whether it has an account already.
            let link = MailedLink::new(&self.links, Purpose::Change, &user, &to, tx.now);
            mailed_link::store::send(tx, &link).await?;
            let (after, new_email) = (Some((&user).into()), to.typed.0.clone());
            tx.emit(user.told(&pb::EmailChangeRequested { after, new_email }));
            Ok(pb::RequestEmailChangeResponse {})
        };
        reply(self.db.write(&call, send).await?)
    }

    async fn confirm_email_change(
        &self,
        request: Request<pb::ConfirmEmailChangeRequest>,
    ) -> Reply<pb::ConfirmEmailChangeResponse> {
        let call = Call::of(request)?;
        let token = token(Kind::Verification, &call.message.token)?;
        let confirm = async |tx: &mut Tx| {
            let (user, link) = open(tx, Purpose::Change, &token).await?;
            let old = user.address();
            let changed = user.change_email(link.email, link.canonical_email, tx.now);
            let user = store::update(tx, changed).await?;
            store::leave_address(tx, user.id, &old).await?;
            session::store::end_all(tx, user.id, None).await?;
            mailed_link::store::end_all(tx, user.id).await?;
            let notice = MailedLink::new(&self.links, Purpose::ToldChanged, &user, &old, tx.now);
            mailed_link::store::send(tx, &notice).await?;
            Ok(pb::ConfirmEmailChangeResponse { user: Some((&user).into()) })
        };
        reply(self.and_forget(self.db.write(&call, confirm).await)?)
    }

    async fn delete_account(
        &self,
        request: Request<pb::DeleteAccountRequest>,
    ) -> Reply<pb::DeleteAccountResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        account.require_fresh(self.db.now())?;
        let typed = email::parse(&call.message.confirm_email).map(|it| it.canonical);
        let delete = async |tx: &mut Tx| {
            let organizations = store::organizations(tx, account.user_id).await?;
            for (org_id, _) in organizations.iter().filter(|it| !it.1) {
                leave(tx, *org_id, account.user_id).await?;
            }
            let user = store::lock_caller(tx, account).await?;
            let owns = organizations.iter().filter(|it| it.1).map(|it| it.0).collect();
            let mut addresses = store::take_former_addresses(tx, user.id).await?;
            let current = user.address();
            let deleted = user.delete(owns, typed.as_deref(), &addresses, tx.now)?;
            tx.lead(&deleted);
            let user = store::update(tx, deleted).await?;
            store::set_password(tx, user.id, None).await?;
            store::unlink_all(tx, user.id).await?;
            second_factor::store::forget(tx, user.id).await?;
            session::store::erase(tx, user.id).await?;
            addresses.push(current);
            let canonical: Vec<_> = addresses.into_iter().map(|it| it.canonical).collect();
            mailed_link::store::erase(tx, user.id, &canonical).await?;
            Ok(pb::DeleteAccountResponse {})
        };
        reply(self.and_forget(self.db.write(&call, delete).await)?)
    }
}

impl Rpc {
    /// After credentials were ended: this replica forgets at once what they proved, the others within a
    /// second.
    fn and_forget<T>(&self, outcome: Result<T>) -> Result<T> {
        self.proofs.invalidate_all();
        outcome
    }
}

fn token(kind: Kind, text: &str) -> Result<Token> {
    Token::parse(kind, text).ok_or_else(|| mailed_link::Refused::Invalid.into())
}

/// Uses a mailed link: the account it is for, which acts from here on, and the link.
async fn open(tx: &mut Tx, purpose: Purpose, token: &Token) -> Result<(User, MailedLink)> {
    let invalid = mailed_link::Refused::Invalid;
    let link = mailed_link::store::lock(tx, token.id).await?.ok_or(invalid)?;
    let user = store::lock(tx, link.user_id).await?.ok_or(mailed_link::Refused::Invalid)?;
    link.open(purpose, token, &user, tx.now)?;
    mailed_link::store::used(tx, link.id).await?;
    tx.act_as(&user.account(link.id));
    Ok((user, link))
}

/// Refuses a password that is too easy to guess.
fn strong(password: &str, email: &str) -> Result<()> {
    match password::weakness(password, email) {
        Some(weakness) => Err(Error::invalid("new_password", weakness)),
        None => Ok(()),
    }
}

/// Ends a membership of an account that goes.
async fn leave(tx: &mut Tx, org_id: chassis::OrgId, user_id: chassis::UserId) -> Result<()> {
    organization::store::lock(tx, org_id).await?;
    if let Some(member) = member::store::find(tx, org_id, user_id).await? {
        let lost = member::rpc::belongings(tx, &member).await?;
        member::rpc::go(tx, member.leave(&lost)?).await?;
    }
    Ok(())
}
