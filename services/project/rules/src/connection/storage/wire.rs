//! Conversion between messages of the contract and storage connections.

use api::{
    check::Violation,
    project::{
        self as pb, create_storage_connection_request::Storage as NewStorage,
        storage_connection::Storage, update_storage_connection_request::Storage as ChangedStorage,
    },
};
use chassis::{Error, Result, mask, ssh_key::fingerprint, timestamp};

use super::{
    Draft, FolderLocation, Kind, Location, ObjectPath, Patch, S3Location, SftpLocation,
    StorageConnection, location,
};
use crate::{repository::Endpoint, types::parse_optional_id};

/// Requirement of paths.
const PATH_RULE: &str = "must have parts of letters, digits and ._=- with / between them, none of which \
     begins with a dot";

/// Requirement of paths of SFTP servers.
const SFTP_PATH_RULE: &str = "must have parts of letters, digits and ._=- with / between them, none of which \
     is . or ..";

impl From<&StorageConnection> for pb::StorageConnection {
    fn from(it: &StorageConnection) -> Self {
        Self {
            id: it.id.into(),
            org_id: it.org_id.into(),
            name: it.name.clone(),
            storage: Some(storage(it)),
            public_key: it.public_key.clone(),
            host_key_fingerprint: fingerprint(&it.host_key),
            default: it.is_default,
            last_test_time: Some(timestamp(it.tested_at)),
            last_test_error: it.test_error.clone(),
            secret_update_time: (it.kind != Kind::Folder).then(|| timestamp(it.secret_updated_at)),
            creator_id: it.creator_id.into(),
            create_time: Some(timestamp(it.created_at)),
            update_time: Some(timestamp(it.updated_at)),
            etag: it.etag(),
        }
    }
}

fn storage(it: &StorageConnection) -> Storage {
    match it.kind {
        Kind::S3 => Storage::S3(pb::S3Storage {
            endpoint: it.server_url.clone(),
            region: it.region.clone(),
            bucket: it.bucket.clone(),
            prefix: it.path.clone(),
            access_key_id: it.username.clone(),
            path_style: it.path_style,
        }),
        Kind::Sftp => {
            let endpoint = Endpoint::of(&it.server_url);
            Storage::Sftp(pb::SftpStorage {
                host: endpoint.as_ref().map(|it| it.host.clone()).unwrap_or_default(),
                port: endpoint.map_or(0, |it| it.port.into()),
                username: it.username.clone(),
                path: it.path.clone(),
                host_key: it.host_key.clone(),
            })
        }
        Kind::Folder => Storage::Folder(pb::FolderStorage { path: it.path.clone() }),
    }
}

/// Collects the violations of a request.
#[derive(Default)]
struct Checks(Vec<Violation>);

impl Checks {
    /// Adds a violation if the value is missing.
    fn require<T>(&mut self, field: &str, value: Option<T>, description: &str) -> Option<T> {
        if value.is_none() {
            let (field, description) = (field.to_owned(), description.to_owned());
            self.0.push(Violation { field, description });
        }
        value
    }

    /// Returns the value, which is `Some` if there is no violation.
    fn finish<T>(self, value: Option<T>) -> Result<T> {
        value.filter(|_| self.0.is_empty()).ok_or(Error::Invalid(self.0))
    }

    fn s3(&mut self, it: &pb::S3Storage) -> Option<Location> {
        let endpoint = location::s3_endpoint(&it.endpoint);
        let description =
            "must be https://host or https://host:port, with the host in its usual form";
        let endpoint = self.require("s3.endpoint", endpoint, description);
        let prefix = self.require("s3.prefix", ObjectPath::parse(&it.prefix), PATH_RULE);
        let is_region_empty = it.region.is_empty();
        let region = if is_region_empty { location::DEFAULT_REGION } else { &it.region };
        Some(Location::S3(S3Location {
            endpoint: endpoint?,
            region: region.to_owned(),
            bucket: it.bucket.clone(),
            prefix: prefix?,
            access_key_id: it.access_key_id.clone(),
            path_style: it.path_style,
        }))
    }

    fn sftp(&mut self, it: &pb::SftpStorage) -> Option<Location> {
        let endpoint = u16::try_from(it.port).ok();
        let endpoint = endpoint.and_then(|port| location::sftp_endpoint(&it.host, port));
        let description =
            "must be a host name without a dot at its end, or an IP address in its usual form";
        let endpoint = self.require("sftp.host", endpoint, description);
        let is_path = location::is_sftp_path(&it.path).then_some(());
        let path = self.require("sftp.path", is_path, SFTP_PATH_RULE);
        path.and(endpoint).map(|endpoint| {
            Location::Sftp(SftpLocation {
                endpoint,
                username: it.username.clone(),
                path: it.path.clone(),
            })
        })
    }

    fn folder(&mut self, it: &pb::FolderStorage) -> Option<Location> {
        let path = self.require("folder.path", ObjectPath::parse(&it.path), PATH_RULE)?;
        Some(Location::Folder(FolderLocation { path }))
    }
}

impl Draft {
    /// Converts a request. Returns all violations at once.
    pub fn from_request(it: &pb::CreateStorageConnectionRequest) -> Result<Self> {
        let mut checks = Checks::default();
        let storage = checks.require("storage", it.storage.as_ref(), "must be s3, sftp or folder");
        let location = storage.and_then(|storage| match storage {
            NewStorage::S3(it) => checks.s3(it),
            NewStorage::Sftp(it) => checks.sftp(it),
            NewStorage::Folder(it) => checks.folder(it),
        });
        let (needs_secret, needs_key) = match &it.storage {
            Some(NewStorage::S3(_)) => (true, false),
            Some(NewStorage::Sftp(_)) => (false, true),
            _ => (false, false),
        };
        let must_be = |is_needed: bool, needed: &'static str| {
            if is_needed { needed } else { "must be empty for this storage" }
        };
        let has_secret = !it.secret_access_key.is_empty();
        let is_secret_valid = (has_secret == needs_secret).then_some(());
        let description = must_be(needs_secret, "must be the secret of the access key");
        checks.require("secret_access_key", is_secret_valid, description);
        let has_key = !it.deploy_key_id.is_empty();
        let is_key_valid = (has_key == needs_key).then_some(());
        let description = must_be(needs_key, "must be the id of a key of CreateDeployKey");
        checks.require("deploy_key_id", is_key_valid, description);
        let host_key = match &it.storage {
            Some(NewStorage::Sftp(sftp)) => sftp.host_key.clone(),
            _ => String::new(),
        };
        Ok(Self {
            name: it.name.trim().to_owned(),
            location: checks.finish(location)?,
            secret_access_key: it.secret_access_key.clone(),
            deploy_key_id: parse_optional_id(&it.deploy_key_id)?,
            host_key,
        })
    }
}

/// Fields that an update mask may name.
const UPDATABLE_FIELDS: [&str; 6] =
    ["name", "s3", "sftp", "folder", "secret_access_key", "deploy_key_id"];

impl Patch {
    /// Converts a request.
    pub fn from_request(it: &pb::UpdateStorageConnectionRequest) -> Result<Self> {
        let paths = mask::paths(it.update_mask.as_ref(), &UPDATABLE_FIELDS)?;
        let is_named = |path: &str| paths.contains(&path);
        let mut checks = Checks::default();
        if is_named("name") {
            let name = Some(it.name.trim()).filter(|it| !it.is_empty());
            checks.require("name", name, "must not be empty");
        }
        let mut patch = Self::default();
        for kind in ["s3", "sftp", "folder"].into_iter().filter(|kind| is_named(kind)) {
            let location = match (kind, &it.storage) {
                ("s3", Some(ChangedStorage::S3(it))) => checks.s3(it),
                ("sftp", Some(ChangedStorage::Sftp(it))) => {
                    patch.host_key = Some(it.host_key.clone()).filter(|it| !it.is_empty());
                    checks.sftp(it)
                }
                ("folder", Some(ChangedStorage::Folder(it))) => checks.folder(it),
                _ => checks.require(kind, None, "must be set, because update_mask names it"),
            };
            patch.location = location;
        }
        let deploy_key_id = parse_optional_id(&it.deploy_key_id)?;
        let secret = is_named("secret_access_key").then(|| it.secret_access_key.clone());
        checks.finish(Some(Self {
            name: is_named("name").then(|| it.name.trim().to_owned()),
            secret_access_key: secret.filter(|it| !it.is_empty()),
            deploy_key_id: deploy_key_id.filter(|_| is_named("deploy_key_id")),
            ..patch
        }))
    }
}
