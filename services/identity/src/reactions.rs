//! What this service does when something happened elsewhere.

use api::project as pb;
use chassis::{Result, Tx};

use crate::{organization, project_access::store};

/// A project that never came to be takes no place and is nobody's.
pub(crate) async fn project_abandoned(tx: &mut Tx, event: pb::ProjectAbandoned) -> Result<()> {
    let (org_id, project_id) = (event.org_id.parse()?, event.project_id.parse()?);
    organization::store::lock(tx, org_id).await?;
    store::delete_project(tx, org_id, project_id).await?;
    organization::store::bump(tx, org_id).await?;
    Ok(())
}
