//! SQL statements about records on DNS servers. An attempt to publish or remove a record leases its row, so
//! that no other attempt is in progress at the same time.

use chassis::{Db, OrgId, Result, Tx, clock::Duration, page::Page};
use project_rules::{
    connection::dns::{
        DnsConnection,
        record::{DnsFailure, DnsRecord, Record, RecordType, State},
    },
    runner::AuthenticatedRunner,
    types::{DnsConnectionId, DnsRecordId, EnvironmentId},
};
use sqlx::{query, query_as};
use time::OffsetDateTime;
use uuid::Uuid;

/// Longest duration of an attempt.
const LEASE: Duration = Duration::minutes(2);

/// Number of records that one step of the worker leases.
const BATCH: i64 = 8;

/// A record that an environment needs.
pub(crate) struct DesiredRecord {
    pub(crate) org_id: OrgId,
    pub(crate) environment_id: EnvironmentId,
    pub(crate) dns_connection_id: DnsConnectionId,
    pub(crate) record: Record,
    /// Time at which the record is removed; `None`: it stays.
    pub(crate) expires_at: Option<OffsetDateTime>,
}

/// A name of an environment, and the connection with its records.
pub(crate) struct Hostname {
    pub(crate) org_id: OrgId,
    pub(crate) environment_id: EnvironmentId,
    pub(crate) dns_connection_id: DnsConnectionId,
}

/// Selects rows of records: the statement before `returning`, the rest of a statement after `from
/// dns_record`, and its arguments.
macro_rules! dns_records {
    ($start:literal, $rest:literal $(, $argument:expr)* $(,)?) => {
        query_as!(
            DnsRecord,
            $start + "id, org_id, environment_id, dns_connection_id, name, record_type, value, ttl, state,
                    attempts, last_error, generation, expires_at, created_at, updated_at" + $rest
            $(, $argument)*
        )
    };
}

/// Stores a desired record, to be published. A record with its name and type on another connection is to be
/// removed.
pub(crate) async fn desire(tx: &mut Tx, desired: &DesiredRecord) -> Result<DnsRecord> {
    let DesiredRecord { org_id, environment_id, dns_connection_id, record, expires_at } = desired;
    query!(
        "update dns_record set state = 'removing', attempts = 0, last_error = '', next_attempt_at = $6,
             expires_at = null, generation = generation + 1, updated_at = $6
         where org_id = $1 and environment_id = $2 and name = $3 and record_type = $4
             and dns_connection_id <> $5 and state <> 'removing'",
        org_id.0,
        environment_id.0,
        record.name,
        record.record_type as _,
        dns_connection_id.0,
        tx.now
    )
    .execute(tx.conn())
    .await?;
    let stored = dns_records!(
        "insert into dns_record (id, org_id, environment_id, dns_connection_id, name, record_type, value, ttl,
             state, next_attempt_at, expires_at, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, 'pending', $9, $10, $9, $9)
         on conflict on constraint dns_record_name do update
             set value = excluded.value, ttl = excluded.ttl, state = 'pending', attempts = 0, last_error = '',
                 generation = dns_record.generation + 1, next_attempt_at = excluded.next_attempt_at,
                 expires_at = excluded.expires_at, updated_at = excluded.updated_at
         returning ",
        "",
        DnsRecordId::new().0,
        org_id.0,
        environment_id.0,
        dns_connection_id.0,
        record.name,
        record.record_type as _,
        record.value,
        i32::try_from(record.ttl).unwrap_or(i32::MAX),
        tx.now,
        *expires_at
    );
    Ok(stored.fetch_one(tx.conn()).await?)
}

/// Has the records of an environment removed by the worker after the commit. The caller has locked the
/// environment.
pub(crate) async fn remove_of_environment(
    tx: &mut Tx,
    org_id: OrgId,
    environment_id: EnvironmentId,
) -> Result<()> {
    query!(
        "update dns_record set state = 'removing', attempts = 0, last_error = '', next_attempt_at = $3,
             expires_at = null, generation = generation + 1, updated_at = $3
         where org_id = $1 and environment_id = $2 and state <> 'removing'",
        org_id.0,
        environment_id.0,
        tx.now
    )
    .execute(tx.conn())
    .await?;
    tx.wake();
    Ok(())
}

/// Has one record of an environment removed; returns it if there is one.
pub(crate) async fn remove(
    tx: &mut Tx,
    hostname: &Hostname,
    name: &str,
    record_type: RecordType,
) -> Result<Option<DnsRecord>> {
    let removed = dns_records!(
        "update dns_record set state = 'removing', attempts = 0, last_error = '', next_attempt_at = $5,
             expires_at = null, generation = generation + 1, updated_at = $5
         where org_id = $1 and environment_id = $2 and name = $3 and record_type = $4
         returning ",
        "",
        hostname.org_id.0,
        hostname.environment_id.0,
        name,
        record_type as _,
        tx.now
    );
    Ok(removed.fetch_optional(tx.conn()).await?)
}

/// Leases a record for an attempt. False: another attempt is in progress.
pub(crate) async fn lease(tx: &mut Tx, record: &DnsRecord) -> Result<bool> {
    let leased = query!(
        "update dns_record set leased_until = $3
         where org_id = $1 and id = $2 and (leased_until is null or leased_until <= $4)",
        record.org_id.0,
        record.id.0,
        tx.now + LEASE,
        tx.now
    );
    Ok(leased.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Leases the records whose next attempt is due, a limited number at once. Expired ones are to be removed.
pub(crate) async fn lease_due(tx: &mut Tx) -> Result<Vec<DnsRecord>> {
    // Records of all organizations (no org_id).
    let records = dns_records!(
        "update dns_record set leased_until = $2, attempts = attempts + 1,
             state = case when expires_at <= $1 then 'removing' else state end
         where id in (select id from dns_record
                      where next_attempt_at <= $1 and (leased_until is null or leased_until <= $1)
                      order by next_attempt_at limit $3 for update skip locked)
         returning ",
        "",
        tx.now,
        tx.now + LEASE,
        BATCH
    );
    Ok(records.fetch_all(tx.conn()).await?)
}

/// Stores the result of an attempt, and ends its lease. The result counts only if the record was not changed
/// since the attempt read it.
pub(crate) async fn finish(
    tx: &mut Tx,
    record: &DnsRecord,
    failure: Option<&DnsFailure>,
    error: &str,
) -> Result<()> {
    if failure.is_none() && record.state == State::Removing {
        query!(
            "delete from dns_record where org_id = $1 and id = $2 and generation = $3",
            record.org_id.0,
            record.id.0,
            record.generation
        )
        .execute(tx.conn())
        .await?;
    } else {
        let (state, next_attempt_at) = match failure {
            None => (State::Published, record.expires_at),
            Some(_) => (record.state, Some(tx.now + record.retry_delay())),
        };
        query!(
            "update dns_record set state = $4, attempts = $5, last_error = $6, next_attempt_at = $7,
                 updated_at = case when state = $4 then updated_at else $8 end
             where org_id = $1 and id = $2 and generation = $3",
            record.org_id.0,
            record.id.0,
            record.generation,
            state as _,
            if failure.is_some() { record.attempts.max(1) } else { 0 },
            error,
            next_attempt_at,
            tx.now
        )
        .execute(tx.conn())
        .await?;
    }
    query!(
        "update dns_record set leased_until = null where org_id = $1 and id = $2",
        record.org_id.0,
        record.id.0
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Finds a host name of an environment that runs on the server of a runner.
pub(crate) async fn find_hostname(
    tx: &mut Tx,
    runner: AuthenticatedRunner,
    environment_id: EnvironmentId,
    name: &str,
) -> Result<Option<Hostname>> {
    // The agent token names the server, and the server the environment (no org_id).
    let hostname = query_as!(
        Hostname,
        "select dns_record.org_id, dns_record.environment_id, dns_record.dns_connection_id
         from dns_record
         join environment on environment.id = dns_record.environment_id
             and environment.org_id = dns_record.org_id
         where environment.id = $1 and environment.server_id = $2 and dns_record.name = $3
             and dns_record.record_type in ('A', 'AAAA', 'CNAME') and dns_record.state <> 'removing'
         order by dns_record.id limit 1",
        environment_id.0,
        runner.server_id.0,
        name
    );
    Ok(hostname.fetch_optional(tx.conn()).await?)
}

/// Returns a page of the records of a connection, oldest first.
pub(crate) async fn list(
    db: &Db,
    connection: &DnsConnection,
    page: &Page,
) -> Result<Vec<DnsRecord>> {
    let records = dns_records!(
        "select ",
        " from dns_record where org_id = $1 and dns_connection_id = $2
           and id > coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid)
         order by id limit $4",
        connection.org_id.0,
        connection.id.0,
        page.after::<Uuid>()?,
        page.limit()
    );
    Ok(records.fetch_all(db.pool()).await?)
}
