//! A tenant with the same number of rows in each list of the contract. Rows are inserted by SQL; triggers run
//! as they do for calls.

mod entries;
mod rows;

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::{
    mutation::{SampleProject, create_sample_project},
    suite::Suite,
};

/// An organization with a project, and its Owner, who is a member of as many other organizations.
pub(crate) struct Tenant {
    pub(crate) sample: SampleProject,
    /// Session of the Owner.
    pub(crate) token: String,
    /// Number of rows of each list.
    pub(crate) row_count: u32,
    /// Values of request fields, by name.
    fields: Value,
}

impl Tenant {
    /// Creates a tenant. `number` distinguishes the tenants of a database, and is at most 4,095.
    pub(crate) async fn create(suite: &Suite, number: u32, row_count: u32) -> Result<Self> {
        let email = format!("owner{number}@example.com");
        let token = suite.sign_in(&email).await?;
        let sample = create_sample_project(suite, &token).await?;
        let mut connection = PgConnection::connect_with(&suite.options).await?;
        let tenant = format!(
            "create temporary table tenant as
             select {number} as number, '{}'::uuid as org_id, '{}'::uuid as user_id,
                    '{}'::uuid as project_id, '{email}' as email, {row_count} as row_count",
            sample.org_id, sample.user_id, sample.project_id
        );
        connection.execute(AssertSqlSafe(tenant)).await?;
        for statement in rows::INSERTS {
            connection.execute(*statement).await.with_context(|| (*statement).to_owned())?;
        }
        entries::insert(&mut connection, &sample).await?;
        let mut fields = json!({
            "org_id": sample.org_id,
            "project_id": sample.project_id,
            "permission": "org.view",
        });
        for (field, kind) in rows::PARENTS {
            fields[field] = rows::id(&mut connection, kind, number).await?.into();
        }
        let now = chassis::Clock::default().now();
        fields["time"] = now.format(&time::format_description::well_known::Rfc3339)?.into();
        fields["changes"] = json!([{ "grant": {
            "principal": { "teamId": fields["team_id"] },
            "projectId": sample.project_id,
            "role": "PROJECT_ROLE_ADMIN",
        } }]);
        Ok(Self { sample, token, row_count, fields })
    }

    /// Returns the value of a request field; `None` if the tenant has none.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// Waits until the log has the inserted entries.
    pub(crate) async fn wait_for_log(&self, suite: &Suite) -> Result<()> {
        let mut connection = PgConnection::connect_with(&suite.options).await?;
        let size = "select coalesce(max(size), 0) from audit.tree where org_id = $1::uuid";
        loop {
            let size: i64 = sqlx::query_scalar(size)
                .bind(&self.sample.org_id)
                .fetch_one(&mut connection)
                .await?;
            if size >= i64::from(self.row_count) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
