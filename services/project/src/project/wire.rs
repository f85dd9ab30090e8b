//! Between the contract and the rules.

use api::{check::Violation, project as pb};
use chassis::{Error, timestamp};

use super::{Draft, Project};
use crate::repository::{wrong_branch, wrong_url};

impl From<&Project> for pb::Project {
    fn from(it: &Project) -> Self {
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            name: it.name.clone(),
            slug: it.slug.clone(),
            repository_url: it.repository_url.clone(),
            default_branch: it.default_branch.clone(),
            creator_id: it.creator_id.into(),
            create_time: Some(timestamp(it.created_at)),
        }
    }
}

impl Draft {
    pub(super) fn of(
        request: &pb::CreateProjectRequest,
        local_allowed: bool,
    ) -> Result<Self, Error> {
        let default_branch = Some(request.default_branch.clone()).filter(|it| !it.is_empty());
        let default_branch = default_branch.unwrap_or_else(|| "main".to_owned());
        let wrong = [
            ("repository_url", wrong_url(&request.repository_url, local_allowed)),
            ("default_branch", wrong_branch(&default_branch)),
        ];
        let violations: Vec<_> = wrong
            .into_iter()
            .filter_map(|(field, wrong)| {
                Some(Violation { field: field.to_owned(), description: wrong?.to_owned() })
            })
            .collect();
        if !violations.is_empty() {
            return Err(Error::Invalid(violations));
        }
        Ok(Self {
            name: request.name.trim().to_owned(),
            slug: Some(request.slug.clone()).filter(|it| !it.is_empty()),
            repository_url: request.repository_url.clone(),
            default_branch,
        })
    }
}
