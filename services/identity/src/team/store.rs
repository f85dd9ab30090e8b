//! SQL of teams and their members.

use chassis::{Changed, Db, Error, OnConstraint, OrgId, Result, TeamId, Tx, UserId, page::Page};
use identity_rules::{
    member::Member,
    team::{Refused, Team, name_key},
};
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

/// Stores a new team and its event.
pub(crate) async fn insert(tx: &mut Tx, created: Changed<Team>) -> Result<Team> {
    let team = created.state();
    query!(
        "insert into team (id, org_id, name, name_key, description, color, revision, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        team.id as _,
        team.org_id as _,
        team.name,
        name_key(&team.name),
        team.description,
        team.color,
        team.revision,
        team.created_at,
    )
    .execute(tx.conn())
    .await
    .on_constraint("team_name", Refused::NameTaken(team.name.clone()))?;
    Ok(tx.emit(created))
}

/// Stores a changed team and its event.
pub(crate) async fn update(tx: &mut Tx, changed: Changed<Team>) -> Result<Team> {
    let team = changed.state();
    query!(
        "update team set name = $3, name_key = $4, description = $5, color = $6, revision = $7
         where org_id = $1 and id = $2",
        team.org_id as _,
        team.id as _,
        team.name,
        name_key(&team.name),
        team.description,
        team.color,
        team.revision,
    )
    .execute(tx.conn())
    .await
    .on_constraint("team_name", Refused::NameTaken(team.name.clone()))?;
    Ok(tx.emit(changed))
}

/// Returns a team, or `NotFound`; the transaction must hold the organization's lock.
pub(crate) async fn find(tx: &mut Tx, org_id: OrgId, id: TeamId) -> Result<Team> {
    let team = query_as!(
        Team,
        r#"select id, org_id, name, description, color, revision, created_at,
                  member_count as "members!"
           from team where org_id = $1 and id = $2"#,
        org_id.0,
        id.0
    );
    team.fetch_optional(tx.conn()).await?.ok_or(Error::NotFound(TeamId::NOUN))
}

/// Returns the ids of every team of an organization, in no order.
pub(crate) async fn team_ids(tx: &mut Tx, org_id: OrgId) -> Result<Vec<TeamId>> {
    let ids = query_scalar!("select id from team where org_id = $1", org_id.0);
    Ok(ids.fetch_all(tx.conn()).await?)
}

/// Counts those of the teams that belong to the organization.
pub(crate) async fn count(db: &Db, org_id: OrgId, ids: &[Uuid]) -> Result<i64> {
    let count = query_scalar!(
        r#"select count(*) as "count!" from team where org_id = $1 and id = any($2)"#,
        org_id.0,
        ids
    );
    Ok(count.fetch_one(db.pool()).await?)
}

/// Returns a team, or `NotFound`.
pub(crate) async fn get(db: &Db, org_id: OrgId, id: TeamId) -> Result<Team> {
    let team = query_as!(
        Team,
        r#"select id, org_id, name, description, color, revision, created_at,
                  member_count as "members!"
           from team where org_id = $1 and id = $2"#,
        org_id.0,
        id.0
    );
    team.fetch_optional(db.pool()).await?.ok_or(Error::NotFound(TeamId::NOUN))
}

/// Returns a page of the teams whose name contains `text`.
pub(crate) async fn list(db: &Db, org_id: OrgId, text: &str, page: &Page) -> Result<Vec<Team>> {
    let teams = query_as!(
        Team,
        r#"select id, org_id, name, description, color, revision, created_at,
                  member_count as "members!"
           from team
           where org_id = $1 and strpos(name_key, $4) > 0
                 and id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
           order by id limit $3"#,
        org_id.0,
        page.after::<Uuid>()?,
        page.limit(),
        name_key(text),
    );
    Ok(teams.fetch_all(db.pool()).await?)
}

/// Deletes a team and stores the event; its memberships and grants must be deleted before.
pub(crate) async fn delete(tx: &mut Tx, deleted: Changed<Team>) -> Result<Team> {
    let team = deleted.state();
    query!("delete from team where org_id = $1 and id = $2", team.org_id as _, team.id as _)
        .execute(tx.conn())
        .await?;
    Ok(tx.emit(deleted))
}

/// Returns true if a member is in a team.
pub(crate) async fn has_member(
    tx: &mut Tx,
    org_id: OrgId,
    id: TeamId,
    user_id: UserId,
) -> Result<bool> {
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

/// Adds a member to a team.
pub(crate) async fn add_member(
    tx: &mut Tx,
    org_id: OrgId,
    id: TeamId,
    user_id: UserId,
) -> Result<()> {
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

/// Removes a member from a team.
pub(crate) async fn remove_member(
    tx: &mut Tx,
    org_id: OrgId,
    id: TeamId,
    user_id: UserId,
) -> Result<()> {
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

/// Removes every member from a team.
pub(crate) async fn remove_all_members(tx: &mut Tx, org_id: OrgId, id: TeamId) -> Result<()> {
    query!("delete from team_member where org_id = $1 and team_id = $2", org_id.0, id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Removes a member from every team.
pub(crate) async fn remove_member_from_all(
    tx: &mut Tx,
    org_id: OrgId,
    user_id: UserId,
) -> Result<()> {
    query!("delete from team_member where org_id = $1 and user_id = $2", org_id.0, user_id.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Returns the teams of a member.
pub(crate) async fn teams_of_member(
    tx: &mut Tx,
    org_id: OrgId,
    user_id: UserId,
) -> Result<Vec<TeamId>> {
    let teams = query_scalar!(
        "select team_id from team_member where org_id = $1 and user_id = $2 order by team_id",
        org_id.0,
        user_id.0
    );
    Ok(teams.fetch_all(tx.conn()).await?)
}

/// Returns the members of a team; the transaction must hold the organization's lock.
pub(crate) async fn member_ids(tx: &mut Tx, org_id: OrgId, id: TeamId) -> Result<Vec<UserId>> {
    let members = query_scalar!(
        "select user_id from team_member where org_id = $1 and team_id = $2 order by id",
        org_id.0,
        id.0
    );
    Ok(members.fetch_all(tx.conn()).await?)
}

/// A member of a team.
pub(crate) struct TeamMember {
    /// The id of the membership in the team, by which pages are ordered.
    pub(crate) id: Uuid,
    pub(crate) member: Member,
}

/// Returns a page of the members of a team.
pub(crate) async fn list_members(
    db: &Db,
    org_id: OrgId,
    id: TeamId,
    page: &Page,
) -> Result<Vec<TeamMember>> {
    let rows = query!(
        r#"select team_member.id as membership_id, member.id, member.org_id, member.user_id,
                  email as "email: String", display_name,
                  email_verified_at is not null as "email_verified!", role, invitation_id, member.created_at
           from team_member
           join member on member.org_id = team_member.org_id and member.user_id = team_member.user_id
           join account on account.id = member.user_id
           where team_member.org_id = $1 and team_id = $2
                 and team_member.id > coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid)
           order by team_member.id limit $4"#,
        org_id.0,
        id.0,
        page.after::<Uuid>()?,
        page.limit(),
    );
    let members = rows.fetch_all(db.pool()).await?.into_iter().map(|row| TeamMember {
        id: row.membership_id,
        member: Member {
            id: row.id,
            org_id: row.org_id,
            user_id: row.user_id,
            email: row.email,
            display_name: row.display_name,
            email_verified: row.email_verified,
            role: row.role.0,
            invitation_id: row.invitation_id,
            created_at: row.created_at,
        },
    });
    Ok(members.collect())
}
