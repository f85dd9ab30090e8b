//! Every SQL statement about teams.

use chassis::{Changed, Db, Error, OnConstraint, OrgId, Result, Tx, UserId, page::Page};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::{Refused, Team, TeamId, name_key};
use crate::member::Member;

/// Stores a new team and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<Team>) -> Result<Team> {
    let it = created.state();
    query!(
        "insert into team (id, org_id, name, name_key, description, color, revision, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        it.id as _,
        it.org_id as _,
        it.name,
        name_key(&it.name),
        it.description,
        it.color,
        it.revision,
        it.created_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("team_name", Refused::NameTaken(it.name.clone()))?;
    Ok(tx.emit(created))
}

/// Stores a changed team and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Team>) -> Result<Team> {
    let it = changed.state();
    query!(
        "update team set name = $3, name_key = $4, description = $5, color = $6, revision = $7
         where org_id = $1 and id = $2",
        it.org_id as _,
        it.id as _,
        it.name,
        name_key(&it.name),
        it.description,
        it.color,
        it.revision,
    )
    .execute(tx.conn())
    .await
    .on_constraint("team_name", Refused::NameTaken(it.name.clone()))?;
    Ok(tx.emit(changed))
}

/// A team, inside a transaction that holds the organization's lock.
pub(crate) async fn find(tx: &mut Tx, org_id: OrgId, id: TeamId) -> Result<Team> {
    let team = query_as!(
        Team,
        r#"select id, org_id, name, description, color, revision, created_at,
                  (select count(*) from team_member where org_id = $1 and team_id = team.id) as "members!"
           from team where org_id = $1 and id = $2"#,
        org_id.0,
        id.0
    );
    team.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(TeamId::NOUN))
}

/// The teams of an organization, for those who must know that a team exists.
pub(crate) async fn existing(tx: &mut Tx, org_id: OrgId) -> Result<Vec<TeamId>> {
    let ids = query_scalar!("select id from team where org_id = $1", org_id.0);
    Ok(ids.fetch_all(tx.conn()).await?)
}

/// How many of these teams an organization has.
pub(crate) async fn count(db: &Db, org_id: OrgId, ids: &[Uuid]) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from team where org_id = $1 and id = any($2)"#,
        org_id.0,
        ids
    );
    Ok(count.fetch_one(db.pool()).await?)
}

/// One team.
pub(crate) async fn get(db: &Db, org_id: OrgId, id: TeamId) -> Result<Team> {
    let team = query_as!(
        Team,
        r#"select id, org_id, name, description, color, revision, created_at,
                  (select count(*) from team_member where org_id = $1 and team_id = team.id) as "members!"
           from team where org_id = $1 and id = $2"#,
        org_id.0,
        id.0
    );
    team.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(TeamId::NOUN))
}

/// A page of the teams whose name contains a text.
pub(crate) async fn list(db: &Db, org_id: OrgId, part: &str, page: &Page) -> Result<Vec<Team>> {
    let teams = query_as!(
        Team,
        r#"select id, org_id, name, description, color, revision, created_at,
                  (select count(*) from team_member where org_id = $1 and team_id = team.id) as "members!"
           from team
           where org_id = $1 and strpos(name_key, $4) > 0 and ($2::uuid is null or id > $2)
           order by id limit $3"#,
        org_id.0,
        page.after::<Uuid>()?,
        page.limit(),
        name_key(part),
    );
    Ok(teams.fetch_all(db.pool()).await?)
}

/// Deletes a team whose places and grants are gone already, and stores the event.
pub(crate) async fn delete(tx: &mut Tx, deleted: Changed<Team>) -> Result<Team> {
    let it = deleted.state();
    query!("delete from team where org_id = $1 and id = $2", it.org_id as _, it.id as _)
        .execute(tx.conn())
        .await?;
    Ok(tx.emit(deleted))
}

/// Whether a member is in a team.
pub(crate) async fn has(tx: &mut Tx, org_id: OrgId, id: TeamId, user_id: UserId) -> Result<bool> {
    let found = query_scalar!(
        r#"select exists (
               select from team_member where org_id = $1 and team_id = $2 and user_id = $3
           ) as "found!""#,
        org_id.0,
        id.0,
        user_id.0
    );
    Ok(found.fetch_one(tx.conn()).await?)
}

/// Puts a member into a team.
pub(crate) async fn add(tx: &mut Tx, org_id: OrgId, id: TeamId, user_id: UserId) -> Result<()> {
    let now = tx.now;
    query!(
        "insert into team_member (id, org_id, team_id, user_id, created_at) values ($1, $2, $3, $4, $5)",
        chassis::id::new(),
        org_id.0,
        id.0,
        user_id.0,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Takes a member out of a team.
pub(crate) async fn remove(tx: &mut Tx, org_id: OrgId, id: TeamId, user_id: UserId) -> Result<()> {
    query!(
        "delete from team_member where org_id = $1 and team_id = $2 and user_id = $3",
        org_id.0,
        id.0,
        user_id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Takes every member out of a team.
pub(crate) async fn remove_all(tx: &mut Tx, org_id: OrgId, id: TeamId) -> Result<()> {
    query!("delete from team_member where org_id = $1 and team_id = $2", org_id.0, id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Takes a member out of every team.
pub(crate) async fn remove_everywhere(tx: &mut Tx, org_id: OrgId, user_id: UserId) -> Result<()> {
    query!("delete from team_member where org_id = $1 and user_id = $2", org_id.0, user_id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// The teams of a member.
pub(crate) async fn of_member(tx: &mut Tx, org_id: OrgId, user_id: UserId) -> Result<Vec<TeamId>> {
    let teams = query_scalar!(
        "select team_id from team_member where org_id = $1 and user_id = $2 order by team_id",
        org_id.0,
        user_id.0
    );
    Ok(teams.fetch_all(tx.conn()).await?)
}

/// The members of a team, while the organization's lock is held.
pub(crate) async fn members_of(tx: &mut Tx, org_id: OrgId, id: TeamId) -> Result<Vec<UserId>> {
    let members = query_scalar!(
        "select user_id from team_member where org_id = $1 and team_id = $2 order by id",
        org_id.0,
        id.0
    );
    Ok(members.fetch_all(tx.conn()).await?)
}

/// A page of the members of a team, each with the id of their place in it.
pub(crate) async fn members(
    db: &Db,
    org_id: OrgId,
    id: TeamId,
    page: &Page,
) -> Result<Vec<(Uuid, Member)>> {
    let rows = query!(
        r#"select team_member.id as place, member.id, member.org_id, member.user_id,
                  email as "email: String", display_name,
                  email_verified_at is not null as "email_verified!", role, invitation_id, member.created_at
           from team_member
           join member on member.org_id = team_member.org_id and member.user_id = team_member.user_id
           join account on account.id = member.user_id
           where team_member.org_id = $1 and team_id = $2 and ($3::uuid is null or team_member.id > $3)
           order by team_member.id limit $4"#,
        org_id.0,
        id.0,
        page.after::<Uuid>()?,
        page.limit(),
    );
    let rows = rows.fetch_all(db.pool()).await?.into_iter().map(|it| {
        let member = Member {
            id: it.id,
            org_id: it.org_id,
            user_id: it.user_id,
            email: it.email,
            display_name: it.display_name,
            email_verified: it.email_verified,
            role: it.role,
            invitation_id: it.invitation_id,
            created_at: it.created_at,
        };
        (it.place, member)
    });
    Ok(rows.collect())
}
