//! Pages of the projects that a caller may see.

use chassis::{
    Db, Grant, Result,
    call::Context,
    channel::ServiceChannel,
    fold,
    page::{Page, Place, UnixMicros},
};
use project_rules::project::{Project, SortOrder};
use uuid::Uuid;

use super::client::{VisibleProjects, list_visible_projects};
use crate::store::project::{Filter, list, list_by_name, list_by_update_time};

/// A list of projects.
pub(super) struct Listing<'a> {
    pub(super) db: &'a Db,
    pub(super) identity: &'a ServiceChannel,
    pub(super) context: &'a Context,
    pub(super) grant: &'a Grant,
    /// Text that the name, slug or description contains; empty: no filter.
    pub(super) query: &'a str,
    pub(super) sort_order: SortOrder,
}

impl Listing<'_> {
    /// Returns the rows of a page and the first row of the next one. Identity decides which projects are
    /// visible. For a list by creation time without a query, identity returns only the ids that the page
    /// needs.
    pub(super) async fn rows(&self, page: &Page) -> Result<Vec<Project>> {
        if self.sort_order == SortOrder::CreateTime && self.query.is_empty() {
            let visible = self.visible(page.after::<Uuid>()?, page.limit()).await?;
            let visible_count = match &visible {
                VisibleProjects::All => 0,
                VisibleProjects::Only(ids) => ids.len(),
            };
            let rows = self.read(visible, page).await?;
            // Fewer rows than ids: some projects are deleted here but still registered with identity, so the
            // page needs more ids than identity returned.
            let is_last = i64::try_from(visible_count).is_ok_and(|it| it < page.limit());
            if visible_count <= rows.len() || is_last {
                return Ok(rows);
            }
        }
        // Callers who see all projects get one id; the others need all of theirs.
        let mut visible = self.visible(None, 1).await?;
        if matches!(visible, VisibleProjects::Only(_)) {
            visible = self.visible(None, 0).await?;
        }
        self.read(visible, page).await
    }

    /// Returns the place of a project in the order of the list.
    pub(super) fn place(&self, project: &Project) -> String {
        let id = project.id.0;
        match self.sort_order {
            SortOrder::CreateTime => id.to_string(),
            SortOrder::Name => Place { value: fold::key(&project.name), id }.to_string(),
            SortOrder::UpdateTime => {
                Place { value: UnixMicros(project.updated_at), id }.to_string()
            }
        }
    }

    async fn visible(&self, after: Option<Uuid>, limit: i64) -> Result<VisibleProjects> {
        let org_id = self.grant.org_id();
        list_visible_projects(self.identity, self.context, org_id, after, limit).await
    }

    async fn read(&self, visible: VisibleProjects, page: &Page) -> Result<Vec<Project>> {
        let ids = match visible {
            VisibleProjects::All => None,
            VisibleProjects::Only(ids) => Some(ids),
        };
        let filter = Filter { org_id: self.grant.org_id(), ids, query: self.query };
        match self.sort_order {
            SortOrder::CreateTime => list(self.db, &filter, page).await,
            SortOrder::Name => list_by_name(self.db, &filter, page).await,
            SortOrder::UpdateTime => list_by_update_time(self.db, &filter, page).await,
        }
    }
}
