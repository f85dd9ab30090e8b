//! DNS-01 challenges (RFC 8555, section 8.4) of runners: TXT records `_acme-challenge.<host name>`, with
//! which a certificate authority checks that a runner controls a host name of its environment.

use chassis::{Error, Result, Tx, clock::Duration};
use project_rules::{
    connection::dns::record::{DnsFailure, Record, RecordType},
    runner::AuthenticatedRunner,
    types::EnvironmentId,
};

use super::publisher::{Publisher, desire_record};
use crate::store::{
    self,
    dns_record::{DesiredRecord, Hostname},
};

/// Time to live of a challenge, in seconds.
const TTL: u32 = 60;

/// Time after which a challenge is removed, if the runner does not.
const EXPIRY: Duration = Duration::hours(1);

/// A host name of an environment of a runner.
pub(crate) struct Challenge {
    pub(crate) runner: AuthenticatedRunner,
    pub(crate) environment_id: EnvironmentId,
    /// In lower case, without a dot at its end.
    pub(crate) hostname: String,
}

impl Challenge {
    fn name(&self) -> String {
        format!("_acme-challenge.{}", self.hostname)
    }

    /// Refuses a host name that is none of the environment, and an environment of another server.
    async fn authorize(&self, tx: &mut Tx) -> Result<Hostname> {
        let (runner, environment_id) = (self.runner, self.environment_id);
        store::dns_record::find_hostname(tx, runner, environment_id, &self.hostname)
            .await?
            .ok_or(Error::NotFound("host name"))
    }

    /// Publishes the challenge. Its row is stored first, so that the worker removes it if this process ends.
    pub(crate) async fn set(&self, publisher: &Publisher, value: String) -> Result<()> {
        let store = async |tx: &mut Tx| {
            let hostname = self.authorize(tx).await?;
            let record = Record {
                name: self.name(),
                record_type: RecordType::Txt,
                value: value.clone(),
                ttl: TTL,
            };
            let desired = DesiredRecord {
                org_id: hostname.org_id,
                environment_id: hostname.environment_id,
                dns_connection_id: hostname.dns_connection_id,
                record,
                expires_at: Some(tx.now + EXPIRY),
            };
            let record = desire_record(tx, &desired).await?;
            if !store::dns_record::lease(tx, &record).await? {
                let text = "another change of the challenge is in progress; retry in a minute";
                return Err(DnsFailure::Server(text.to_owned()).into());
            }
            Ok(record)
        };
        let record = publisher.db.write_as_system("DNS challenge", store).await?;
        Ok(publisher.attempt(&record).await??)
    }

    /// Removes the challenge. If that fails, the worker repeats it.
    pub(crate) async fn clear(&self, publisher: &Publisher) -> Result<()> {
        let store = async |tx: &mut Tx| {
            let hostname = self.authorize(tx).await?;
            let removed =
                store::dns_record::remove(tx, &hostname, &self.name(), RecordType::Txt).await?;
            let Some(record) = removed else { return Ok(None) };
            let is_leased = store::dns_record::lease(tx, &record).await?;
            Ok(is_leased.then_some(record))
        };
        if let Some(record) = publisher.db.write_as_system("DNS challenge", store).await? {
            let _ = publisher.attempt(&record).await?;
        }
        Ok(())
    }
}
