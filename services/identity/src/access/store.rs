//! The one statement behind every decision.

use chassis::{Db, OrgId, ProjectId, Result, UserId};
use sqlx::query;

use crate::policy::{Facts, OrgRole, ProjectRole};

/// The facts about a person, and the version of the organization's access that they are of. Reads four
/// rows by their primary keys.
pub(crate) async fn facts(
    db: &Db,
    org_id: OrgId,
    user_id: UserId,
    project_id: Option<ProjectId>,
) -> Result<Option<(Facts, i64)>> {
    let row = query!(
        r#"select organization.access_version,
                  member.role as "org_role?: OrgRole",
                  project.id is not null as "project_exists!",
                  project_grant.role as "granted?: ProjectRole"
           from organization
           left join member on member.org_id = organization.id and member.user_id = $2
           left join project on project.org_id = organization.id and project.id = $3
           left join project_grant on project_grant.org_id = organization.id
                and project_grant.project_id = $3 and project_grant.user_id = $2
           where organization.id = $1"#,
        org_id.0,
        user_id.0,
        project_id.map(|it| it.0),
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(row.map(|it| {
        let facts =
            Facts { org_role: it.org_role, project_exists: it.project_exists, granted: it.granted };
        (facts, it.access_version)
    }))
}
