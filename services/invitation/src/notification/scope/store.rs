//! Every SQL statement that the stores of webhooks and mail rules have in common.

/// Defines the functions that the stores of webhooks and mail rules have in common. `$table` has the columns
/// `id`, `org_id`, `project_id`, `enabled` and `event_types`; the macro `$select` selects whole rows of it.
macro_rules! scoped_store {
    ($row:ty, $id:ty, $table:literal, $select:ident) => {
        /// Counts the rows of an organization. Until the transaction ends, no other transaction inserts one.
        pub(crate) async fn lock_count(
            tx: &mut chassis::Tx,
            org_id: chassis::OrgId,
        ) -> chassis::Result<i64> {
            let key = format!("{} {org_id}", $table);
            // The seed of the hash (2) differs from those of other locks, so that equal keys do not collide.
            sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 2))", key)
                .fetch_one(tx.conn())
                .await?;
            let count = sqlx::query_scalar!(
                r#"select count(*) as "count!" from "# + $table + " where org_id = $1",
                org_id.0
            );
            Ok(count.fetch_one(tx.conn()).await?)
        }

        /// Locks a row in the scope of the grant.
        pub(crate) async fn lock(
            tx: &mut chassis::Tx,
            grant: &chassis::ScopeGrant,
            id: $id,
        ) -> chassis::Result<$row> {
            let row = $select!(
                "where org_id = $1 and id = $2 and ($3::uuid is null or project_id = $3) for update",
                grant.org_id().0,
                id.0,
                grant.project_id().map(|it| it.0),
            );
            row.fetch_optional(tx.conn()).await?.ok_or(chassis::Error::NotFound(<$id>::NOUN))
        }

        /// A page of the rows in the scope of the grant, newest first.
        pub(crate) async fn list(
            db: &chassis::Db,
            grant: &chassis::ScopeGrant,
            page: &chassis::page::Page,
        ) -> chassis::Result<Vec<$row>> {
            let rows = $select!(
                "where org_id = $1 and ($2::uuid is null or project_id = $2)
                   and id < coalesce($3, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
                 order by id desc limit $4",
                grant.org_id().0,
                grant.project_id().map(|it| it.0),
                page.after::<uuid::Uuid>()?,
                page.limit(),
            );
            Ok(rows.fetch_all(db.pool()).await?)
        }

        /// The enabled rows that are subscribed to a notification type: those of its organization, and those
        /// of its project (NO-8).
        pub(crate) async fn subscribed(
            tx: &mut chassis::Tx,
            scope: crate::notification::scope::Scope,
            event_type: &str,
        ) -> chassis::Result<Vec<$row>> {
            let rows = $select!(
                "where org_id = $1 and enabled and (project_id is null or project_id = $2)
                   and (event_types = '{}' or $3 = any(event_types))
                 order by id",
                scope.org_id.0,
                scope.project_id.map(|it| it.0),
                event_type,
            );
            Ok(rows.fetch_all(tx.conn()).await?)
        }

        /// Deletes a row and stores its event.
        pub(crate) async fn delete(
            tx: &mut chassis::Tx,
            deleted: chassis::Changed<$row>,
        ) -> chassis::Result<()> {
            let row = deleted.state();
            sqlx::query!(
                "delete from " + $table + " where org_id = $1 and id = $2",
                row.org_id as _,
                row.id as _
            )
            .execute(tx.conn())
            .await?;
            tx.emit(deleted);
            Ok(())
        }
    };
}

pub(in crate::notification) use scoped_store;
