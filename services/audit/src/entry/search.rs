//! Planning of entry searches: resolves a filter to index terms, and chooses the term with the fewest
//! entries, whose index is scanned.

use api::audit as pb;
use chassis::{Db, Error, OrgId, ProjectId, Result, UserId, datetime};
use time::{Duration, OffsetDateTime};

use super::store;
use crate::{head_journal::SignedHeads, search_index::TermKind, tree::ACCOUNT_TREE};

/// Most actors and objects that a text may match. The terms with the most entries are kept.
const NAME_MATCHES_MAX: i64 = 1_000;

/// Request of a list, a stream or an export.
#[derive(Clone, Debug, Default)]
pub(crate) struct EntryQuery {
    /// The organization; `None` for events of accounts.
    pub(crate) org_id: Option<OrgId>,
    pub(crate) project_id: Option<ProjectId>,
    /// Restricts the result to entries by or about this account.
    pub(crate) account: Option<UserId>,
    pub(crate) filter: pb::EntryFilter,
}

/// An index term, or a prefix of terms, that entries must have.
#[derive(Clone, Debug)]
pub(crate) struct TermQuery {
    pub(crate) kind: TermKind,
    pub(crate) value: String,
    pub(crate) matching: Matching,
}

/// Comparison of a term with a queried value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matching {
    Exact,
    Prefix,
}

/// A search plan: the scanned index, and conditions that are checked for each entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct SearchPlan {
    /// Number of the tree.
    pub(crate) tree: i32,
    /// First index of the range.
    pub(crate) first: i64,
    /// End of the range, exclusive.
    pub(crate) end: i64,
    pub(crate) terms: TermConditions,
    /// Number of `tenantry.event.v1.Outcome`.
    pub(crate) outcome: Option<i16>,
    pub(crate) scan_index: ScanIndex,
    /// Numbers of the terms whose entries are scanned; for [`ScanIndex::Tree`] the number of the tree.
    pub(crate) scan_terms: Vec<i32>,
    /// True if no entry can match, because a term does not exist.
    pub(crate) matches_nothing: bool,
}

/// Numbers of index terms by column. An entry must have one of each list that is given.
#[derive(Clone, Debug, Default)]
pub(crate) struct TermConditions {
    pub(crate) actor: Option<Vec<i32>>,
    pub(crate) resource: Option<Vec<i32>>,
    pub(crate) resource_kind: Option<Vec<i32>>,
    pub(crate) project: Option<Vec<i32>>,
    pub(crate) environment: Option<Vec<i32>>,
    pub(crate) action: Option<Vec<i32>>,
    pub(crate) actor_or_resource: Option<Vec<i32>>,
}

/// Database index that a search scans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ScanIndex {
    /// All entries of the tree.
    #[default]
    Tree,
    Actor,
    Resource,
    Project,
    Action,
    /// Two scans: by actor and by object.
    ActorOrResource,
}

/// Time range of a filter: from `from` to before `to`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeRange {
    pub(crate) from: Option<OffsetDateTime>,
    pub(crate) to: Option<OffsetDateTime>,
}

impl EntryQuery {
    /// Returns the organization of the tree that is searched.
    pub(crate) fn tree_id(&self) -> OrgId {
        self.org_id.unwrap_or(ACCOUNT_TREE)
    }

    /// Returns a text that identifies the query. Page tokens and cursors are bound to it.
    pub(crate) fn binding(&self) -> String {
        format!("{:?}", (self.org_id, self.project_id, self.account, &self.filter))
    }

    /// True if the query selects all entries of an organization.
    pub(crate) fn is_unfiltered(&self) -> bool {
        self.filter == pb::EntryFilter::default() && self.project_id.is_none()
    }

    /// Returns the index terms of the filter, at most one of each kind.
    pub(super) fn term_queries(&self) -> Vec<TermQuery> {
        use Matching::{Exact, Prefix};

        let filter = &self.filter;
        let mut queries = vec![];
        let mut add = |kind, value: &str, matching| {
            if !value.is_empty() {
                queries.push(TermQuery { kind, value: value.to_owned(), matching });
            }
        };
        add(TermKind::Actor, &filter.actor_id, Exact);
        add(TermKind::ResourceKind, &filter.resource_type, Exact);
        let project_id = self.project_id.map(String::from).unwrap_or_default();
        add(TermKind::Project, &project_id, Exact);
        add(TermKind::Environment, &filter.environment_id, Exact);
        match filter.action.strip_suffix('*') {
            Some(prefix) => add(TermKind::Action, prefix, Prefix),
            None => add(TermKind::Action, &filter.action, Exact),
        }
        if !filter.resource_id.is_empty() {
            add(TermKind::Resource, &format!("{}:", filter.resource_id), Prefix);
        }
        queries
    }
}

impl TermConditions {
    fn of_kind(&mut self, kind: TermKind) -> &mut Option<Vec<i32>> {
        match kind {
            TermKind::Actor => &mut self.actor,
            TermKind::Resource => &mut self.resource,
            TermKind::ResourceKind => &mut self.resource_kind,
            TermKind::Project => &mut self.project,
            TermKind::Environment => &mut self.environment,
            TermKind::Action => &mut self.action,
        }
    }
}

impl ScanIndex {
    /// Returns the index by terms of a kind; `None` if there is no such index.
    fn by(kind: TermKind) -> Option<Self> {
        match kind {
            TermKind::Actor => Some(Self::Actor),
            TermKind::Resource => Some(Self::Resource),
            TermKind::Project => Some(Self::Project),
            TermKind::Action => Some(Self::Action),
            TermKind::Environment | TermKind::ResourceKind => None,
        }
    }
}

/// Plans a query: looks up its terms and time range, and chooses the index to scan.
pub(crate) async fn plan(db: &Db, heads: &SignedHeads, query: &EntryQuery) -> Result<SearchPlan> {
    let times = time_range(&query.filter)?;
    let Some(range) = store::visible_range(db, heads, query.tree_id(), times).await? else {
        return Ok(SearchPlan { matches_nothing: true, ..SearchPlan::default() });
    };
    let mut plan = SearchPlan {
        tree: range.tree,
        first: range.first,
        end: range.end,
        outcome: i16::try_from(query.filter.outcome).ok().filter(|it| *it != 0),
        ..SearchPlan::default()
    };
    let mut fewest_entries = i64::MAX;
    let term_queries = query.term_queries();
    let matches = if term_queries.is_empty() {
        vec![]
    } else {
        store::find_terms(db, plan.tree, &term_queries).await?
    };
    for (TermQuery { kind, .. }, matches) in term_queries.into_iter().zip(matches) {
        plan.matches_nothing |= matches.numbers.is_empty();
        if let Some(index) = ScanIndex::by(kind).filter(|_| matches.entries < fewest_entries) {
            plan.scan_index = index;
            plan.scan_terms.clone_from(&matches.numbers);
            fewest_entries = matches.entries;
        }
        *plan.terms.of_kind(kind) = Some(matches.numbers);
    }
    if !query.filter.text.is_empty() {
        let text = &query.filter.text;
        let matches = store::find_terms_by_name(db, plan.tree, text, NAME_MATCHES_MAX).await?;
        plan.matches_nothing |= matches.numbers.is_empty();
        if matches.entries < fewest_entries {
            plan.scan_index = ScanIndex::ActorOrResource;
            plan.scan_terms.clone_from(&matches.numbers);
        }
        plan.terms.actor_or_resource = Some(matches.numbers);
    }
    if let Some(user_id) = query.account {
        let term_queries = [
            TermQuery {
                kind: TermKind::Actor,
                value: user_id.to_string(),
                matching: Matching::Exact,
            },
            TermQuery {
                kind: TermKind::Resource,
                value: format!("{user_id}:"),
                matching: Matching::Prefix,
            },
        ];
        let matches = store::find_terms(db, plan.tree, &term_queries).await?;
        let numbers: Vec<i32> = matches.into_iter().flat_map(|it| it.numbers).collect();
        plan.scan_index = ScanIndex::ActorOrResource;
        plan.scan_terms.clone_from(&numbers);
        plan.terms.actor_or_resource = Some(numbers);
    }
    // The scan itself satisfies the condition on its term.
    match plan.scan_index {
        ScanIndex::Tree => plan.scan_terms = vec![plan.tree],
        ScanIndex::Actor => plan.terms.actor = None,
        ScanIndex::Resource => plan.terms.resource = None,
        ScanIndex::Project => plan.terms.project = None,
        ScanIndex::Action => plan.terms.action = None,
        ScanIndex::ActorOrResource => plan.terms.actor_or_resource = None,
    }
    Ok(plan)
}

/// Rounds a time up to a microsecond; `None` if that is out of range.
fn ceil_to_microsecond(time: OffsetDateTime) -> Option<OffsetDateTime> {
    let excess = i64::from(time.nanosecond() % 1_000);
    let missing = if excess == 0 { 0 } else { 1_000 - excess };
    time.checked_add(Duration::nanoseconds(missing))
}

/// Reads the time range of a filter. Entries have microseconds; a limit between two of them is rounded up, so
/// that no entry from before `from` is in the range, and every entry before `to` is.
pub(super) fn time_range(filter: &pb::EntryFilter) -> Result<TimeRange> {
    let read = |name: &str, timestamp: Option<prost_types::Timestamp>| {
        let Some(timestamp) = timestamp else { return Ok(None) };
        let time = datetime(timestamp).and_then(ceil_to_microsecond);
        let invalid = || Error::invalid(format!("filter.{name}"), "must be a valid timestamp");
        time.map(Some).ok_or_else(invalid)
    };
    let from = read("from", filter.from)?;
    let to = read("to", filter.to)?;
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        return Err(Error::invalid("filter.from", "must be before filter.to"));
    }
    Ok(TimeRange { from, to })
}
