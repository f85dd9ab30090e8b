//! SQL of the invitations that are open to a person.

use chassis::{Db, OrgId, Result, Tx};
use sqlx::{query_as, query_scalar};

use crate::invitation::{Invitation, InvitationId};

/// Open invitations that a response names at most.
const OPEN_MAX: i64 = 100;

/// Locks the pending single-use invitations of an organization to an address.
pub(crate) async fn lock_pending(
    tx: &mut Tx,
    org_id: OrgId,
    canonical_email: &str,
) -> Result<Vec<Invitation>> {
    let now = tx.now;
    let invitations = invitations!(
        "where org_id = $1 and canonical_email = $2 and max_uses = 1 and use_count = 0
           and revoked_at is null and expires_at > $3
         order by id for update",
        org_id.0,
        canonical_email,
        now,
    );
    Ok(invitations.fetch_all(tx.conn()).await?)
}

/// Returns the ids of the pending invitations of an organization that anybody with the link may accept.
pub(crate) async fn open_ids(db: &Db, org_id: OrgId) -> Result<Vec<InvitationId>> {
    let ids = query_scalar!(
        "select id from invitation
         where org_id = $1 and max_uses > 1 and revoked_at is null and use_count < max_uses
           and expires_at > $2
         order by id desc limit $3",
        org_id.0,
        db.now(),
        OPEN_MAX
    );
    Ok(ids.fetch_all(db.pool()).await?)
}
