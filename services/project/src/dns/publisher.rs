//! Publication of the records that environments need. Rows of `dns_record` are the desired records; an
//! attempt makes the DNS server agree with one of them. Failed attempts are repeated with a growing pause, so
//! a DNS server that was unreachable has the records after it is back.

use std::{sync::Arc, time::Duration};

use chassis::{Db, Result, Tx, foreign_text::clean_line};
use project_rules::{
    connection::dns::record::{DnsFailure, DnsRecord, State},
    variable::Vault,
};
use tokio_util::sync::CancellationToken;
use worker::{Progress, Schedule};

use super::dns_client::DnsClient;
use crate::store::{self, dns_record::DesiredRecord};

/// Longest pause between two searches for records whose attempt is due.
const INTERVAL: Duration = Duration::from_secs(2);

/// Time limit of an attempt, with the time in which it waits for others; less than its lease.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum length of a stored error, in bytes.
const ERROR_BYTES_MAX: usize = 1_000;

/// Stores a record that an environment needs; the worker publishes it after the commit. The caller has locked
/// the environment.
pub(crate) async fn desire_record(tx: &mut Tx, desired: &DesiredRecord) -> Result<DnsRecord> {
    let record = store::dns_record::desire(tx, desired).await?;
    tx.wake();
    Ok(record)
}

/// Publishes and removes records.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) db: Db,
    pub(crate) vault: Vault,
    pub(crate) dns: Arc<DnsClient>,
}

impl Publisher {
    /// Publishes or removes a leased record, and stores the result.
    pub(crate) async fn attempt(&self, record: &DnsRecord) -> Result<Result<(), DnsFailure>> {
        let result = self.change(record).await?;
        let failure = result.as_ref().err();
        let error = failure.map(ToString::to_string).unwrap_or_default();
        let error = clean_line(&error, ERROR_BYTES_MAX);
        let finish =
            async |tx: &mut Tx| store::dns_record::finish(tx, record, failure, &error).await;
        self.db.write_as_system("DNS record", finish).await?;
        Ok(result)
    }

    async fn change(&self, record: &DnsRecord) -> Result<Result<(), DnsFailure>> {
        let id = record.dns_connection_id;
        let connection = store::dns_connection::get(&self.db, record.org_id, id).await?;
        let settings = connection.settings(&self.vault)?;
        let owner = self.dns.owner(record.org_id, record.environment_id.to_string());
        let change = async {
            match record.state {
                State::Pending | State::Published => {
                    self.dns.publish(&settings, &record.record(), &owner).await
                }
                State::Removing => self.dns.remove(&settings, &record.record(), &owner).await,
            }
        };
        let result = tokio::time::timeout(ATTEMPT_TIMEOUT, Box::pin(change)).await;
        let late = |_| Err(DnsFailure::Server("too many changes are in progress".to_owned()));
        Ok(result.unwrap_or_else(late))
    }

    /// Attempts the records that are due, at the same time. A failed attempt is stored and does not end the
    /// step.
    async fn step(&self) -> anyhow::Result<Progress> {
        let due = self.db.write_as_system("DNS records", store::dns_record::lease_due).await?;
        let attempts = due.iter().map(|record| self.attempt(record));
        for result in futures::future::join_all(attempts).await {
            let _ = result?;
        }
        Ok(Progress::busy_if(!due.is_empty()))
    }

    /// Background job: attempts the records that are due.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let schedule = Schedule::woken_by(&self.db, INTERVAL);
        worker::run("DNS records".to_owned(), schedule, stop, || self.step()).await;
        Ok(())
    }
}
