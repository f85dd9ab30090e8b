//! gRPC methods of accounts.

use std::sync::Arc;

use api::{
    check::Check,
    identity::{self as pb, user_service_server::UserService},
};
use chassis::{
    Call, Db, Error, Reply, Result, Tx,
    email::{self, Address},
    mask, reply,
    token::{Kind, Token},
};
use identity_rules::{
    mailed_link::{LinkFactory, Purpose},
    password::NewPassword,
    user::{Registration, User},
};
use prost::Message;
use tonic::Request;

use super::{
    commands::{self, PersonProof, parse_link_token},
    store,
};
use crate::{
    credential::CredentialCache, mailed_link, password::PasswordHasher, session::commands::SignIn,
};

/// The service and what its methods need.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) passwords: Arc<PasswordHasher>,
    pub(crate) links: LinkFactory,
    /// Cleared on this replica at once when sessions end or accounts change, also after an error, because a
    /// commit whose response was lost reports one. Other replicas keep a credential for up to a second.
    pub(crate) credentials: CredentialCache,
    pub(crate) sign_in: Arc<SignIn>,
}

#[tonic::async_trait]
impl UserService for Rpc {
    async fn register(&self, request: Request<pb::RegisterRequest>) -> Reply<pb::RegisterResponse> {
        let call = Call::of(request)?;
        self.sign_in.throttle_client(&call).await?;
        let Registration { draft, password } = (&call.message).try_into()?;
        // Also for an address that has an account already: the reply must take as long.
        let hash = self.passwords.hash_for_new_account(&password).await?;
        let register = async |tx: &mut Tx| {
            commands::register(tx, &self.links, draft, &hash).await?;
            Ok(pb::RegisterResponse {})
        };
        reply(self.db.write(&call, register).await?)
    }

    async fn register_invited(
        &self,
        request: Request<pb::RegisterInvitedRequest>,
    ) -> Reply<pb::RegisterInvitedResponse> {
        let call = Call::of(request)?;
        self.sign_in.throttle_client(&call).await?;
        let Registration { draft, password } = (&call.message).try_into()?;
        let hash = self.passwords.hash_for_new_account(&password).await?;
        let register = async |tx: &mut Tx| {
            let sign_in = &self.sign_in;
            let token = commands::register_invited(tx, sign_in, &call, draft, &hash).await?;
            Ok(pb::RegisterInvitedResponse { token })
        };
        reply(self.db.write(&call, register).await?)
    }

    async fn verify_email(
        &self,
        request: Request<pb::VerifyEmailRequest>,
    ) -> Reply<pb::VerifyEmailResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let token = parse_link_token(Kind::Verification, &message.token)?;
        let user = match self.link_account(&call, Purpose::VerifyEmail, &token).await {
            Ok(user) => user,
            Err(refusal) => {
                let confirmed = async |tx: &mut Tx| commands::confirmed_by(tx, &token).await;
                let user =
                    self.db.write_as_system("VerifyEmail", confirmed).await?.ok_or(refusal)?;
                return reply(pb::VerifyEmailResponse { user: Some((&user).into()) });
            }
        };
        let proof = if message.new_password.is_empty() {
            self.prove_person(&call, &user, &message.password).await?
        } else {
            let password = new_password(&message.new_password, &user.email.0)?;
            let hash = self.passwords.hash(&password).await?;
            PersonProof::NewPassword(hash)
        };
        let verify = async |tx: &mut Tx| {
            let user = commands::verify_email(tx, &token, &proof).await?;
            Ok(pb::VerifyEmailResponse { user: Some((&user).into()) })
        };
        let outcome = self.db.write(&call, verify).await;
        self.credentials.invalidate_all();
        reply(outcome?)
    }

    async fn verify_invited_email(
        &self,
        request: Request<pb::VerifyInvitedEmailRequest>,
    ) -> Reply<pb::VerifyInvitedEmailResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        let address = parse_address("email", &call.message.email)?;
        let verify = async |tx: &mut Tx| {
            commands::verify_invited(tx, account, &address).await?;
            Ok(pb::VerifyInvitedEmailResponse {})
        };
        let outcome = self.db.write(&call, verify).await;
        self.credentials.invalidate_all();
        reply(outcome?)
    }

    async fn resend_verification(
        &self,
        request: Request<pb::ResendVerificationRequest>,
    ) -> Reply<pb::ResendVerificationResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        let resend = async |tx: &mut Tx| {
            commands::resend_verification(tx, &self.links, account).await?;
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
        let rename = async |tx: &mut Tx| {
            let user = commands::rename(tx, account, name).await?;
            Ok(pb::UpdateProfileResponse { user: Some((&user).into()) })
        };
        let updated = self.db.write(&call, rename).await?;
        self.credentials.invalidate_all();
        reply(updated)
    }

    async fn change_password(
        &self,
        request: Request<pb::ChangePasswordRequest>,
    ) -> Reply<pb::ChangePasswordResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let account = call.account()?;
        // Before the password is verified: after a change, the current one of the request is outdated.
        if let Some(response) = self.db.stored_response(&call).await? {
            return reply(response);
        }
        let new_password = new_password(&message.new_password, &account.email)?;
        let current = &message.current_password;
        let verified = self.sign_in.verify_password(&call, account.user_id, current).await?;
        let hash = self.passwords.hash(&new_password).await?;
        let change = async |tx: &mut Tx| {
            commands::change_password(tx, account, &verified, &hash).await?;
            Ok(pb::ChangePasswordResponse {})
        };
        let outcome = self.db.write(&call, change).await;
        self.credentials.invalidate_all();
        reply(outcome?)
    }

    async fn request_password_reset(
        &self,
        request: Request<pb::RequestPasswordResetRequest>,
    ) -> Reply<pb::RequestPasswordResetResponse> {
        let call = Call::of(request)?;
        self.sign_in.throttle_client(&call).await?;
        let address = parse_address("email", &call.message.email)?;
        let send = async |tx: &mut Tx| {
            commands::request_password_reset(tx, &self.links, &address).await?;
            Ok(pb::RequestPasswordResetResponse {})
        };
        reply(self.db.write(&call, send).await?)
    }

    async fn reset_password(
        &self,
        request: Request<pb::ResetPasswordRequest>,
    ) -> Reply<pb::ResetPasswordResponse> {
        let call = Call::of(request)?;
        self.sign_in.throttle_client(&call).await?;
        let token = parse_link_token(Kind::Reset, &call.message.token)?;
        // Before the expensive hash; checked again under the link's lock.
        let user =
            mailed_link::store::require_valid(&self.db, Purpose::ResetPassword, &token).await?;
        let password = new_password(&call.message.new_password, &user.email.0)?;
        let hash = self.passwords.hash(&password).await?;
        let reset = async |tx: &mut Tx| {
            commands::reset_password(tx, &token, &hash).await?;
            Ok(pb::ResetPasswordResponse {})
        };
        let outcome = self.db.write(&call, reset).await;
        self.credentials.invalidate_all();
        reply(outcome?)
    }

    async fn request_email_change(
        &self,
        request: Request<pb::RequestEmailChangeRequest>,
    ) -> Reply<pb::RequestEmailChangeResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let account = call.account()?;
        let address = parse_address("new_email", &message.new_email)?;
        let verified =
            self.sign_in.verify_password(&call, account.user_id, &message.password).await?;
        let send = async |tx: &mut Tx| {
            let links = &self.links;
            commands::request_email_change(tx, links, account, &verified, &address).await?;
            Ok(pb::RequestEmailChangeResponse {})
        };
        reply(self.db.write(&call, send).await?)
    }

    async fn cancel_email_change(
        &self,
        request: Request<pb::CancelEmailChangeRequest>,
    ) -> Reply<pb::CancelEmailChangeResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        let cancel = async |tx: &mut Tx| {
            commands::cancel_email_change(tx, account).await?;
            Ok(pb::CancelEmailChangeResponse {})
        };
        reply(self.db.write(&call, cancel).await?)
    }

    async fn confirm_email_change(
        &self,
        request: Request<pb::ConfirmEmailChangeRequest>,
    ) -> Reply<pb::ConfirmEmailChangeResponse> {
        let call = Call::of(request)?;
        let message = &call.message;
        let token = parse_link_token(Kind::Verification, &message.token)?;
        let user = self.link_account(&call, Purpose::ChangeEmail, &token).await?;
        let proof = self.prove_person(&call, &user, &message.password).await?;
        let confirm = async |tx: &mut Tx| {
            let links = &self.links;
            let user = commands::confirm_email_change(tx, links, &token, &proof).await?;
            Ok(pb::ConfirmEmailChangeResponse { user: Some((&user).into()) })
        };
        let outcome = self.db.write(&call, confirm).await;
        self.credentials.invalidate_all();
        reply(outcome?)
    }

    async fn delete_account(
        &self,
        request: Request<pb::DeleteAccountRequest>,
    ) -> Reply<pb::DeleteAccountResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        account.require_fresh(self.db.now())?;
        let confirm_email = email::parse(&call.message.confirm_email).map(|it| it.canonical);
        let delete = async |tx: &mut Tx| {
            let give_up_restore = call.message.give_up_restore;
            commands::delete(tx, account, confirm_email.as_deref(), give_up_restore).await?;
            Ok(pb::DeleteAccountResponse {})
        };
        let outcome = self.db.write(&call, delete).await;
        self.credentials.invalidate_all();
        reply(outcome?)
    }
}

impl Rpc {
    /// Returns the account of a mailed link. The link is checked again under its lock.
    async fn link_account<M>(
        &self,
        call: &Call<M>,
        purpose: Purpose,
        token: &Token,
    ) -> Result<User> {
        self.sign_in.throttle_client(call).await?;
        mailed_link::store::require_valid(&self.db, purpose, token).await
    }

    /// Verifies that the person who follows a mailed link of an account has its password or one of its
    /// sessions.
    async fn prove_person<M: Message + Check>(
        &self,
        call: &Call<M>,
        user: &User,
        password: &str,
    ) -> Result<PersonProof> {
        if !password.is_empty() {
            let verified = self.sign_in.verify_password(call, user.id, password).await?;
            return Ok(PersonProof::Password(verified));
        }
        match self.sign_in.session_account(call).await? {
            Some(account) if account.user_id == user.id => {
                Ok(PersonProof::Session(account.credential_id))
            }
            _ => {
                let description = "must be the password of the account, if the call has no session of it; \
                                   to confirm an address without the password, set new_password";
                Err(Error::invalid("password", description))
            }
        }
    }
}

/// Parses an e-mail address of a request.
fn parse_address(field: &str, text: &str) -> Result<Address> {
    let invalid = || Error::invalid(field, "must be a valid e-mail address");
    email::parse(text).ok_or_else(invalid)
}

/// Returns the new password of the account with an address, or refuses it.
fn new_password(typed: &str, email: &str) -> Result<NewPassword> {
    NewPassword::new(typed, email).map_err(|weakness| Error::invalid("new_password", weakness))
}
