//! Parts of the AdminService that services provide.

use std::{sync::Arc, time::Duration};

use chassis::{Result, UserId};
use time::OffsetDateTime;
use uuid::Uuid;

/// Parts of the AdminService that the services of a process provide; `None` without the service.
#[derive(Clone, Default)]
pub(crate) struct Operations {
    pub(crate) log_checks: Option<Arc<dyn LogChecks>>,
    pub(crate) account_sessions: Option<Arc<dyn AccountSessions>>,
}

/// Checks of the whole audit log.
#[tonic::async_trait]
pub trait LogChecks: Send + Sync {
    /// Returns the schedule and the results of the checks.
    async fn integrity(&self) -> Result<LogIntegrity>;
    /// Starts a check. Returns false if one is running.
    async fn start_check(&self) -> Result<bool>;
}

/// Schedule and results of the checks of the audit log.
pub struct LogIntegrity {
    /// Time between the starts of two checks; `None` if none is started by time.
    pub interval: Option<Duration>,
    /// Start of the next check; `None` while one runs, or if none is started by time.
    pub next_at: Option<OffsetDateTime>,
    /// Checks, the newest one first.
    pub runs: Vec<LogCheck>,
    /// Findings of the newest completed check, one sentence each.
    pub findings: Vec<String>,
    /// Logs in quarantine and the stop of signing, one sentence each.
    pub restrictions: Vec<String>,
}

/// A check of the whole audit log.
pub struct LogCheck {
    /// Start.
    pub started_at: OffsetDateTime,
    /// End; `None` while the check runs.
    pub ended_at: Option<OffsetDateTime>,
    /// Number of checked trees.
    pub trees: i64,
    /// Number of checked entries.
    pub entries: i64,
    /// Number of checked checkpoints.
    pub checkpoints: i64,
    /// Number of differences and unreadable keys.
    pub finding_count: i64,
    /// Cause for which the check did not complete; empty if it did.
    pub error: String,
}

/// Sessions of accounts, for support.
#[tonic::async_trait]
pub trait AccountSessions: Send + Sync {
    /// Returns the accounts with an id or an e-mail address: one, or several with an unconfirmed address.
    async fn find_accounts(&self, id_or_email: &str) -> Result<Vec<UserId>>;
    /// Returns at most `limit` sessions of an account that have not ended, the newest one first.
    async fn list(&self, account: UserId, limit: i64) -> Result<Vec<AccountSession>>;
    /// Ends a session of an account. Fails with [`chassis::Error::NotFound`] if it has ended.
    async fn end(&self, account: UserId, session_id: Uuid) -> Result<()>;
    /// Ends every session of an account. Returns their number.
    async fn end_all(&self, account: UserId) -> Result<i32>;
}

/// A session of an account.
pub struct AccountSession {
    /// Id.
    pub id: Uuid,
    /// Time of the sign-in.
    pub created_at: OffsetDateTime,
    /// Time of the last use, to the minute.
    pub last_used_at: OffsetDateTime,
    /// Latest end.
    pub expires_at: OffsetDateTime,
    /// Network address of the sign-in.
    pub address: String,
    /// Program of the sign-in, as it named itself.
    pub user_agent: String,
}
