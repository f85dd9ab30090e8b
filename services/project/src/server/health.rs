//! Background update of the health of servers.

use chassis::{Result, Tx};
use project_rules::server::{Server, health::Health};

use crate::store;

/// Updates the health of servers whose heartbeats are missing.
pub(crate) async fn update_health(tx: &mut Tx) -> Result<()> {
    for server in store::server::lock_overdue(tx).await? {
        let health = Health::at(server.last_seen_at, tx.now);
        if health == server.health {
            continue;
        }
        let after = Server { health, ..server.clone() };
        store::server::update_status(tx, &after).await?;
        tracing::warn!(server = %after.id, ?health, "the runner of a server sends no heartbeats");
        if let Some(changed) = after.health_changed(&server) {
            tx.emit(changed);
        }
    }
    Ok(())
}
