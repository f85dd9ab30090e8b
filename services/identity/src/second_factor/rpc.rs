//! The gRPC surface of the second factor.

use std::sync::Arc;

use api::identity::{self as pb, second_factor_service_server::SecondFactorService};
use chassis::{Call, Db, Reply, Result, Tx, reply};
use tonic::Request;

use super::{Authenticator, Refused, recovery_codes, store};
use crate::{
    access::Proofs,
    session::{self, sign_in::SignIn},
    user::{self, User},
};

pub(crate) struct Rpc {
    pub(crate) db: Db,
    pub(crate) proofs: Proofs,
    pub(crate) sign_in: Arc<SignIn>,
}

#[tonic::async_trait]
impl SecondFactorService for Rpc {
    async fn enroll_totp(
        &self,
        request: Request<pb::EnrollTotpRequest>,
    ) -> Reply<pb::EnrollTotpResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        account.require_fresh(self.db.now())?;
        let authenticator = Authenticator::new();
        let sealed = authenticator.seal(self.sign_in.sealer(), account.user_id);
        let enroll = async |tx: &mut Tx| {
            let user = user::store::lock_caller(tx, account).await?;
            require_off(&user)?;
            store::enroll(tx, user.id, &sealed).await?;
            let (secret, uri) = (authenticator.base32(), authenticator.uri(&user.email.0));
            let event = pb::TotpEnrolled { after: Some((&user).into()) };
            tx.emit(user.told(&event));
            Ok(pb::EnrollTotpResponse { secret, uri })
        };
        reply(self.db.write(&call, enroll).await?)
    }

    async fn confirm_totp(
        &self,
        request: Request<pb::ConfirmTotpRequest>,
    ) -> Reply<pb::ConfirmTotpResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        self.sign_in.count_code(account.user_id)?;
        let confirm = async |tx: &mut Tx| {
            let user = user::store::lock_caller(tx, account).await?;
            require_off(&user)?;
            self.use_code(tx, &user, &call.message.code, true).await?;
            let codes = recovery_codes();
            store::replace_codes(tx, user.id, &codes).await?;
            let user = user::store::update(tx, user.second_factor(true, tx.now)).await?;
            session::store::end_all(tx, user.id, Some(account.credential_id)).await?;
            Ok(pb::ConfirmTotpResponse { recovery_codes: codes })
        };
        let confirmed = self.db.write(&call, confirm).await?;
        self.proofs.invalidate_all();
        reply(confirmed)
    }

    async fn disable_totp(
        &self,
        request: Request<pb::DisableTotpRequest>,
    ) -> Reply<pb::DisableTotpResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        account.require_fresh(self.db.now())?;
        self.sign_in.count_code(account.user_id)?;
        let disable = async |tx: &mut Tx| {
            let user = user::store::lock_caller(tx, account).await?;
            require_on(&user)?;
            self.use_code(tx, &user, &call.message.code, false).await?;
            store::forget(tx, user.id).await?;
            let user = user::store::update(tx, user.second_factor(false, tx.now)).await?;
            session::store::end_all(tx, user.id, Some(account.credential_id)).await?;
            Ok(pb::DisableTotpResponse {})
        };
        let disabled = self.db.write(&call, disable).await?;
        self.proofs.invalidate_all();
        reply(disabled)
    }

    async fn regenerate_recovery_codes(
        &self,
        request: Request<pb::RegenerateRecoveryCodesRequest>,
    ) -> Reply<pb::RegenerateRecoveryCodesResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        self.sign_in.count_code(account.user_id)?;
        let regenerate = async |tx: &mut Tx| {
            let user = user::store::lock_caller(tx, account).await?;
            require_on(&user)?;
            self.use_code(tx, &user, &call.message.code, true).await?;
            let recovery_codes = recovery_codes();
            store::replace_codes(tx, user.id, &recovery_codes).await?;
            let event = pb::RecoveryCodesRegenerated { after: Some((&user).into()) };
            tx.emit(user.told(&event));
            Ok(pb::RegenerateRecoveryCodesResponse { recovery_codes })
        };
        reply(self.db.write(&call, regenerate).await?)
    }
}

impl Rpc {
    async fn use_code(&self, tx: &mut Tx, user: &User, code: &str, only_app: bool) -> Result<()> {
        let sealer = self.sign_in.sealer();
        if store::use_code(tx, sealer, user.id, code, only_app).await? {
            return Ok(());
        }
        Err(Refused::Code.into())
    }
}

/// Whoever only claims an address could lock its owner out by a second factor.
fn require_off(user: &User) -> Result<()> {
    match (user.email_verified_at, user.totp_enabled_at) {
        (None, _) => Err(Refused::Unverified.into()),
        (_, Some(_)) => Err(Refused::On.into()),
        (Some(_), None) => Ok(()),
    }
}

fn require_on(user: &User) -> Result<()> {
    if user.totp_enabled_at.is_some() { Ok(()) } else { Err(Refused::Off.into()) }
}
