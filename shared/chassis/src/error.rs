//! The only way an RPC fails.

use std::{collections::HashMap, time::Duration};

use api::{check::Violations, error::Reason};
pub use tonic::Code;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

/// `ErrorInfo.domain` of every error of the suite.
pub const DOMAIN: &str = "tenantry.dev";

/// Result of anything that an RPC does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an RPC answers.
pub type Reply<M> = Result<tonic::Response<M>, Status>;

/// Why an RPC failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No credential, or none that is good.
    #[error("{1}")]
    Unauthenticated(Reason, &'static str),
    /// Absent, or hidden from the caller.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// Visible, but the caller's role lacks the permission.
    #[error("you need the permission {permission} to do this")]
    Denied {
        /// The missing permission.
        permission: String,
    },
    /// Fields break their rules; all of them are listed.
    #[error("{}", describe(.0))]
    Invalid(Violations),
    /// A business rule says no.
    #[error("{message}")]
    Refused {
        /// gRPC code.
        code: Code,
        /// Stable reason.
        reason: Reason,
        /// One sentence for people.
        message: String,
        /// What the sentence mentions, for programs.
        metadata: Vec<(&'static str, String)>,
    },
    /// Too often.
    #[error("{message}")]
    Limited {
        /// Stable reason.
        reason: Reason,
        /// One sentence for people.
        message: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// Something that the call needs does not answer.
    #[error("{0} does not answer; retry later")]
    Unavailable(&'static str),
    /// Another service of the suite refused; its answer is passed on as it is.
    #[error("{}", .0.message())]
    Remote(Box<Status>),
    /// The database refused.
    #[error("internal error")]
    Database(#[from] sqlx::Error),
    /// Our fault; the details stay in the log.
    #[error("internal error")]
    Internal(#[from] anyhow::Error),
}

/// A business rule that can say no.
pub trait Refusal: std::error::Error {
    /// gRPC code.
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }
    /// Stable reason.
    fn reason(&self) -> Reason;
    /// What the sentence mentions, for programs.
    fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![]
    }
    /// When to come back, if it is a matter of time.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

impl<R: Refusal> From<R> for Error {
    fn from(refusal: R) -> Self {
        if let Some(retry_after) = refusal.retry_after() {
            let (reason, message) = (refusal.reason(), refusal.to_string());
            return Self::Limited { reason, message, retry_after };
        }
        Self::Refused {
            code: refusal.code(),
            reason: refusal.reason(),
            message: refusal.to_string(),
            metadata: refusal.metadata(),
        }
    }
}

/// Turns a violated constraint into the rule that it enforces.
pub trait OnConstraint<T> {
    /// Answers `refusal` if the constraint `name` was violated.
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
    /// One field is wrong.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        let (field, description) = (field.into(), description.into());
        Self::Invalid(vec![api::check::Violation { field, description }])
    }

    /// The credential is malformed, unknown, expired or revoked.
    pub fn bad_credential() -> Self {
        let message = "the credential is not valid, or no longer; log in again";
        Self::Unauthenticated(Reason::InvalidCredential, message)
    }

    /// Someone else changed or holds the object.
    pub fn conflict(message: impl Into<String>) -> Self {
        let (code, metadata) = (Code::Aborted, vec![]);
        Self::Refused { code, reason: Reason::Conflict, message: message.into(), metadata }
    }

    /// The reason that the caller will see.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unauthenticated(reason, _)
            | Self::Refused { reason, .. }
            | Self::Limited { reason, .. } => *reason,
            Self::NotFound(_) => Reason::NotFound,
            Self::Denied { .. } => Reason::MissingPermission,
            Self::Invalid(_) => Reason::InvalidField,
            Self::Unavailable(_) => Reason::DependencyUnavailable,
            Self::Database(error) => database(error).1,
            Self::Remote(_) | Self::Internal(_) => Reason::Internal,
        }
    }
}

/// A status that the suite made itself, always with an `ErrorInfo` (AIP-193).
pub fn status(
    code: Code,
    reason: Reason,
    message: impl Into<String>,
    metadata: Vec<(&'static str, String)>,
) -> Status {
    Status::with_error_details(code, message, info(reason, metadata))
}

/// `UNAVAILABLE` that tells when to come back.
pub(crate) fn overloaded() -> Status {
    let retry_after = Duration::from_millis(100);
    let mut details = info(Reason::Overloaded, vec![]);
    details.set_retry_info(Some(retry_after));
    let message = "the server is at its limit of calls in flight; retry after a back-off";
    Status::with_error_details(Code::Unavailable, message, details)
}

fn info(reason: Reason, metadata: Vec<(&'static str, String)>) -> ErrorDetails {
    let reason = reason.as_str_name().trim_start_matches("REASON_");
    let metadata: HashMap<_, _> = metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

fn describe(violations: &Violations) -> String {
    let each: Vec<_> =
        violations.iter().map(|it| format!("{} {}", it.field, it.description)).collect();
    each.join("; ")
}

/// What a database error means to the caller. The driver's text stays in the log.
fn database(error: &sqlx::Error) -> (Code, Reason, &'static str) {
    match error {
        sqlx::Error::Database(it) => match it.code().as_deref() {
            // Serialization failure, deadlock, lock timeout.
            Some("40001" | "40P01" | "55P03") => {
                (Code::Aborted, Reason::Conflict, "someone else is changing this; retry")
            }
            // Statement timeout, shutdown, crash recovery, too many connections, disk full.
            Some("57014" | "57P01" | "57P02" | "57P03" | "53300" | "53100") => (
                Code::Unavailable,
                Reason::DependencyUnavailable,
                "the database is busy; retry later",
            ),
            _ => (Code::Internal, Reason::Internal, "internal error"),
        },
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => (
            Code::Unavailable,
            Reason::DependencyUnavailable,
            "the database does not answer; retry later",
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
                let mut details = info(reason, vec![]);
                for it in violations {
                    details.add_bad_request_violation(it.field, it.description);
                }
                Status::with_error_details(Code::InvalidArgument, message, details)
            }
            Error::Refused { code, metadata, .. } => status(code, reason, message, metadata),
            Error::Limited { retry_after, .. } => {
                let mut details = info(reason, vec![]);
                details.set_retry_info(Some(retry_after));
                Status::with_error_details(Code::ResourceExhausted, message, details)
            }
            Error::Unavailable(what) => {
                status(Code::Unavailable, reason, message, vec![("dependency", what.to_owned())])
            }
            Error::Remote(status) => *status,
            Error::Database(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "database");
                let (code, reason, message) = database(&error);
                status(code, reason, message, vec![])
            }
            Error::Internal(error) => {
                tracing::error!(error = format!("{error:#}"), "internal error");
                status(Code::Internal, reason, message, vec![])
            }
        }
    }
}

/// The answer of another service: a refusal is passed on, silence becomes UNAVAILABLE.
pub fn remote(what: &'static str) -> impl Fn(Status) -> Error {
    move |status| match status.code() {
        Code::Unavailable | Code::Cancelled | Code::Unknown => {
            tracing::warn!(what, message = status.message(), "a service does not answer");
            Error::Unavailable(what)
        }
        _ => Error::Remote(Box::new(status)),
    }
}
