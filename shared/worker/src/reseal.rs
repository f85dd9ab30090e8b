//! Rotation of the secret key: seals stored values again under the current key, and retires the previous keys
//! when no value of the schema needs them.
//!
//! The job begins when all processes of the service have the same current key. It reads every sealed value
//! and replaces those of other keys in one transaction for each batch, unless the value has changed
//! meanwhile. A killed process loses nothing: the next pass finds what is left. One replica writes at a time;
//! the others read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chassis::{
    Db, Result, Tx,
    db::deployment_key,
    key::{DerivedKeys, Key, Resealed, key_id},
};
use opentelemetry::{KeyValue, global, metrics::AsyncInstrument};
use sqlx::{
    AssertSqlSafe, Postgres, Row,
    postgres::{PgArguments, PgRow},
    query::Query,
    query_scalar,
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{Progress, Schedule};

/// Interval in which the job looks for a rotation.
const INTERVAL: Duration = Duration::from_secs(5);
/// Interval in which a process records that it uses its key. Records are valid for two minutes.
const USE_INTERVAL: Duration = Duration::from_secs(20);
/// Largest number of rows that are read, or changed in one transaction.
const BATCH: usize = 200;
/// Number of passes in a row that find nothing to do before the previous keys are retired. One pass could
/// miss a value that another transaction copies from a row behind it to a row before it.
const CLEAN_PASSES: u32 = 2;

/// Makes a statement of the parts that a [`SealedColumn`] has. The macros of sqlx take literals only.
#[expect(clippy::disallowed_methods, reason = "its parts are literals of the services")]
fn dynamic_query(sql: String) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(AssertSqlSafe(sql))
}

/// A column with values that [`DerivedKeys::seal`] has sealed. Its texts are parts of SQL statements.
#[derive(Clone, Copy, Debug)]
pub struct SealedColumn {
    /// Name of the table.
    pub table: &'static str,
    /// Name of the column, of the type `bytea`. Null and empty values are not sealed.
    pub column: &'static str,
    /// Columns of a unique index, in its order.
    pub key: &'static [KeyColumn],
    /// Expression of the purpose of the keys.
    pub purpose: &'static str,
    /// Expression of the associated data, of the type `bytea`.
    pub associated_data: &'static str,
    /// Computes the associated data from the value of the expression, if SQL cannot; `None` for a row whose
    /// value cannot be opened.
    pub convert: Option<fn(&str) -> Option<String>>,
}

/// A column of an index.
#[derive(Clone, Copy, Debug)]
pub struct KeyColumn {
    /// Name of the column.
    pub name: &'static str,
    /// Name of its type.
    pub sql_type: &'static str,
}

/// The id of a row as its index.
pub const ID: &[KeyColumn] = &[KeyColumn { name: "id", sql_type: "uuid" }];

/// Keys of former secret keys, which every schema may have.
const RETAINED_KEYS: SealedColumn = SealedColumn {
    table: "retained_key",
    column: "sealed",
    key: &[
        KeyColumn { name: "purpose", sql_type: "text" },
        KeyColumn { name: "check_value", sql_type: "bytea" },
    ],
    purpose: deployment_key::RETAINED_SQL,
    associated_data: "convert_to(purpose, 'UTF8') || check_value",
    convert: None,
};

/// Number of sealed values by the id of their secret key; `unreadable` for those that no key opens.
pub type Counts = BTreeMap<String, u64>;

/// Label of values that no key opens.
pub const UNREADABLE: &str = "unreadable";

/// Seals values of a database again during rotations, until `stop`. Registers the gauge
/// `tenantry.key.values` with the attributes `service` and `key`: the number of values of the last pass.
pub async fn run(db: Db, key: Key, columns: Vec<SealedColumn>, stop: CancellationToken) {
    let job = ResealJob {
        counts: measure(db.name()),
        db,
        key,
        columns,
        clean_passes: Mutex::default(),
        stop: stop.clone(),
    };
    let name = |what: &str| format!("{what} of {}", job.db.name());
    let uses = crate::run(name("key use"), Schedule::every(USE_INTERVAL), stop.clone(), || async {
        job.db.renew_key_use(&job.key).await?;
        Ok(Progress::Idle)
    });
    let reseals = crate::run(name("key rotation"), Schedule::every(INTERVAL), stop, || job.step());
    tokio::join!(uses, reseals);
}

/// Counts the sealed values of a database by their secret keys, without changes.
pub async fn count(db: &Db, key: &Key, columns: &[SealedColumn]) -> Result<Counts> {
    let mut pass = Pass::default();
    for column in columns.iter().chain([&RETAINED_KEYS]) {
        let mut scan = Scan::new(db, key, column);
        while scan.next_batch(&mut pass).await?.is_some() {}
    }
    Ok(pass.counts)
}

fn measure(service: &'static str) -> Arc<Mutex<Counts>> {
    let counts = Arc::<Mutex<Counts>>::default();
    let observed = counts.clone();
    let observe = move |observer: &dyn AsyncInstrument<u64>| {
        for (key, count) in observed.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let labels = [KeyValue::new("service", service), KeyValue::new("key", key.clone())];
            observer.observe(*count, &labels);
        }
    };
    let meter = global::meter("tenantry");
    let gauge = meter.u64_observable_gauge("tenantry.key.values");
    gauge.with_callback(observe).build();
    counts
}

struct ResealJob {
    db: Db,
    key: Key,
    columns: Vec<SealedColumn>,
    counts: Arc<Mutex<Counts>>,
    /// Passes in a row that found nothing to do.
    clean_passes: Mutex<u32>,
    stop: CancellationToken,
}

/// State of one pass over all sealed values.
#[derive(Default)]
struct Pass {
    counts: Counts,
    /// Number of values that were not sealed with the current key.
    previous: u64,
}

impl ResealJob {
    async fn step(&self) -> anyhow::Result<Progress> {
        if !self.is_due().await? {
            self.set_clean_passes(0);
            return Ok(Progress::Idle);
        }
        let began_at = self.db.now();
        self.db.retain_keys(&self.key).await?;
        let mut pass = Pass::default();
        for column in self.columns.iter().chain([&RETAINED_KEYS]) {
            let mut scan = Scan::new(&self.db, &self.key, column);
            while let Some(changes) = scan.next_batch(&mut pass).await? {
                if self.stop.is_cancelled() {
                    return Ok(Progress::Idle);
                }
                if !self.apply(column, changes).await? {
                    self.set_clean_passes(0);
                    return Ok(Progress::Idle);
                }
            }
        }
        self.finish(pass, began_at).await
    }

    /// True if values need another key than the current one, and no process uses another one.
    async fn is_due(&self) -> Result<bool> {
        let current = self.key.check_value();
        let stored = self.db.stored_keys().await?;
        let mut others = stored.iter().filter(|it| it.check_value[..] != current);
        Ok(others.clone().any(|it| !it.is_retired) && !others.any(|it| it.is_used))
    }

    async fn finish(&self, pass: Pass, began_at: OffsetDateTime) -> anyhow::Result<Progress> {
        let service = self.db.name();
        let Pass { counts, previous } = pass;
        tracing::info!(service, resealed = previous, ?counts, "sealed values were read");
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
        let clean_passes = if previous == 0 { self.clean_passes() + 1 } else { 0 };
        self.set_clean_passes(clean_passes);
        if clean_passes < CLEAN_PASSES {
            return Ok(Progress::Busy);
        }
        if self.db.retire_previous_keys(&self.key, began_at).await? {
            tracing::info!(
                service,
                key = key_id(&self.key.check_value()),
                "no value needs a previous secret key; remove it from the key file"
            );
        }
        Ok(Progress::Idle)
    }

    /// Replaces values in one transaction, except those that have changed since they were read. Returns false
    /// if another replica is writing.
    async fn apply(&self, column: &SealedColumn, changes: Vec<Change>) -> Result<bool> {
        if changes.is_empty() {
            return Ok(true);
        }
        let sql = column.update();
        let new: Vec<_> = changes.iter().map(|it| it.new.clone()).collect();
        let old: Vec<_> = changes.iter().map(|it| it.old.clone()).collect();
        let key_column = |index: usize| changes.iter().map(|it| it.key[index].clone()).collect();
        let keys: Vec<Vec<String>> = (0..column.key.len()).map(key_column).collect();
        let apply = async |tx: &mut Tx| {
            let lock = query_scalar!(
                r#"select pg_try_advisory_xact_lock(hashtext(current_schema()), 4) as "locked!""#
            );
            let is_locked = lock.fetch_one(tx.conn()).await?;
            if is_locked {
                let statement = dynamic_query(sql).bind(new).bind(old);
                let bound = keys.into_iter().fold(statement, Query::bind);
                bound.execute(tx.conn()).await?;
            }
            Ok(is_locked)
        };
        self.db.write_as_system("key rotation", apply).await
    }

    fn clean_passes(&self) -> u32 {
        *self.clean_passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_clean_passes(&self, count: u32) {
        *self.clean_passes.lock().unwrap_or_else(PoisonError::into_inner) = count;
    }
}

/// A value that is to be replaced.
struct Change {
    /// Values of the columns of the index, as text.
    key: Vec<String>,
    old: Vec<u8>,
    new: Vec<u8>,
}

/// Reads the rows of a column in the order of its index.
struct Scan<'a> {
    db: &'a Db,
    key: &'a Key,
    column: &'a SealedColumn,
    /// Index values of the last row that was read.
    last: Option<Vec<String>>,
    is_complete: bool,
    /// Keys of the purpose of the last row, which the next one often shares.
    derived: Option<PurposeKeys>,
}

struct PurposeKeys {
    purpose: String,
    keys: DerivedKeys,
}

impl<'a> Scan<'a> {
    fn new(db: &'a Db, key: &'a Key, column: &'a SealedColumn) -> Self {
        Self { db, key, column, last: None, is_complete: false, derived: None }
    }

    /// Reads the next rows and returns the values to be replaced; `None` after the last row.
    async fn next_batch(&mut self, pass: &mut Pass) -> Result<Option<Vec<Change>>> {
        if self.is_complete {
            return Ok(None);
        }
        let sql = self.column.select(self.last.is_some());
        let values = self.last.iter().flatten();
        let statement = values.fold(dynamic_query(sql), |it, value| it.bind(value.clone()));
        let rows = statement.fetch_all(self.db.pool()).await?;
        self.is_complete = rows.len() < BATCH;
        let mut changes = vec![];
        for row in rows {
            changes.extend(self.examine(&row, pass)?);
        }
        Ok(Some(changes))
    }

    fn examine(&mut self, row: &PgRow, pass: &mut Pass) -> Result<Option<Change>> {
        let old: Vec<u8> = row.try_get("sealed_value")?;
        let purpose: String = row.try_get("purpose_value")?;
        let context: Option<Vec<u8>> = row.try_get("context_value")?;
        let columns = 0..self.column.key.len();
        let key: Vec<String> = columns.map(|it| row.try_get(it)).collect::<Result<_, _>>()?;
        self.last = Some(key.clone());
        let convert = |it: Vec<u8>| match self.column.convert {
            Some(convert) => convert(&String::from_utf8_lossy(&it)).map(String::into_bytes),
            None => Some(it),
        };
        let context = context.and_then(convert);
        let keys = self.keys(purpose);
        let resealed = context.map(|it| keys.reseal(&it, &old));
        let mut count = |id: String| *pass.counts.entry(id).or_default() += 1;
        match resealed.unwrap_or(Resealed::Unreadable) {
            Resealed::Current => count(keys.id()),
            Resealed::Unreadable => count(UNREADABLE.to_owned()),
            Resealed::Changed { sealed, previous } => {
                count(key_id(&previous));
                pass.previous += 1;
                return Ok(Some(Change { key, old, new: sealed }));
            }
        }
        Ok(None)
    }

    fn keys(&mut self, purpose: String) -> DerivedKeys {
        match &self.derived {
            Some(it) if it.purpose == purpose => it.keys.clone(),
            _ => {
                let keys = self.key.derive(&purpose);
                self.derived = Some(PurposeKeys { purpose, keys: keys.clone() });
                keys
            }
        }
    }
}

impl SealedColumn {
    /// Statement that reads a batch. Its parameters are the index values of the row before it, as texts.
    fn select(&self, continues: bool) -> String {
        let Self { table, column, purpose, associated_data, .. } = self;
        let names = self.key_names();
        let texts: Vec<_> = self.key.iter().map(|it| format!("{}::text", it.name)).collect();
        let texts = texts.join(", ");
        let after = if continues {
            format!("and ({names}) > ({})", self.key_values())
        } else {
            String::new()
        };
        // (no org_id): the values of all organizations are sealed with the same secret key.
        format!(
            "select {texts}, {column} as sealed_value, {purpose} as purpose_value,
                    {associated_data} as context_value
             from {table} where {column} is not null and octet_length({column}) > 0 {after}
             order by {names} limit {BATCH}"
        )
    }

    /// Statement that replaces a batch of values. Parameters: arrays of the new values, of the old ones, and
    /// of the texts of each column of the index.
    fn update(&self) -> String {
        let Self { table, column, key, .. } = self;
        let arrays: Vec<_> =
            (3..).zip(*key).map(|(index, _)| format!("${index}::text[]")).collect();
        let texts: Vec<_> = (0..key.len()).map(|it| format!("key_{it}")).collect();
        let equal = |(index, it): (usize, &KeyColumn)| {
            format!("{table}.{} = change.key_{index}::{}", it.name, it.sql_type)
        };
        let equal: Vec<_> = key.iter().enumerate().map(equal).collect();
        format!(
            "update {table} set {column} = change.new_value
             from unnest($1::bytea[], $2::bytea[], {}) as change (new_value, old_value, {})
             where {table}.{column} = change.old_value and {}",
            arrays.join(", "),
            texts.join(", "),
            equal.join(" and ")
        )
    }

    fn key_names(&self) -> String {
        self.key.iter().map(|it| it.name).collect::<Vec<_>>().join(", ")
    }

    fn key_values(&self) -> String {
        let value = |(index, it): (usize, &KeyColumn)| format!("${index}::text::{}", it.sql_type);
        (1..).zip(self.key).map(value).collect::<Vec<_>>().join(", ")
    }
}
