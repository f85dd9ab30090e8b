//! Enrolment, confirmation and removal of the second factor.

use api::identity as pb;
use chassis::{Account, Result, Tx, key::DerivedKeys};
use identity_rules::{
    second_factor::{Authenticator, CodeKind, Refused, new_recovery_codes},
    user::User,
};

use super::store;
use crate::{session, user};

/// The secret of a new authenticator, in the two forms that apps accept.
pub(super) struct Enrollment {
    pub(super) secret: String,
    pub(super) uri: String,
}

/// Stores the secret of a new authenticator. The second factor is enabled by [`confirm`].
pub(super) async fn enroll(
    tx: &mut Tx,
    sealer: &DerivedKeys,
    account: &Account,
) -> Result<Enrollment> {
    let authenticator = Authenticator::random();
    let user = user::store::lock_caller(tx, account).await?;
    require_disabled(&user)?;
    store::enroll(tx, user.id, &authenticator.seal(sealer, user.id)).await?;
    let event = pb::UserTotpEnrolled { after: Some((&user).into()) };
    let uri = authenticator.uri(&user.email.0);
    tx.emit(user.with_event(&event));
    Ok(Enrollment { secret: authenticator.base32(), uri })
}

/// Enables the second factor after a first code of the authenticator, and ends all other sessions. Returns
/// the recovery codes.
pub(super) async fn confirm(
    tx: &mut Tx,
    sealer: &DerivedKeys,
    account: &Account,
    code: &str,
) -> Result<Vec<String>> {
    let user = user::store::lock_caller(tx, account).await?;
    require_disabled(&user)?;
    require_code(tx, sealer, &user, code, CodeKind::Authenticator).await?;
    let recovery_codes = new_recovery_codes();
    store::replace_recovery_codes(tx, user.id, &recovery_codes).await?;
    let user = user::store::update(tx, user.enable_totp(tx.now)).await?;
    session::store::end_all(tx, user.id, Some(account.credential_id)).await?;
    Ok(recovery_codes)
}

/// Disables the second factor, and ends all other sessions.
pub(super) async fn disable(
    tx: &mut Tx,
    sealer: &DerivedKeys,
    account: &Account,
    code: &str,
) -> Result<()> {
    let user = user::store::lock_caller(tx, account).await?;
    require_enabled(&user)?;
    require_code(tx, sealer, &user, code, CodeKind::AuthenticatorOrRecovery).await?;
    store::delete(tx, user.id).await?;
    let user = user::store::update(tx, user.disable_totp()).await?;
    session::store::end_all(tx, user.id, Some(account.credential_id)).await?;
    Ok(())
}

/// Replaces the recovery codes.
pub(super) async fn regenerate_recovery_codes(
    tx: &mut Tx,
    sealer: &DerivedKeys,
    account: &Account,
    code: &str,
) -> Result<Vec<String>> {
    let user = user::store::lock_caller(tx, account).await?;
    require_enabled(&user)?;
    require_code(tx, sealer, &user, code, CodeKind::Authenticator).await?;
    let recovery_codes = new_recovery_codes();
    store::replace_recovery_codes(tx, user.id, &recovery_codes).await?;
    let event = pb::UserRecoveryCodesRegenerated { after: Some((&user).into()) };
    tx.emit(user.with_event(&event));
    Ok(recovery_codes)
}

async fn require_code(
    tx: &mut Tx,
    sealer: &DerivedKeys,
    user: &User,
    code: &str,
    accepted: CodeKind,
) -> Result<()> {
    if store::consume_code(tx, sealer, user.id, code, accepted).await? {
        return Ok(());
    }
    Err(Refused::Code.into())
}

/// Refuses an enabled second factor, and an unconfirmed address: somebody who registered with the address of
/// another person could lock them out of their account.
fn require_disabled(user: &User) -> Result<()> {
    if user.email_verified_at.is_none() {
        return Err(Refused::Unverified.into());
    }
    if user.totp_enabled_at.is_some() {
        return Err(Refused::AlreadyEnabled.into());
    }
    Ok(())
}

fn require_enabled(user: &User) -> Result<()> {
    if user.totp_enabled_at.is_some() { Ok(()) } else { Err(Refused::NotEnabled.into()) }
}
