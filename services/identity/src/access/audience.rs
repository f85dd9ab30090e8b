//! Who may be told of something (NO-10). It is asked when the telling happens, not when the thing did.

use api::identity as pb;
use chassis::{Db, Result, UserId, email};

use super::store::{self, Person};
use crate::snapshot::{Snapshot, Subject, Verdict, Wish};

/// The members who have the wish granted, and who else the request asks about.
pub(super) async fn list(
    db: &Db,
    snapshot: Option<&Snapshot>,
    wish: &Wish,
    request: &pb::ListAudienceRequest,
) -> Result<pb::ListAudienceResponse> {
    let may = |user_id: UserId| {
        let subject = Subject { user_id, key: None };
        snapshot.is_some_and(|it| it.verdict(subject, wish) == Verdict::Allowed)
    };
    let members = snapshot.into_iter().flat_map(|it| it.members.keys().copied());
    let mut ids: Vec<_> = members.filter(|it| may(*it)).map(|it| it.0).collect();
    for it in &request.user_ids {
        ids.push(it.parse::<UserId>()?.0);
    }
    let canonical = |it: &String| email::parse(it).map(|it| it.canonical);
    let addresses: Vec<_> = request.emails.iter().filter_map(canonical).collect();
    let people = store::people(db, &ids, &addresses).await?;
    let asked = |it: &&Person| {
        request.user_ids.contains(&it.user_id.to_string())
            || addresses.contains(&it.canonical_email)
    };
    let barred = |it: &&String| {
        let it = canonical(it);
        people.iter().any(|one| Some(&one.canonical_email) == it.as_ref() && !may(one.user_id))
    };
    let org_id = request.org_id.parse::<chassis::OrgId>()?;
    let name = store::name(db, org_id).await?;
    Ok(pb::ListAudienceResponse {
        org_name: name.unwrap_or_default(),
        listeners: people.iter().filter(|it| may(it.user_id)).map(Into::into).collect(),
        barred_emails: request.emails.iter().filter(barred).cloned().collect(),
        accounts: people.iter().filter(asked).map(Into::into).collect(),
    })
}

impl From<&Person> for pb::Listener {
    fn from(it: &Person) -> Self {
        Self {
            user_id: it.user_id.into(),
            email: it.email.clone(),
            display_name: it.display_name.clone(),
        }
    }
}
