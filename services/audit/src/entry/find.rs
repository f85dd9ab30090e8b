//! From what a caller asks for to what is looked up: the facts that entries must have, and the one of them
//! that the fewest entries have, which is followed.

use api::audit as pb;
use chassis::{Db, Error, OrgId, ProjectId, Result, UserId, moment};

use super::store::{self, Wish};
use crate::facts::Kind;

/// Names that a text may match at most: more would be no search.
const NAMED_MAX: i64 = 1_000;

/// Which entries are looked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Search {
    pub(crate) tree: i32,
    /// From this index on, and before that one.
    pub(crate) first: i64,
    pub(crate) end: i64,
    pub(crate) terms: Terms,
    pub(crate) outcome: Option<i16>,
    /// What is followed.
    pub(crate) driver: Driver,
    /// The numbers that it has.
    pub(crate) follow: Vec<i32>,
    /// Whether nothing can be found.
    pub(crate) nothing: bool,
}

/// Numbers of facts; an entry must have one of each that is given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) actor: Option<Vec<i32>>,
    pub(crate) resource: Option<Vec<i32>>,
    pub(crate) kind: Option<Vec<i32>>,
    pub(crate) project: Option<Vec<i32>>,
    pub(crate) environment: Option<Vec<i32>>,
    pub(crate) action: Option<Vec<i32>>,
    /// Actors or objects with a name.
    pub(crate) named: Option<Vec<i32>>,
}

/// Which index is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Driver {
    /// All entries of the tree.
    #[default]
    Tree,
    Actor,
    Resource,
    Project,
    Action,
    /// Actors and objects with a name.
    Named,
}

/// What a caller asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) org_id: Option<OrgId>,
    pub(crate) project_id: Option<ProjectId>,
    /// What this account did, and what was done to it.
    pub(crate) account: Option<UserId>,
    pub(crate) filter: pb::EntryFilter,
}

impl Wanted {
    /// What it is, as text: pages and cursors are bound to it.
    pub(crate) fn binding(&self) -> String {
        format!("{:?}", (self.org_id, self.project_id, self.account, &self.filter))
    }

    pub(super) fn facts(&self) -> Vec<Wish> {
        let it = &self.filter;
        let mut facts = vec![];
        let mut fact = |kind, value: String, prefix| {
            if !value.is_empty() {
                facts.push((kind, value, prefix));
            }
        };
        fact(Kind::Actor, it.actor_id.clone(), false);
        fact(Kind::Type, it.resource_type.clone(), false);
        fact(Kind::Project, self.project_id.map(String::from).unwrap_or_default(), false);
        fact(Kind::Environment, it.environment_id.clone(), false);
        match it.action.strip_suffix('*') {
            Some(prefix) => fact(Kind::Action, prefix.to_owned(), true),
            None => fact(Kind::Action, it.action.clone(), false),
        }
        if !it.resource_id.is_empty() {
            fact(Kind::Resource, format!("{}:", it.resource_id), true);
        }
        facts
    }
}

/// Looks facts and times up.
pub(crate) async fn search(db: &Db, wanted: &Wanted) -> Result<Search> {
    let (from, to) = times(&wanted.filter)?;
    let org_id = wanted.org_id.unwrap_or(crate::log::ACCOUNTS);
    let Some(tree) = store::bounds(db, org_id, from, to).await? else {
        return Ok(Search { nothing: true, ..Search::default() });
    };
    let mut search =
        Search { tree: tree.number, first: tree.first, end: tree.end, ..Search::default() };
    search.outcome = i16::try_from(wanted.filter.outcome).ok().filter(|it| *it != 0);
    let mut fewest = i64::MAX;
    let facts = wanted.facts();
    let found =
        if facts.is_empty() { vec![] } else { store::terms(db, tree.number, &facts).await? };
    for ((kind, ..), (numbers, entries)) in facts.into_iter().zip(found) {
        search.nothing |= numbers.is_empty();
        let driver = match kind {
            Kind::Actor => Some(Driver::Actor),
            Kind::Resource => Some(Driver::Resource),
            Kind::Project => Some(Driver::Project),
            Kind::Action => Some(Driver::Action),
            Kind::Environment | Kind::Type => None,
        };
        if let Some(driver) = driver.filter(|_| entries < fewest) {
            (search.driver, search.follow, fewest) = (driver, numbers.clone(), entries);
        }
        let terms = &mut search.terms;
        let place = match kind {
            Kind::Actor => &mut terms.actor,
            Kind::Resource => &mut terms.resource,
            Kind::Type => &mut terms.kind,
            Kind::Project => &mut terms.project,
            Kind::Environment => &mut terms.environment,
            Kind::Action => &mut terms.action,
        };
        *place = Some(numbers);
    }
    if !wanted.filter.text.is_empty() {
        let (numbers, entries) =
            store::named(db, tree.number, &wanted.filter.text, NAMED_MAX).await?;
        search.nothing |= numbers.is_empty();
        if entries < fewest {
            (search.driver, search.follow) = (Driver::Named, numbers.clone());
        }
        search.terms.named = Some(numbers);
    }
    if let Some(user_id) = wanted.account {
        let wishes = [
            (Kind::Actor, user_id.to_string(), false),
            (Kind::Resource, format!("{user_id}:"), true),
        ];
        let found = store::terms(db, tree.number, &wishes).await?;
        let numbers: Vec<i32> = found.into_iter().flat_map(|it| it.0).collect();
        (search.driver, search.follow) = (Driver::Named, numbers.clone());
        search.terms.named = Some(numbers);
    }
    // What is followed needs no second look.
    match search.driver {
        Driver::Tree => search.follow = vec![tree.number],
        Driver::Actor => search.terms.actor = None,
        Driver::Resource => search.terms.resource = None,
        Driver::Project => search.terms.project = None,
        Driver::Action => search.terms.action = None,
        Driver::Named => search.terms.named = None,
    }
    Ok(search)
}

/// The time that is asked for.
pub(super) fn times(
    filter: &pb::EntryFilter,
) -> Result<(Option<time::OffsetDateTime>, Option<time::OffsetDateTime>)> {
    let read = |name: &str, it: Option<prost_types::Timestamp>| match it {
        None => Ok(None),
        Some(it) => match moment(it) {
            Some(it) => Ok(Some(it)),
            None => Err(Error::invalid(format!("filter.{name}"), "is no moment")),
        },
    };
    let (from, to) = (read("from", filter.from)?, read("to", filter.to)?);
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        return Err(Error::invalid("filter.from", "must be before filter.to"));
    }
    Ok((from, to))
}
