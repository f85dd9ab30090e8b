//! Lists of the repositories and branches that a connection reads.

use api::project::{RemoteBranch, RemoteRepository};
use chassis::{Result, page::Page};
use project_rules::connection::{
    TestFailure,
    git::{
        Probe, Settings,
        host_api::{ApiFailure, is_usable, parse_branches},
    },
};

use super::{
    host_api::{API_PAGE_SIZE, HostApi},
    probe::Prober,
};

/// A page of a list.
pub(super) struct Listed<T> {
    pub(super) rows: Vec<T>,
    /// Token of the next page; empty on the last page.
    pub(super) next_page_token: String,
}

/// Returns a page of the repositories that the access token of a connection reads, in the order of the API. A
/// page is at most the rest of a page of the API.
pub(super) async fn repositories(
    prober: &Prober,
    settings: &Settings,
    page: &Page,
) -> Result<Listed<RemoteRepository>> {
    let api = HostApi::connect(prober, settings.api_access()?).await?;
    // The cursor is the number of repositories before the page.
    let offset = page.after::<usize>()?.unwrap_or(0);
    let api_page = offset / API_PAGE_SIZE;
    let found = api.repositories(api_page + 1).await?;
    let end = offset % API_PAGE_SIZE + page.size();
    let next_page_token = if end < found.repositories.len() {
        page.token(&(api_page * API_PAGE_SIZE + end).to_string())
    } else if found.has_next {
        page.token(&((api_page + 1) * API_PAGE_SIZE).to_string())
    } else {
        String::new()
    };
    let rows = found.repositories.into_iter().take(end).skip(offset % API_PAGE_SIZE);
    Ok(Listed { rows: rows.filter(is_usable).collect(), next_page_token })
}

/// Returns a page of the branches of a repository, by name.
pub(super) async fn branches(
    prober: &Prober,
    probe: &Probe,
    page: &Page,
) -> Result<Listed<RemoteBranch>> {
    let output = prober.branches(probe).await?.map_err(|failure| match failure {
        TestFailure::Server(text) => ApiFailure::Git(text).into(),
        other => chassis::Error::from(other),
    })?;
    let after = page.after::<String>()?;
    let is_after = |it: &RemoteBranch| after.as_ref().is_none_or(|after| it.name > *after);
    let rows = parse_branches(&output).into_iter().filter(is_after);
    let rows = rows.take(page.size() + 1).collect();
    let (rows, next_page_token) = page.paginate(rows, |it| it.name.clone());
    Ok(Listed { rows, next_page_token })
}
