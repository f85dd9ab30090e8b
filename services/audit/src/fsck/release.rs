//! Quarantines and the stop of signing in the result of a check, and their release after a repair.

use chassis::{Db, Result, Tx};

use super::Findings;
use crate::integrity::store::{self, Quarantine};

/// Adds the logs in quarantine and the stop of signing to the findings.
pub(crate) async fn list_restrictions(
    db: &Db,
    log_name: &str,
    findings: &mut Findings,
) -> Result<()> {
    for Quarantine { org_id, cause, detail, since } in store::quarantines(db).await? {
        findings
            .restrictions
            .push(format!("tree {org_id} is in quarantine since {since}: {cause}: {detail}"));
    }
    if let Some(stop) = store::stop(db, log_name).await? {
        let since = stop.since;
        findings.restrictions.push(format!("signing is stopped since {since}: {}", stop.detail));
    }
    Ok(())
}

/// Releases the logs from quarantine whose trees have no differences. If no tree has any, lifts the stop of
/// signing, too.
pub(crate) async fn release_intact(db: &Db, log_name: &str, findings: &mut Findings) -> Result<()> {
    for Quarantine { org_id, .. } in store::quarantines(db).await? {
        if findings.damaged.contains_key(&org_id) {
            continue;
        }
        let release = async |tx: &mut Tx| store::delete_quarantine(tx, org_id).await;
        if db.write_as_system("fsck", release).await? {
            findings.released.push(format!("tree {org_id}"));
        }
    }
    if findings.damaged.is_empty() {
        let release = async |tx: &mut Tx| store::delete_stop(tx, log_name).await;
        if db.write_as_system("fsck", release).await? {
            findings.released.push("signing".to_owned());
        }
    }
    Ok(())
}
