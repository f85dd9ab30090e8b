//! Index terms and names that are known to be stored, so that a batch writes only new ones; and the numbers
//! of new entries per term, which a job adds to the table now and then.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chassis::{Db, Result, Tx};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use worker::{Progress, Schedule};

use super::{
    append::LogAppender,
    store::{self, NewName, TreeTerm},
};

/// Most terms and most names that are kept, about 15 MiB together. Beyond, the cache starts empty again.
const KNOWN_MAX: usize = 50_000;

/// Interval at which the job writes the numbers of new entries.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// Terms and names of all trees. Everything in it is committed. Terms are never deleted, and the kept names
/// only together with the key of their person, without which they are not written again.
#[derive(Default)]
pub(crate) struct KnownTerms(Mutex<State>);

#[derive(Default)]
struct State {
    /// Start of the server that has the terms.
    server_started_at: Option<OffsetDateTime>,
    numbers: HashMap<TreeTerm, i32>,
    names: HashSet<KnownName>,
    /// New entries that `term.entries` does not count yet, by number of the term. A batch that is rolled back
    /// stays counted: the sums only decide which of several indexes a search reads.
    new_entries: BTreeMap<i32, i64>,
}

#[derive(PartialEq, Eq, Hash)]
struct KnownName {
    term: i32,
    name: String,
}

impl KnownTerms {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes everything if another server responds than before: one that was promoted or restored can have
    /// lost terms, and gives their numbers to others.
    pub(super) fn require_server(&self, started_at: OffsetDateTime) {
        let mut state = self.state();
        if state.server_started_at != Some(started_at) {
            *state = State { server_started_at: Some(started_at), ..State::default() };
        }
    }

    /// Returns the numbers of those terms that are known.
    pub(super) fn numbers<'t>(
        &self,
        terms: impl Iterator<Item = &'t TreeTerm>,
    ) -> HashMap<TreeTerm, i32> {
        let state = self.state();
        let known = terms.filter_map(|term| Some((term.clone(), *state.numbers.get(term)?)));
        known.collect()
    }

    /// Adds stored terms. They must have been committed before the transaction that read them.
    pub(super) fn insert_numbers(&self, numbers: &HashMap<TreeTerm, i32>) {
        let mut state = self.state();
        if state.numbers.len() + numbers.len() > KNOWN_MAX {
            state.numbers.clear();
        }
        state.numbers.extend(numbers.iter().map(|(term, number)| (term.clone(), *number)));
    }

    /// Counts new entries of a stored term.
    pub(super) fn count_entries(&self, term: i32, entries: i64) {
        *self.state().new_entries.entry(term).or_default() += entries;
    }

    /// Removes the names that are known.
    pub(super) fn retain_unknown_names(&self, names: &mut BTreeSet<NewName>) {
        let state = self.state();
        names.retain(|it| {
            !state.names.contains(&KnownName { term: it.term, name: it.name.clone() })
        });
    }

    /// Adds stored names, under the condition of [`Self::insert_numbers`].
    pub(super) fn insert_names(&self, names: impl IntoIterator<Item = NewName>) {
        let mut state = self.state();
        if state.names.len() > KNOWN_MAX {
            state.names.clear();
        }
        let known = names.into_iter().map(|it| KnownName { term: it.term, name: it.name });
        state.names.extend(known);
    }

    /// Writes the numbers of new entries in a transaction of its own, which locks nothing but terms.
    async fn write_counts(&self, db: &Db) -> Result<()> {
        let counts = std::mem::take(&mut self.state().new_entries);
        if counts.is_empty() {
            return Ok(());
        }
        let write = async |tx: &mut Tx| store::add_entries_to_terms(tx, &counts).await;
        let written = db.write_as_system("log", write).await;
        if written.is_err() {
            for (term, entries) in counts {
                self.count_entries(term, entries);
            }
        }
        written
    }
}

/// Writes the numbers of new entries once per interval, and at the end.
pub(crate) async fn run(
    db: Db,
    appender: Arc<LogAppender>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let known = appender.known_terms();
    let step = async || {
        known.write_counts(&db).await?;
        anyhow::Ok(Progress::Idle)
    };
    let schedule = Schedule::every(COUNT_INTERVAL);
    worker::run("index terms of the audit log".to_owned(), schedule, stop, step).await;
    known.write_counts(&db).await?;
    Ok(())
}
