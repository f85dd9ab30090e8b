//! gRPC methods of the second factor.

use std::sync::Arc;

use api::identity::{self as pb, second_factor_service_server::SecondFactorService};
use chassis::{Call, Db, Reply, Tx, reply};
use tonic::Request;

use super::commands;
use crate::{credential::CredentialCache, session::commands::SignIn};

/// The service and what its methods need.
pub(crate) struct Rpc {
    pub(crate) db: Db,
    /// Cleared when other sessions end.
    pub(crate) credentials: CredentialCache,
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
        let sealer = self.sign_in.sealer();
        let enroll = async |tx: &mut Tx| {
            let enrollment = commands::enroll(tx, sealer, account).await?;
            Ok(pb::EnrollTotpResponse { secret: enrollment.secret, uri: enrollment.uri })
        };
        reply(self.db.write(&call, enroll).await?)
    }

    async fn confirm_totp(
        &self,
        request: Request<pb::ConfirmTotpRequest>,
    ) -> Reply<pb::ConfirmTotpResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        self.sign_in.throttle_codes(account.user_id).await?;
        let sealer = self.sign_in.sealer();
        let confirm = async |tx: &mut Tx| {
            let recovery_codes = commands::confirm(tx, sealer, account, &call.message.code).await?;
            Ok(pb::ConfirmTotpResponse { recovery_codes })
        };
        let confirmed = self.db.write(&call, confirm).await?;
        self.credentials.invalidate_all();
        reply(confirmed)
    }

    async fn disable_totp(
        &self,
        request: Request<pb::DisableTotpRequest>,
    ) -> Reply<pb::DisableTotpResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        account.require_fresh(self.db.now())?;
        self.sign_in.throttle_codes(account.user_id).await?;
        let sealer = self.sign_in.sealer();
        let disable = async |tx: &mut Tx| {
            commands::disable(tx, sealer, account, &call.message.code).await?;
            Ok(pb::DisableTotpResponse {})
        };
        let disabled = self.db.write(&call, disable).await?;
        self.credentials.invalidate_all();
        reply(disabled)
    }

    async fn regenerate_recovery_codes(
        &self,
        request: Request<pb::RegenerateRecoveryCodesRequest>,
    ) -> Reply<pb::RegenerateRecoveryCodesResponse> {
        let call = Call::of(request)?;
        let account = call.account()?;
        self.sign_in.throttle_codes(account.user_id).await?;
        let sealer = self.sign_in.sealer();
        let regenerate = async |tx: &mut Tx| {
            let code = &call.message.code;
            let recovery_codes =
                commands::regenerate_recovery_codes(tx, sealer, account, code).await?;
            Ok(pb::RegenerateRecoveryCodesResponse { recovery_codes })
        };
        reply(self.db.write(&call, regenerate).await?)
    }
}
