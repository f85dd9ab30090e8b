//! Recipients of notifications: members with a permission at the time of sending, not at the time of the
//! event (NO-10).

use chassis::{Db, OrgId, Result, UserId, email};
use identity_rules::snapshot::{AccessQuery, Snapshot, Subject, Verdict};

use super::store::{self, Contact};

/// Accounts and addresses that the event names. They are looked up in addition to the members.
pub(super) struct Candidates {
    pub(super) user_ids: Vec<UserId>,
    pub(super) emails: Vec<String>,
}

/// The possible recipients of a notification.
pub(super) struct Audience {
    pub(super) org_name: String,
    /// Accounts that have the permission.
    pub(super) permitted: Vec<Contact>,
    /// Addresses of the candidates that belong to accounts without the permission.
    pub(super) denied_emails: Vec<String>,
    /// Accounts of the candidates, with and without the permission.
    pub(super) candidates: Vec<Contact>,
}

/// Returns the members who have a permission, and the accounts of the candidates. `snapshot` is `None` if the
/// organization does not exist.
pub(super) async fn find(
    db: &Db,
    org_id: OrgId,
    snapshot: Option<&Snapshot>,
    query: &AccessQuery,
    candidates: &Candidates,
) -> Result<Audience> {
    let is_permitted = |user_id: UserId| {
        let subject = Subject { user_id, key: None };
        snapshot.is_some_and(|it| it.verdict(subject, query) == Verdict::Allowed)
    };
    let canonical = |text: &String| email::parse(text).map(|it| it.canonical);
    let members = snapshot.into_iter().flat_map(|it| it.members.keys().copied());
    let ids = members.filter(|it| is_permitted(*it)).chain(candidates.user_ids.iter().copied());
    let ids: Vec<_> = ids.map(|it| it.0).collect();
    let addresses: Vec<_> = candidates.emails.iter().filter_map(canonical).collect();
    let contacts = store::contacts(db, &ids, &addresses).await?;
    let is_candidate = |contact: &&Contact| {
        candidates.user_ids.contains(&contact.user_id)
            || addresses.contains(&contact.canonical_email)
    };
    let is_denied = |text: &&String| {
        let address = canonical(text);
        let mut accounts =
            contacts.iter().filter(|it| Some(&it.canonical_email) == address.as_ref());
        accounts.any(|it| !is_permitted(it.user_id))
    };
    let org_name = store::org_name(db, org_id).await?.unwrap_or_default();
    let permitted = contacts.iter().filter(|it| is_permitted(it.user_id)).cloned().collect();
    let denied_emails = candidates.emails.iter().filter(is_denied).cloned().collect();
    let candidates = contacts.iter().filter(is_candidate).cloned().collect();
    Ok(Audience { org_name, permitted, denied_emails, candidates })
}
