//! Every SQL statement about preferences.

use std::collections::HashMap;

use chassis::{Db, Error, Result, Tx, UserId};
use sqlx::{query, query_as};
use uuid::Uuid;

use super::{Preference, Preferences, QuietHours};

/// What each of some people said. Whether it is quiet for them is read from their own clock.
pub(crate) async fn of(tx: &mut Tx, user_ids: &[Uuid]) -> Result<HashMap<Uuid, Preferences>> {
    let now = tx.now;
    let mut all: HashMap<Uuid, Preferences> = HashMap::new();
    let rows = query!(
        "select user_id, category, channel, org_id, project_id, enabled from preference
         where user_id = any($1)",
        user_ids
    );
    for it in rows.fetch_all(tx.conn()).await? {
        all.entry(it.user_id).or_default().said.push(Preference {
            category: it.category,
            channel: it.channel,
            org_id: it.org_id,
            project_id: it.project_id,
            enabled: it.enabled,
        });
    }
    // The end of a quiet night is its minute today or, before midnight, tomorrow.
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
    for it in quiet.fetch_all(tx.conn()).await? {
        all.entry(it.user_id).or_default().quiet_until = Some(it.until);
    }
    Ok(all)
}

/// What a person said.
pub(crate) async fn list(tx: &mut Tx, user_id: UserId) -> Result<Vec<Preference>> {
    let rows = query_as!(
        Preference,
        "select category, channel, org_id, project_id, enabled from preference where user_id = $1
         order by category, channel, org_id, project_id",
        user_id.0
    );
    Ok(rows.fetch_all(tx.conn()).await?)
}

/// The quiet hours of a person.
pub(crate) async fn quiet_hours(tx: &mut Tx, user_id: UserId) -> Result<Option<QuietHours>> {
    let row = query_as!(
        QuietHours,
        "select start_minute, end_minute, time_zone from quiet_hours where user_id = $1",
        user_id.0
    );
    Ok(row.fetch_optional(tx.conn()).await?)
}

/// Both, to be shown.
pub(crate) async fn get(db: &Db, user_id: UserId) -> Result<(Vec<Preference>, Option<QuietHours>)> {
    let read = async |tx: &mut Tx| Ok((list(tx, user_id).await?, quiet_hours(tx, user_id).await?));
    db.write_as_system("preferences", read).await
}

/// Keeps what a person said.
pub(crate) async fn set(tx: &mut Tx, user_id: UserId, it: &Preference) -> Result<()> {
    query!(
        "insert into preference (user_id, category, channel, org_id, project_id, enabled)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (user_id, category, channel, org_id, project_id) do update set enabled = $6",
        user_id.0,
        it.category,
        it.channel,
        it.org_id,
        it.project_id,
        it.enabled,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Keeps the quiet hours of a person, or that there are none.
pub(crate) async fn set_quiet(
    tx: &mut Tx,
    user_id: UserId,
    hours: Option<&QuietHours>,
) -> Result<()> {
    query!("delete from quiet_hours where user_id = $1", user_id.0).execute(tx.conn()).await?;
    let Some(it) = hours else { return Ok(()) };
    let known = query!(
        r#"select exists (select from pg_timezone_names where name = $1) as "found!""#,
        it.time_zone
    );
    if !known.fetch_one(tx.conn()).await?.found {
        let wrong = "must be a name of the IANA time zone database, like Europe/Berlin";
        return Err(Error::invalid("quiet_hours.time_zone", wrong));
    }
    query!(
        "insert into quiet_hours (user_id, start_minute, end_minute, time_zone) values ($1, $2, $3, $4)",
        user_id.0,
        it.start_minute,
        it.end_minute,
        it.time_zone,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Forgets a person.
pub(crate) async fn forget(tx: &mut Tx, user_id: UserId) -> Result<()> {
    query!("delete from preference where user_id = $1", user_id.0).execute(tx.conn()).await?;
    query!("delete from quiet_hours where user_id = $1", user_id.0).execute(tx.conn()).await?;
    Ok(())
}
