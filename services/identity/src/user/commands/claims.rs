//! The end of claims: accounts whose address another account has confirmed, or nobody in time.

use chassis::{Result, Tx, UserId};
use identity_rules::user::User;

use crate::{mailed_link, second_factor, session, user::store};

/// Ends every claim to the address of `owner`, which has confirmed the address. The transaction must hold the
/// lock of the address.
pub(crate) async fn end_others(tx: &mut Tx, owner: &User) -> Result<()> {
    for id in store::claims::of_address(tx, &owner.canonical_email).await? {
        if id != owner.id {
            end(tx, id).await?;
        }
    }
    Ok(())
}

/// Ends claims that were not confirmed in time. Returns their number.
pub(crate) async fn end_expired(tx: &mut Tx) -> Result<u64> {
    let mut count = 0;
    for id in store::claims::expired(tx).await? {
        end(tx, id).await?;
        count += 1;
    }
    Ok(count)
}

/// Deletes a claim with its sessions, password, factors and links. Does nothing if its address has been
/// confirmed.
async fn end(tx: &mut Tx, id: UserId) -> Result<()> {
    let claim = store::lock(tx, id).await?.filter(User::is_claim);
    let Some(claim) = claim else { return Ok(()) };
    session::store::delete_all(tx, id).await?;
    second_factor::store::delete(tx, id).await?;
    store::unlink_identities(tx, id).await?;
    // Links of others to the same address are kept.
    mailed_link::store::delete_all(tx, id, &[]).await?;
    store::claims::delete(tx, claim.end_claim()).await
}
