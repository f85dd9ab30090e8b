//! Every SQL statement about preferences.

use std::collections::HashMap;

use api::notification::QuietHours;
use chassis::{Db, Error, Result, Tx, UserId};
use sqlx::{query, query_as};
use uuid::Uuid;

use super::{Preference, Preferences};

/// The preferences of accounts, by account. Accounts without any are left out. Quiet hours are evaluated in
/// the time zone of the account.
pub(crate) async fn of_users(tx: &mut Tx, user_ids: &[Uuid]) -> Result<HashMap<Uuid, Preferences>> {
    // Rows of accounts, of all their organizations (no org_id).
    let now = tx.now;
    let mut by_user: HashMap<Uuid, Preferences> = HashMap::new();
    let rows = query!(
        "select user_id, category, channel, org_id, project_id, enabled from preference
         where user_id = any($1)",
        user_ids
    );
    for row in rows.fetch_all(tx.conn()).await? {
        by_user.entry(row.user_id).or_default().preferences.push(Preference {
            category: row.category,
            channel: row.channel,
            org_id: row.org_id,
            project_id: row.project_id,
            enabled: row.enabled,
        });
    }
    // Quiet hours that contain midnight end today after midnight, and tomorrow before it.
    let quiet = query!(
        r#"select user_id,
                  ((midnight + make_interval(mins => end_minute)
                    + case when start_minute > end_minute and minute >= start_minute
                           then interval '1 day' else interval '0' end)
                   at time zone time_zone) as "until!"
           from (select user_id, start_minute, end_minute, time_zone,
                        date_trunc('day', $2::timestamptz at time zone time_zone) as midnight,
                        extract(hour from $2::timestamptz at time zone time_zone) * 60
                        + extract(minute from $2::timestamptz at time zone time_zone) as minute
                 from quiet_hours where user_id = any($1)) as it
           where case when start_minute <= end_minute
                      then minute >= start_minute and minute < end_minute
                      else minute >= start_minute or minute < end_minute end"#,
        user_ids,
        now
    );
    for row in quiet.fetch_all(tx.conn()).await? {
        by_user.entry(row.user_id).or_default().quiet_until = Some(row.until);
    }
    Ok(by_user)
}

/// The preferences of an account.
pub(crate) async fn list(tx: &mut Tx, user_id: UserId) -> Result<Vec<Preference>> {
    // Rows of accounts, of all their organizations (no org_id).
    let rows = query_as!(
        Preference,
        "select category, channel, org_id, project_id, enabled from preference where user_id = $1
         order by category, channel, org_id, project_id",
        user_id.0
    );
    Ok(rows.fetch_all(tx.conn()).await?)
}

/// The quiet hours of an account.
pub(crate) async fn quiet_hours(tx: &mut Tx, user_id: UserId) -> Result<Option<QuietHours>> {
    let row = query_as!(
        QuietHours,
        "select start_minute, end_minute, time_zone from quiet_hours where user_id = $1",
        user_id.0
    );
    Ok(row.fetch_optional(tx.conn()).await?)
}

/// The preferences and the quiet hours of an account, read in one transaction.
pub(crate) async fn get(db: &Db, user_id: UserId) -> Result<(Vec<Preference>, Option<QuietHours>)> {
    let read = async |tx: &mut Tx| Ok((list(tx, user_id).await?, quiet_hours(tx, user_id).await?));
    db.write_as_system("preferences", read).await
}

/// Stores a preference, in place of the one for the same category, channel and scope.
pub(crate) async fn set(tx: &mut Tx, user_id: UserId, preference: &Preference) -> Result<()> {
    query!(
        "insert into preference (user_id, category, channel, org_id, project_id, enabled)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (user_id, category, channel, org_id, project_id) do update set enabled = $6",
        user_id.0,
        preference.category as _,
        preference.channel as _,
        preference.org_id,
        preference.project_id,
        preference.enabled,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stores the quiet hours of an account; `None` deletes them.
pub(crate) async fn set_quiet_hours(
    tx: &mut Tx,
    user_id: UserId,
    hours: Option<&QuietHours>,
) -> Result<()> {
    query!("delete from quiet_hours where user_id = $1", user_id.0).execute(tx.conn()).await?;
    let Some(hours) = hours else { return Ok(()) };
    let is_known = query!(
        r#"select exists (select from pg_timezone_names where name = $1) as "found!""#,
        hours.time_zone
    );
    if !is_known.fetch_one(tx.conn()).await?.found {
        let message = "must be a name of the IANA time zone database, for example Europe/Berlin";
        return Err(Error::invalid("quiet_hours.time_zone", message));
    }
    query!(
        "insert into quiet_hours (user_id, start_minute, end_minute, time_zone) values ($1, $2, $3, $4)",
        user_id.0,
        hours.start_minute,
        hours.end_minute,
        hours.time_zone,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
