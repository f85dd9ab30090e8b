//! Place of the objects of a storage connection, and the names of objects.

use std::fmt;

use url::Url;

use crate::repository::{Endpoint, Scheme};

/// Kind of storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bucket of S3-compatible storage.
    S3,
    /// Directory of an SFTP server.
    Sftp,
    /// Directory of the machine of the project service.
    Folder,
}

chassis::text_column!(Kind { S3 = "s3", Sftp = "sftp", Folder = "folder" });

/// Region of requests to a bucket without one.
pub(super) const DEFAULT_REGION: &str = "us-east-1";

/// Port of SFTP servers without one.
pub(super) const SFTP_PORT: u16 = 22;

/// Place of the objects of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    S3(S3Location),
    Sftp(SftpLocation),
    Folder(FolderLocation),
}

/// Bucket of S3-compatible storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Location {
    /// Scheme, host and port of the server.
    pub endpoint: Endpoint,
    pub region: String,
    pub bucket: String,
    /// Beginning of the names of all objects.
    pub prefix: ObjectPath,
    pub access_key_id: String,
    /// The bucket is named in the path of URLs, not in the host name.
    pub path_style: bool,
}

/// Directory of an SFTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SftpLocation {
    /// Host and port of the server, with the scheme `ssh`.
    pub endpoint: Endpoint,
    pub username: String,
    /// Absolute, or from the home directory; empty for the home directory.
    pub path: String,
}

/// Directory below the directory of the organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderLocation {
    pub path: ObjectPath,
}

impl S3Location {
    /// URL of the server.
    pub fn url(&self) -> Option<Url> {
        Url::parse(&self.endpoint.to_string()).ok()
    }
}

impl Location {
    pub fn kind(&self) -> Kind {
        match self {
            Self::S3(_) => Kind::S3,
            Self::Sftp(_) => Kind::Sftp,
            Self::Folder(_) => Kind::Folder,
        }
    }

    /// Server that receives the secret; empty for a folder.
    pub fn server_url(&self) -> String {
        match self {
            Self::S3(it) => it.endpoint.to_string(),
            Self::Sftp(it) => it.endpoint.to_string(),
            Self::Folder(_) => String::new(),
        }
    }

    /// Access key id, or name of the account; empty for a folder.
    pub fn username(&self) -> &str {
        match self {
            Self::S3(it) => &it.access_key_id,
            Self::Sftp(it) => &it.username,
            Self::Folder(_) => "",
        }
    }

    /// Prefix of the objects, or directory.
    pub fn path(&self) -> &str {
        match self {
            Self::S3(it) => it.prefix.as_str(),
            Self::Sftp(it) => &it.path,
            Self::Folder(it) => it.path.as_str(),
        }
    }
}

/// Maximum length of the name of an object, in bytes.
const PATH_BYTES_MAX: usize = 700;

/// Maximum length of a part of a path, in bytes: the limit of file systems, without the ending of temporary
/// files.
const PART_BYTES_MAX: usize = 200;

/// True for a character of a part of a path.
fn is_allowed(it: char) -> bool {
    it.is_ascii_alphanumeric() || "._=-".contains(it)
}

/// Relative path: parts of letters, digits and `._=-`, with `/` between them. No part begins with a dot, so
/// none is `..`, a hidden file or a temporary one. Empty for no parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectPath(String);

impl ObjectPath {
    /// Parses a path; a `/` at its end is removed. `None` if it is not valid.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let text = text.strip_suffix('/').unwrap_or(text);
        let is_part = |part: &str| {
            let is_length_valid = (1..=PART_BYTES_MAX).contains(&part.len());
            is_length_valid && !part.starts_with('.') && part.chars().all(is_allowed)
        };
        let is_valid = text.len() <= PATH_BYTES_MAX && text.split('/').all(is_part);
        is_valid.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parts of the path.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|it| !it.is_empty())
    }

    /// Appends another path.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        match (self.0.is_empty(), other.0.is_empty()) {
            (true, _) => other.clone(),
            (_, true) => self.clone(),
            (false, false) => Self(format!("{}/{}", self.0, other.0)),
        }
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Server of an S3 endpoint: `https://host:port` or `http://host:port`, without a path.
pub(super) fn s3_endpoint(url: &str) -> Option<Endpoint> {
    let url = url.strip_suffix('/').unwrap_or(url);
    let endpoint = Endpoint::of(url)?;
    let (scheme, authority) = url.split_once("://")?;
    let is_server = !authority.contains(['/', '?', '#', '@', '\\']);
    let is_http = endpoint.scheme != Scheme::Ssh && scheme == endpoint.scheme.as_str();
    (is_server && is_http && endpoint.resolvable_host().is_some()).then_some(endpoint)
}

/// Server of an SFTP host; port 0 means 22.
pub(super) fn sftp_endpoint(host: &str, port: u16) -> Option<Endpoint> {
    let port = if port == 0 { SFTP_PORT } else { port };
    let endpoint = Endpoint { scheme: Scheme::Ssh, host: host.to_ascii_lowercase(), port };
    // ssh would read it as an option.
    let is_option = host.starts_with('-');
    (!is_option && endpoint.resolvable_host().is_some()).then_some(endpoint)
}

/// True for a path of an SFTP server: absolute, or from the home directory. Parts have the characters of
/// [`ObjectPath`], and none is `.` or `..`.
pub(super) fn is_sftp_path(path: &str) -> bool {
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(is_allowed);
    let relative = path.strip_prefix('/').unwrap_or(path);
    let relative = relative.strip_suffix('/').unwrap_or(relative);
    relative.is_empty() || relative.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_no_part_that_leaves_a_directory() {
        for good in ["", "a", "a/b/", "log/example.com/date=2026-11-01/part-0-9.ndjson.gz"] {
            let path = ObjectPath::parse(good).unwrap();
            assert_eq!(path.as_str(), good.trim_end_matches('/'));
        }
        for bad in
            ["/", "/a", "a//b", "..", "a/../b", ".hidden", "a/./b", "a\\b", "a b", "ä", "a\0"]
        {
            assert_eq!(ObjectPath::parse(bad), None, "{bad}");
        }
        assert_eq!(ObjectPath::parse(&"a".repeat(PART_BYTES_MAX + 1)), None);
        let (a, empty) = (ObjectPath::parse("a").unwrap(), ObjectPath::default());
        assert_eq!(a.join(&a).as_str(), "a/a");
        assert_eq!(a.join(&empty), a);
        assert_eq!(empty.join(&a), a);
    }

    #[test]
    fn a_path_of_an_sftp_server_is_absolute_or_from_the_home_directory() {
        for good in ["", "/", "/srv/files/", "files", ".files/a"] {
            assert!(is_sftp_path(good), "{good}");
        }
        for bad in ["..", "a/../b", "/./a", "a//b", "//a", "a b", "~"] {
            assert!(!is_sftp_path(bad), "{bad}");
        }
    }

    #[test]
    fn an_endpoint_is_a_server_without_a_path() {
        for (url, server) in [
            ("https://s3.example.com", "https://s3.example.com"),
            ("https://S3.example.com:443/", "https://s3.example.com"),
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ] {
            assert_eq!(s3_endpoint(url).unwrap().to_string(), server, "{url}");
        }
        for bad in [
            "s3.example.com",
            "ssh://s3.example.com",
            "https://s3.example.com/path",
            "https://s3.example.com?x",
            "https://user:password@s3.example.com",
            "https://2130706433",
        ] {
            assert_eq!(s3_endpoint(bad), None, "{bad}");
        }
        assert_eq!(
            sftp_endpoint("Files.example.com", 0).unwrap().to_string(),
            "ssh://files.example.com"
        );
        assert_eq!(sftp_endpoint("-oProxyCommand", 0), None);
    }
}
