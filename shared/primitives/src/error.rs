//! Errors of RPCs, and their translation to gRPC statuses (AIP-193). No other code builds a status.

use std::{collections::HashMap, time::Duration};

use api::{check::Violations, error::Reason};
pub use tonic::Code;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

/// `ErrorInfo.domain` of every error of the suite.
pub const DOMAIN: &str = "tenantry.dev";

/// Result of a step of an RPC.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Result of an RPC handler.
pub type Reply<M> = Result<tonic::Response<M>, Status>;

/// Error of an RPC.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The credential is missing or not valid (UNAUTHENTICATED).
    #[error("{1}")]
    Unauthenticated(Reason, &'static str),
    /// The object, named by its noun, does not exist, or is hidden from the caller (NOT_FOUND).
    #[error("{0} not found")]
    NotFound(&'static str),
    /// The object is visible, but the caller lacks a permission on it (PERMISSION_DENIED).
    #[error("you need the permission {permission} to do this")]
    Denied {
        /// The missing permission.
        permission: String,
    },
    /// Fields of the request violate their rules; all violations are listed (INVALID_ARGUMENT).
    #[error("{}", describe(.0))]
    Invalid(Violations),
    /// A business rule refuses the call.
    #[error("{message}")]
    Refused {
        /// gRPC code.
        code: Code,
        /// Stable reason (`ErrorInfo.reason`).
        reason: Reason,
        /// One sentence for people: the problem, then the remedy.
        message: String,
        /// Values in the message, for programs (`ErrorInfo.metadata`).
        metadata: Vec<(&'static str, String)>,
    },
    /// A rate limit was reached (RESOURCE_EXHAUSTED with `RetryInfo`).
    #[error("{message}")]
    Limited {
        /// Stable reason (`ErrorInfo.reason`).
        reason: Reason,
        /// One sentence for people: the problem, then the remedy.
        message: String,
        /// Time until the limit admits another call.
        retry_after: Duration,
    },
    /// A dependency, named by the string, does not respond (UNAVAILABLE).
    #[error("{0} does not respond; retry later")]
    Unavailable(&'static str),
    /// Another service of the suite refused the call; its status is passed on unchanged.
    #[error("{}", .0.message())]
    Remote(Box<Status>),
    /// The database failed; its message is logged, not sent.
    #[error("internal error")]
    Database(#[from] sqlx::Error),
    /// A defect, or an unexpected failure; its message is logged, not sent.
    #[error("internal error")]
    Internal(#[from] anyhow::Error),
}

/// A business rule that can refuse a call.
pub trait Refusal: std::error::Error {
    /// gRPC code.
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }
    /// Stable reason (`ErrorInfo.reason`).
    fn reason(&self) -> Reason;
    /// Values in the message, for programs (`ErrorInfo.metadata`).
    fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![]
    }
    /// Time until the call may be repeated, if waiting helps.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

impl<R: Refusal> From<R> for Error {
    fn from(refusal: R) -> Self {
        if let Some(retry_after) = refusal.retry_after() {
            return Self::Limited {
                reason: refusal.reason(),
                message: refusal.to_string(),
                retry_after,
            };
        }
        Self::Refused {
            code: refusal.code(),
            reason: refusal.reason(),
            message: refusal.to_string(),
            metadata: refusal.metadata(),
        }
    }
}

/// Translates a violated constraint to the business rule that it enforces.
pub trait OnConstraint<T> {
    /// Replaces the error with `refusal` if the constraint `name` was violated.
    fn on_constraint<R: Refusal>(self, name: &str, refusal: R) -> Result<T>;
}

impl<T> OnConstraint<T> for Result<T, sqlx::Error> {
    fn on_constraint<R: Refusal>(self, name: &str, refusal: R) -> Result<T> {
        self.map_err(|error| match error {
            sqlx::Error::Database(it) if it.constraint() == Some(name) => refusal.into(),
            other => other.into(),
        })
    }
}

impl Error {
    /// One field of the request violates its rule.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![api::check::Violation {
            field: field.into(),
            description: description.into(),
        }])
    }

    /// The credential is malformed, unknown, expired or revoked.
    pub fn invalid_credential() -> Self {
        let message = "the credential is not valid or has expired; log in again";
        Self::Unauthenticated(Reason::InvalidCredential, message)
    }

    /// The object was changed, or is locked, by another call (ABORTED).
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Refused {
            code: Code::Aborted,
            reason: Reason::Conflict,
            message: message.into(),
            metadata: vec![],
        }
    }

    /// Reason that the caller receives.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unauthenticated(reason, _)
            | Self::Refused { reason, .. }
            | Self::Limited { reason, .. } => *reason,
            Self::NotFound(_) => Reason::NotFound,
            Self::Denied { .. } => Reason::MissingPermission,
            Self::Invalid(_) => Reason::InvalidField,
            Self::Unavailable(_) => Reason::DependencyUnavailable,
            Self::Database(error) => translate_database_error(error).1,
            Self::Remote(_) | Self::Internal(_) => Reason::Internal,
        }
    }
}

/// Builds a status with an `ErrorInfo` (AIP-193).
pub fn status(
    code: Code,
    reason: Reason,
    message: impl Into<String>,
    metadata: Vec<(&'static str, String)>,
) -> Status {
    Status::with_error_details(code, message, error_info(reason, metadata))
}

/// Builds the status UNAVAILABLE with a `RetryInfo`, for a server that cannot process a call in time.
pub fn overloaded(message: &str) -> Status {
    let retry_after = Duration::from_millis(100);
    let mut details = error_info(Reason::Overloaded, vec![]);
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::Unavailable, message, details)
}

fn error_info(reason: Reason, metadata: Vec<(&'static str, String)>) -> ErrorDetails {
    let mut metadata: HashMap<_, _> =
        metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let remedies = api::remedies(reason);
    if !remedies.is_empty() {
        metadata.insert("remedies".to_owned(), remedies.join(","));
    }
    let reason = reason.as_str_name().trim_start_matches("REASON_");
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

fn describe(violations: &Violations) -> String {
    let sentences: Vec<_> =
        violations.iter().map(|it| format!("{} {}", it.field, it.description)).collect();
    sentences.join("; ")
}

/// SQLSTATE of a write on a server that is read-only, for example one that is not the primary any more.
pub const READ_ONLY: &str = "25006";

/// Classes of SQLSTATEs of a server that cannot execute a correct statement: connection exceptions,
/// insufficient resources, operator intervention, and system errors (PostgreSQL, appendix A).
const OUTAGE_CLASSES: [&str; 4] = ["08", "53", "57", "58"];

/// True if a server reports by this SQLSTATE that it cannot execute a correct statement now.
fn is_outage(code: &str) -> bool {
    code == READ_ONLY || OUTAGE_CLASSES.iter().any(|it| code.starts_with(it))
}

/// Translates a database error. The driver's message is logged, not sent.
fn translate_database_error(error: &sqlx::Error) -> (Code, Reason, &'static str) {
    match error {
        sqlx::Error::Database(it) => match it.code().as_deref() {
            // Serialization failure, deadlock, lock timeout.
            Some("40001" | "40P01" | "55P03") => {
                (Code::Aborted, Reason::Conflict, "another call is changing this; retry")
            }
            Some(code) if is_outage(code) => (
                Code::Unavailable,
                Reason::DependencyUnavailable,
                "the database cannot execute this now; retry later",
            ),
            _ => (Code::Internal, Reason::Internal, "internal error"),
        },
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => (
            Code::Unavailable,
            Reason::DependencyUnavailable,
            "the database does not respond; retry later",
        ),
        _ => (Code::Internal, Reason::Internal, "internal error"),
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let reason = error.reason();
        match error {
            Error::Unauthenticated(..) => status(Code::Unauthenticated, reason, message, vec![]),
            Error::NotFound(noun) => {
                status(Code::NotFound, reason, message, vec![("resource", noun.to_owned())])
            }
            Error::Denied { permission } => {
                status(Code::PermissionDenied, reason, message, vec![("permission", permission)])
            }
            Error::Invalid(violations) => {
                let mut details = error_info(reason, vec![]);
                for it in violations {
                    details.add_bad_request_violation(it.field, it.description);
                }
                Status::with_error_details(Code::InvalidArgument, message, details)
            }
            Error::Refused { code, metadata, .. } => status(code, reason, message, metadata),
            Error::Limited { retry_after, .. } => {
                let mut details = error_info(reason, vec![]);
                details.set_retry_info(Some(retry_after));
                Status::with_error_details(Code::ResourceExhausted, message, details)
            }
            Error::Unavailable(name) => {
                status(Code::Unavailable, reason, message, vec![("dependency", name.to_owned())])
            }
            Error::Remote(status) => *status,
            Error::Database(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "database error");
                let (code, reason, message) = translate_database_error(&error);
                status(code, reason, message, vec![])
            }
            Error::Internal(error) => {
                tracing::error!(error = format!("{error:#}"), "internal error");
                status(Code::Internal, reason, message, vec![])
            }
        }
    }
}

/// An error with all its causes, for the log. The message alone of an [`Error`] is what callers may know.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |it| it.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Returns a translator of statuses from the service `name`: a refusal is passed on, a failed connection
/// becomes UNAVAILABLE.
pub fn remote(name: &'static str) -> impl Fn(Status) -> Error {
    move |status| match status.code() {
        Code::Unavailable | Code::Cancelled | Code::Unknown => {
            tracing::warn!(name, message = status.message(), "a service does not respond");
            Error::Unavailable(name)
        }
        _ => Error::Remote(Box::new(status)),
    }
}
