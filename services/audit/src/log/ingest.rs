//! One batch into the log: inbox, entries, tiles and heads commit together.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use api::{event::Envelope, identity as id};
use chassis::{Db, Result, Tx, outbox::Delivery, react::Record};
use prost::{Message, Name};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::{
    admit::{Admitted, admit},
    store::{self, Row},
};
use crate::{
    arrival::{Arrival, LEAF_BYTES_MAX},
    facts::{Actions, Facts, Kind},
    merkle::leaf_hash,
    person::{self, Vault},
    seal::{self, PersonId, Plans},
};

/// Takes events into the log.
pub(crate) struct Ledger {
    db: Db,
    plans: Plans,
    actions: Actions,
    vault: Vault,
    /// Off only in a test that shows why it is needed.
    once: bool,
    /// Months that have a partition.
    months: Mutex<BTreeSet<Date>>,
}

#[tonic::async_trait]
impl Record for Ledger {
    async fn record(&self, tx: &mut Tx, batch: &[Delivery]) -> Result<Vec<Uuid>> {
        self.append(tx, batch).await
    }
}

impl Ledger {
    /// A ledger that reads the contract once.
    pub(crate) fn new(db: Db, vault: Vault, once: bool) -> anyhow::Result<Self> {
        let (plans, actions) = (Plans::load(api::DESCRIPTORS)?, Actions::load(api::DESCRIPTORS)?);
        Ok(Self { db, plans, actions, vault, once, months: Mutex::default() })
    }

    /// Where personal fields are.
    pub(crate) fn plans(&self) -> &Plans {
        &self.plans
    }

    /// What events tell.
    pub(crate) fn actions(&self) -> &Actions {
        &self.actions
    }

    /// The keys of people.
    pub(crate) fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Appends what is new. Answers the events that must come again, because one before them is missing.
    pub(crate) async fn append(&self, tx: &mut Tx, batch: &[Delivery]) -> Result<Vec<Uuid>> {
        self.open_month(tx).await?;
        let arrivals: Vec<_> = batch.iter().map(|it| self.arrival(it, tx.now)).collect();
        let org_ids: BTreeSet<Uuid> = arrivals.iter().map(|it| it.org_id).collect();
        let org_ids: Vec<Uuid> = org_ids.into_iter().collect();
        let mut trees = store::lock(tx, &org_ids).await?;
        let mut last = store::sequences(tx, &org_ids).await?;
        let reached = |it: &&Arrival| {
            let lane = (it.org_id, it.source.clone());
            it.sequence <= last.get(&lane).copied().unwrap_or(0)
        };
        let doubtful: Vec<Uuid> = arrivals.iter().filter(reached).map(|it| it.id).collect();
        let known = if doubtful.is_empty() || !self.once {
            BTreeSet::new()
        } else {
            store::known(tx, &doubtful).await?
        };
        let before = last.clone();
        let Admitted { leaves, held } = admit(arrivals, &mut last, &known, tx.now);
        if leaves.is_empty() {
            return Ok(held);
        }
        let persons = self.persons(tx, leaves.iter().map(|it| &it.0)).await?;
        let number: HashMap<Uuid, i32> = trees.iter().map(|it| (it.org_id.0, it.number)).collect();
        let facts: Vec<Facts> =
            leaves.iter().map(|it| self.actions.facts(&it.0.envelope)).collect();
        let terms = self.terms(tx, &number, &leaves, &facts, &persons).await?;

        let (mut rows, mut tiles, mut people) = (vec![], vec![], vec![]);
        for ((arrival, flags), facts) in leaves.into_iter().zip(facts) {
            let tree = trees.iter_mut().find(|it| it.org_id.0 == arrival.org_id);
            let tree = tree.ok_or_else(|| anyhow::anyhow!("every tree of a batch is locked"))?;
            let leaf = self.sealed(&arrival, &persons);
            rows.push(Row {
                tree: tree.number,
                index: tree.edge.size(),
                event_id: arrival.id,
                terms: numbers(&facts, tree.number, &terms),
                outcome: facts.outcome,
                flags,
                leaf,
            });
            let mut complete = vec![];
            tree.edge.append(leaf_hash(&rows[rows.len() - 1].leaf), &mut complete);
            tiles.extend(complete.into_iter().map(|(place, tile)| (tree.number, place, tile)));
            people.push(arrival);
        }
        store::insert(tx, rows).await?;
        if !tiles.is_empty() {
            store::insert_tiles(tx, &tiles).await?;
        }
        store::grow(tx, &trees).await?;
        last.retain(|lane, sequence| before.get(lane) != Some(sequence));
        let lanes = last.into_iter().map(|((org, source), it)| (number[&org], source, it));
        store::reach(tx, &lanes.collect::<Vec<_>>()).await?;
        for arrival in &people {
            self.react(tx, arrival).await?;
        }
        tx.wake();
        for org_id in org_ids {
            tx.publish(org_id);
        }
        Ok(held)
    }

    /// An event as it is logged: without its body, if its leaf were too long.
    fn arrival(&self, delivery: &Delivery, now: OffsetDateTime) -> Arrival {
        let arrival = Arrival::of(delivery, now);
        let fits = seal::sealed_len(&self.plans, &arrival.bytes) <= LEAF_BYTES_MAX;
        if fits { arrival } else { arrival.cut(now) }
    }

    async fn open_month(&self, tx: &Tx) -> Result<()> {
        let month = store::month(tx.now);
        let open = self.months.lock().unwrap_or_else(PoisonError::into_inner).contains(&month);
        if !open {
            // In a transaction of its own, so that it stays if this one does not.
            let work = async |tx: &mut Tx| store::open_month(tx, month).await;
            self.db.write_as_system("log", work).await?;
            self.months.lock().unwrap_or_else(PoisonError::into_inner).insert(month);
        }
        Ok(())
    }

    /// The keys of everybody whose personal data a batch holds.
    async fn persons<'a>(
        &self,
        tx: &mut Tx,
        arrivals: impl Iterator<Item = &'a Arrival>,
    ) -> Result<BTreeMap<PersonId, chassis::key::Secret>> {
        let mut all = seal::People::default();
        for arrival in arrivals {
            // An envelope that was read is a message; an event in it may still be none, and is then kept
            // as it is.
            if let Some(people) = seal::people(&self.plans, self.vault.pseudonyms(), &arrival.bytes)
            {
                all.all.extend(people.all);
                all.addresses.extend(people.addresses);
            }
        }
        person::store::keys(tx, &self.vault, &all).await
    }

    fn sealed(
        &self,
        arrival: &Arrival,
        persons: &BTreeMap<PersonId, chassis::key::Secret>,
    ) -> Vec<u8> {
        let pseudonyms = self.vault.pseudonyms();
        let sealed = seal::seal(&self.plans, pseudonyms, arrival.id, &arrival.bytes, persons);
        sealed.unwrap_or_else(|| arrival.bytes.clone())
    }

    /// The numbers of all facts of a batch; counts the entries, and keeps names for search.
    async fn terms(
        &self,
        tx: &mut Tx,
        trees: &HashMap<Uuid, i32>,
        leaves: &[(Arrival, super::Flags)],
        facts: &[Facts],
        persons: &BTreeMap<PersonId, chassis::key::Secret>,
    ) -> Result<HashMap<(i32, i16, String), i32>> {
        let mut counts: BTreeMap<_, i64> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for ((arrival, _), facts) in leaves.iter().zip(facts) {
            let tree = trees[&arrival.org_id];
            for fact in facts.all() {
                *counts.entry((tree, fact.clone())).or_default() += 1;
            }
            for (fact, name) in &facts.names {
                let person = self.vault.named(fact, name);
                // Nothing is remembered of a person who was erased.
                if person.is_none_or(|it| persons.contains_key(&it)) {
                    let name: String = name.chars().take(300).collect();
                    names.insert((tree, fact.clone(), name, person));
                }
            }
        }
        let counts: Vec<_> = counts.into_iter().map(|((tree, fact), n)| (tree, fact, n)).collect();
        let terms = store::terms(tx, &counts).await?;
        let named = names.into_iter().filter_map(|(tree, (kind, value), name, person)| {
            Some((*terms.get(&(tree, kind as i16, value))?, name, person))
        });
        store::names(tx, &named.collect::<Vec<_>>()).await?;
        Ok(terms)
    }

    /// What the log itself does about an event.
    async fn react(&self, tx: &mut Tx, arrival: &Arrival) -> Result<()> {
        let Some(event) = &arrival.envelope.event else { return Ok(()) };
        let name = event.type_url.rsplit('/').next().unwrap_or_default();
        if arrival.source != "identity" {
            return Ok(());
        }
        if name == id::AccountDeleted::full_name() {
            let before = id::AccountDeleted::decode(&*event.value).ok().and_then(|it| it.before);
            let user_id = before.and_then(|it| Uuid::try_parse(&it.id).ok());
            if let Some(user_id) = user_id {
                person::erase::person(tx, user_id, arrival.id).await?;
            }
        } else if let Some(plan) = plan_of(name, &arrival.envelope) {
            store::set_plan(tx, arrival.org_id, &plan).await?;
        }
        Ok(())
    }
}

/// The numbers of an entry's facts, by kind.
fn numbers(
    facts: &Facts,
    tree: i32,
    terms: &HashMap<(i32, i16, String), i32>,
) -> HashMap<i16, i32> {
    let number = |(kind, value): &(Kind, String)| {
        let kind = *kind as i16;
        Some((kind, *terms.get(&(tree, kind, value.clone()))?))
    };
    facts.all().filter_map(number).collect()
}

/// The plan of an organization, if the event tells a new one.
fn plan_of(name: &str, envelope: &Envelope) -> Option<String> {
    let body = &*envelope.event.as_ref()?.value;
    let after = if name == id::OrganizationCreated::full_name() {
        id::OrganizationCreated::decode(body).ok()?.after
    } else if name == id::PlanChanged::full_name() {
        id::PlanChanged::decode(body).ok()?.after
    } else {
        None
    };
    let plan = after?.plan();
    Some(plan.as_str_name().trim_start_matches("PLAN_").to_lowercase())
}
