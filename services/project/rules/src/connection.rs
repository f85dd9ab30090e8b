//! Connections of an organization to other systems. Their secrets are sealed; settings are stored only after
//! a test with exactly these settings has passed (PL-24).

pub mod deploy_key;
pub mod dns;
pub mod git;
pub mod storage;

use api::error::Reason;
use chassis::{Code, Refusal};

/// Maximum number of connections of one kind of an organization.
pub const CONNECTIONS_MAX: i64 = 100;

/// Failure of a test.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TestFailure {
    /// Text of the server or of git, cleaned and without secrets.
    #[error(
        "the test of the connection failed: {0}; correct the settings, or the access on the server"
    )]
    Server(String),
    #[error(
        "the server has another host key than the connection; if the change is intended, update host_key of \
         the connection to the new key"
    )]
    HostKeyChanged,
    #[error(
        "connections to {address} are not allowed: {why}; use a public address, or have the operator add it \
         to --connection-exceptions"
    )]
    NotPublic { address: String, why: &'static str },
    #[error("the host {0} has no address; check the URL and its DNS records")]
    UnknownHost(String),
    #[error(
        "this server allows no connections to folders; use s3 or sftp, or have the operator set \
         --storage-folder"
    )]
    NoFolders,
}

impl Refusal for TestFailure {
    fn code(&self) -> Code {
        match self {
            Self::Server(_) | Self::HostKeyChanged => Code::FailedPrecondition,
            Self::NotPublic { .. } | Self::UnknownHost(_) | Self::NoFolders => {
                Code::InvalidArgument
            }
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Server(_) => Reason::ConnectionTestFailed,
            Self::HostKeyChanged => Reason::ConnectionHostKeyChanged,
            Self::NotPublic { .. } | Self::UnknownHost(_) | Self::NoFolders => {
                Reason::ConnectionTargetForbidden
            }
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Server(_) | Self::HostKeyChanged | Self::NoFolders => vec![],
            Self::NotPublic { address, why } => {
                vec![("address", address.clone()), ("why", (*why).to_owned())]
            }
            Self::UnknownHost(host) => vec![("address", host.clone())],
        }
    }
}

/// The storage of a connection refused an object. The text is cleaned and without secrets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the storage failed: {0}; test the connection, and correct its settings or the storage")]
pub struct StorageFailed(pub String);

impl Refusal for StorageFailed {
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }

    fn reason(&self) -> Reason {
        Reason::StorageFailed
    }
}

/// A project that uses a connection.
pub struct ConnectionUser {
    pub id: String,
    pub name: String,
}

/// Projects that use a connection.
#[derive(Default)]
pub struct ConnectionUsers {
    pub count: i64,
    /// The oldest of them, at most [`LISTED_USERS_MAX`].
    pub listed: Vec<ConnectionUser>,
}

/// An object of another service that uses a storage connection, for example an export of the audit log.
pub struct StorageConsumer {
    pub id: String,
    pub name: String,
}

/// Objects that use a storage connection.
#[derive(Default)]
pub struct StorageConsumers {
    pub count: i64,
    /// The oldest of them, at most [`LISTED_USERS_MAX`].
    pub listed: Vec<StorageConsumer>,
}

/// Largest number of projects or consumers that a refusal lists.
pub const LISTED_USERS_MAX: i64 = 20;

/// Refusals to create, change or delete a connection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the connection was changed by another call; read it again and repeat the change")]
    Stale,
    #[error("the organization has {0} connections, the maximum; delete one first")]
    Limit(i64),
    #[error(
        "the organization has {0} deploy keys that no connection uses, the maximum; use one of them"
    )]
    DeployKeyLimit(i64),
    #[error("{count} projects use the connection; give them another one first: {}", .names.join(", "))]
    InUse { count: i64, names: Vec<String>, ids: Vec<String> },
    #[error(
        "{count} exports of the audit log use the connection; delete them first: {}",
        .names.join(", ")
    )]
    StorageInUse { count: i64, names: Vec<String>, ids: Vec<String> },
}

impl Refused {
    /// `None`: no project uses the connection.
    fn in_use(users: ConnectionUsers) -> Option<Self> {
        let (ids, names) = users.listed.into_iter().map(|it| (it.id, it.name)).unzip();
        (users.count > 0).then_some(Self::InUse { count: users.count, names, ids })
    }

    /// `None`: nothing uses the connection.
    fn storage_in_use(consumers: StorageConsumers) -> Option<Self> {
        let (ids, names) = consumers.listed.into_iter().map(|it| (it.id, it.name)).unzip();
        (consumers.count > 0).then_some(Self::StorageInUse { count: consumers.count, names, ids })
    }
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Stale => Code::Aborted,
            Self::Limit(_) | Self::DeployKeyLimit(_) => Code::ResourceExhausted,
            Self::InUse { .. } | Self::StorageInUse { .. } => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> Reason {
        match self {
            Self::Stale => Reason::Conflict,
            Self::Limit(_) | Self::DeployKeyLimit(_) => Reason::ConnectionLimitReached,
            Self::InUse { .. } | Self::StorageInUse { .. } => Reason::ConnectionInUse,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Stale => vec![],
            Self::Limit(limit) | Self::DeployKeyLimit(limit) => vec![("limit", limit.to_string())],
            Self::InUse { count, ids, .. } => {
                vec![("projects", count.to_string()), ("project_ids", ids.join(","))]
            }
            Self::StorageInUse { count, ids, .. } => {
                vec![("exports", count.to_string()), ("export_ids", ids.join(","))]
            }
        }
    }
}
