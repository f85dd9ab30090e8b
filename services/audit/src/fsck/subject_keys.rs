//! Check of the stored keys of people: each must be decryptable under the key of the deployment.

use chassis::{Db, Result};
use uuid::Uuid;

use super::Findings;
use crate::subject_key::{KeyVault, store};

/// Keys that are read at once.
const PAGE: i64 = 1_000;
/// Most keys that are listed.
const LISTED_MAX: usize = 1_000;

/// Adds the keys of people that cannot be decrypted to the findings.
pub(crate) async fn check(db: &Db, vault: &KeyVault, findings: &mut Findings) -> Result<()> {
    let mut position = Some(Uuid::nil());
    while let Some(after) = position {
        position = check_page(db, vault, after, findings).await?;
    }
    Ok(())
}

/// Checks the next keys after that of a person. Returns the person of the last one; `None` if there is no
/// more.
pub(super) async fn check_page(
    db: &Db,
    vault: &KeyVault,
    after: Uuid,
    findings: &mut Findings,
) -> Result<Option<Uuid>> {
    let keys = store::page(db, after, PAGE).await?;
    for key in keys.iter().filter(|it| !vault.can_decrypt(it)) {
        if findings.unreadable_keys.len() < LISTED_MAX {
            findings.unreadable_keys.push(format!(
                "person {}: the key cannot be decrypted; restore the row of audit.person from a backup",
                key.person
            ));
        }
    }
    Ok(keys.last().map(|it| it.person))
}
