//! The connection of a transaction, which is not reused before the transaction has ended.

use sqlx::{PgConnection, Postgres, pool::PoolConnection};

/// A connection on which a transaction is open. If it is dropped before the transaction has ended, because
/// its future was dropped, the connection is closed: back in the pool, it would run the writes of its next
/// user inside the abandoned transaction (sqlx issue 4385).
pub(super) struct TxConnection {
    connection: Option<PoolConnection<Postgres>>,
    /// Injected fault: such a connection goes back to the pool instead.
    reuse_open_transactions: bool,
}

impl TxConnection {
    pub(super) fn new(connection: PoolConnection<Postgres>, reuse_open_transactions: bool) -> Self {
        Self { connection: Some(connection), reuse_open_transactions }
    }

    pub(super) fn get(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("a transaction has its connection until it has ended")
    }

    pub(super) fn return_to_pool(&mut self) {
        self.connection = None;
    }
}

impl Drop for TxConnection {
    fn drop(&mut self) {
        if self.reuse_open_transactions {
            return;
        }
        if let Some(connection) = &mut self.connection {
            connection.close_on_drop();
        }
    }
}
