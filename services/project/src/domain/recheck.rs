//! Background job: checks the proofs of verified domains once a day.

use std::{sync::Arc, time::Duration};

use chassis::{Db, Error, Result, Tx};
use project_rules::domain::{Domain, State, proof::Finding};
use tokio_util::sync::CancellationToken;
use worker::{Progress, Schedule};

use super::checker::DomainChecker;
use crate::store;

/// Pause between two searches for domains whose check is due.
const INTERVAL: Duration = Duration::from_secs(5);

/// Records the result of a check. A VERIFIED domain whose proof is absent for seven days becomes PENDING.
pub(super) async fn record(db: &Db, domain: &Domain, finding: &Finding) -> Result<()> {
    let record = async |tx: &mut Tx| {
        let mut domain = store::domain::lock(tx, domain.project_ref(), domain.id).await?;
        match finding {
            Finding::Proven(proof) => domain.record_proof(*proof, tx.now),
            Finding::Unknown(error) => domain.record_error(error, tx.now),
            Finding::Absent(found) if domain.state == State::Pending => {
                domain.record_error(found, tx.now);
            }
            Finding::Absent(found) => {
                if domain.record_absence(found, tx.now) {
                    let unverified = domain.unverify(found, tx.now);
                    store::domain::update(tx, unverified).await?;
                    return Ok(());
                }
            }
        }
        let is_conclusive = !matches!(finding, Finding::Unknown(_));
        store::domain::update_check(tx, &domain, is_conclusive).await
    };
    match db.write_as_system("domain check", record).await {
        // It was removed meanwhile.
        Err(Error::NotFound(_)) => Ok(()),
        result => result,
    }
}

async fn check(db: &Db, checker: &DomainChecker, domain: &Domain) -> Result<()> {
    let targets = store::domain::targets(db, domain.org_id, domain.environment_id).await;
    let targets = match targets {
        // The environment was destroyed meanwhile.
        Err(Error::NotFound(_)) => return Ok(()),
        targets => targets?,
    };
    record(db, domain, &checker.check(domain, &targets).await).await
}

/// Background job: checks the domains that are due.
pub(crate) async fn run(
    db: Db,
    checker: Arc<DomainChecker>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let step = || async {
        let due = db.write_as_system("domain checks", store::domain::take_due).await?;
        let checks = due.iter().map(|domain| check(&db, &checker, domain));
        for result in futures::future::join_all(checks).await {
            result?;
        }
        Ok(Progress::busy_if(!due.is_empty()))
    };
    worker::run("domains".to_owned(), Schedule::every(INTERVAL), stop, step).await;
    Ok(())
}
