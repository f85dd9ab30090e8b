//! Client of a bucket of S3-compatible storage.

use std::{error::Error, time::Duration};

use project_rules::{
    connection::{
        TestFailure,
        storage::{ObjectPath, S3Location},
    },
    repository::Endpoint,
};
use reqwest::{Method, Response, StatusCode};
use rusty_s3::{Credentials, S3Action, UrlStyle, actions::ListObjectsV2};

use super::client::{Failure, OBJECT_BYTES_MAX};
use crate::connection::address::AddressChecker;

/// Validity of the signature of a request.
const SIGNATURE_VALIDITY: Duration = Duration::from_secs(300);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum size of a list or an error, in bytes.
const XML_BYTES_MAX: usize = 1 << 20;

/// A bucket, and the credential for it.
pub(crate) struct Bucket {
    bucket: rusty_s3::Bucket,
    credentials: Credentials,
    prefix: ObjectPath,
    client: reqwest::Client,
    /// Is masked in messages.
    secret: String,
}

impl Bucket {
    /// Checks the addresses of the bucket, and opens a client that connects to them only.
    pub(super) async fn open(
        location: &S3Location,
        secret: &str,
        addresses: &AddressChecker,
    ) -> Result<Self, TestFailure> {
        let failure = |text: String| TestFailure::Server(text);
        let url = location.url().ok_or_else(|| failure("the endpoint is not a URL".to_owned()))?;
        let style = if location.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let (name, region) = (location.bucket.clone(), location.region.clone());
        let bucket = rusty_s3::Bucket::new(url, style, name, region);
        let bucket = bucket.map_err(|error| {
            failure(format!(
                "the name of the bucket cannot be a host name ({error}); set path_style"
            ))
        })?;
        // The host of the bucket is that of the endpoint, or below it.
        let endpoint = Endpoint::of(bucket.base_url().as_str());
        let endpoint = endpoint.ok_or_else(|| failure("the bucket has no host".to_owned()))?;
        let client = addresses.http_client(&endpoint).await?;
        let client = client.connect_timeout(CONNECT_TIMEOUT).timeout(REQUEST_TIMEOUT).build();
        Ok(Self {
            bucket,
            credentials: Credentials::new(&location.access_key_id, secret),
            prefix: location.prefix.clone(),
            client: client.map_err(|error| failure(error_text(&error)))?,
            secret: secret.to_owned(),
        })
    }

    fn key(&self, key: &ObjectPath) -> String {
        self.prefix.join(key).as_str().to_owned()
    }

    pub(super) async fn put(&self, key: &ObjectPath, data: Vec<u8>) -> Result<(), Failure> {
        let key = self.key(key);
        let action = self.bucket.put_object(Some(&self.credentials), &key);
        let response = self.send(Method::PUT, &action, data).await?;
        self.require_success(response).await.map(|_| ())
    }

    pub(super) async fn get(&self, key: &ObjectPath) -> Result<Option<Vec<u8>>, Failure> {
        let key = self.key(key);
        let action = self.bucket.get_object(Some(&self.credentials), &key);
        let response = self.send(Method::GET, &action, vec![]).await?;
        if response.status() == StatusCode::NOT_FOUND {
            let error = self.error(response).await;
            // Not for a bucket that does not exist.
            return if error.contains("NoSuchBucket") { Err(error) } else { Ok(None) };
        }
        let response = self.require_success(response).await?;
        read(response, OBJECT_BYTES_MAX + 1).await.map(Some)
    }

    pub(super) async fn list(&self, prefix: &ObjectPath) -> Result<Vec<String>, Failure> {
        let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
        action.with_prefix(self.key(prefix));
        let response = self.send(Method::GET, &action, vec![]).await?;
        let body = read(self.require_success(response).await?, XML_BYTES_MAX).await?;
        let text = String::from_utf8_lossy(&body);
        let listed = ListObjectsV2::parse_response(&text);
        let listed = listed.map_err(|error| format!("the list is not valid: {error}"))?;
        let prefix = self.prefix.as_str();
        let relative = |key: String| {
            let rest = key.strip_prefix(prefix)?;
            Some(rest.strip_prefix('/').unwrap_or(rest).to_owned())
        };
        Ok(listed.contents.into_iter().filter_map(|it| relative(it.key)).collect())
    }

    pub(super) async fn delete(&self, key: &ObjectPath) -> Result<(), Failure> {
        let key = self.key(key);
        let action = self.bucket.delete_object(Some(&self.credentials), &key);
        let response = self.send(Method::DELETE, &action, vec![]).await?;
        self.require_success(response).await.map(|_| ())
    }

    async fn send<'a>(
        &self,
        method: Method,
        action: &impl S3Action<'a>,
        body: Vec<u8>,
    ) -> Result<Response, Failure> {
        let request = self.client.request(method, action.sign(SIGNATURE_VALIDITY)).body(body);
        // The URL in the error contains the signature.
        request.send().await.map_err(|error| error_text(&error.without_url()))
    }

    async fn require_success(&self, response: Response) -> Result<Response, Failure> {
        if response.status().is_success() { Ok(response) } else { Err(self.error(response).await) }
    }

    /// Describes the error in a response: its status, and code and message of the error document.
    async fn error(&self, response: Response) -> Failure {
        let status = response.status();
        if status.is_redirection() {
            return format!("the server responded {status}; check endpoint and region");
        }
        let body = read(response, XML_BYTES_MAX).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let element = |name: &str| {
            let rest = text.split_once(&format!("<{name}>"))?.1;
            Some(rest.split_once(&format!("</{name}>"))?.0)
        };
        let code = element("Code").unwrap_or_default();
        let message = element("Message").unwrap_or_default();
        let error = format!("the server responded {status} {code} {message}");
        error.trim_end().replace(&self.secret, "***")
    }
}

/// Reads a body; longer ones are cut.
async fn read(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut body = vec![];
    while body.len() < bytes_max {
        let chunk = response.chunk().await.map_err(|error| error_text(&error.without_url()))?;
        let Some(chunk) = chunk else { break };
        body.extend_from_slice(&chunk);
    }
    body.truncate(bytes_max);
    Ok(body)
}

/// Message of the innermost cause.
fn error_text(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        return "no response in time".to_owned();
    }
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
