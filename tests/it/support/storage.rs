//! Organizations with storage: a bucket, an SFTP server and a directory of the operator.

use api::project::{self as pb, storage_object_service_client::StorageObjectServiceClient};
use serde_json::{Value, json};
use testkit::{Options, Person, S3Server, SshServer, Suite};

use super::world::{World, merge, text};

/// Service of storage connections.
pub(crate) const STORAGE: &str = "project.v1.StorageConnectionService";

/// An organization, and storage for it.
pub(crate) struct StorageSetup {
    pub(crate) suite: Suite,
    pub(crate) world: World,
    pub(crate) s3: S3Server,
    pub(crate) ssh: SshServer,
    /// Directory of the operator for connections to folders.
    pub(crate) folder: tempfile::TempDir,
    /// Directory on the SFTP server.
    pub(crate) remote: tempfile::TempDir,
}

impl StorageSetup {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    /// Starts a suite with some settings changed.
    pub(crate) async fn with(options: Options) -> Self {
        let s3 = S3Server::start().await;
        let ssh = SshServer::start().await;
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            connection_exceptions: vec![s3.exception(), ssh.exception()],
            storage_folder: Some(folder.path().to_owned()),
            ..options
        };
        let suite = Suite::start_with(options).await;
        let world = World::new(&suite).await;
        Self { suite, world, s3, ssh, folder, remote: tempfile::tempdir().unwrap() }
    }

    /// Settings of the bucket.
    pub(crate) fn bucket(&self, more: Value) -> Value {
        let settings = json!({
            "endpoint": self.s3.url(), "bucket": S3Server::BUCKET, "prefix": "tenants/acme",
            "accessKeyId": S3Server::ACCESS_KEY_ID, "pathStyle": true,
        });
        merge(settings, more)
    }

    /// Fields of a connection to the bucket, replaced by those of `more`.
    pub(crate) fn by_s3(&self, more: Value) -> Value {
        let secret = S3Server::SECRET_ACCESS_KEY;
        let fields =
            json!({ "name": "Archive", "s3": self.bucket(json!({})), "secretAccessKey": secret });
        merge(fields, more)
    }

    /// Settings of the SFTP server.
    pub(crate) fn directory(&self, more: Value) -> Value {
        let settings = json!({
            "host": "127.0.0.1", "port": self.ssh.port(), "username": self.ssh.account(),
            "path": self.remote.path(),
        });
        merge(settings, more)
    }

    pub(crate) async fn call(&self, method: &str, fields: Value) -> Value {
        let request = self.world.org_request(fields);
        self.world.admin.call_ok(&format!("{STORAGE}/{method}"), request).await
    }

    pub(crate) async fn refusal(&self, method: &str, fields: Value) -> tenantry::client::CallError {
        let request = self.world.org_request(fields);
        self.world.admin.call(&format!("{STORAGE}/{method}"), request).await.unwrap_err()
    }

    pub(crate) async fn create(&self, fields: Value) -> Value {
        self.call("CreateStorageConnection", fields).await["storageConnection"].clone()
    }

    /// Updates a connection; the field mask has the names of the fields.
    pub(crate) async fn update(&self, connection: &Value, fields: Value, mask: &str) -> Value {
        let named = json!({ "storageConnectionId": connection["id"], "updateMask": mask });
        let updated = self.call("UpdateStorageConnection", merge(named, fields)).await;
        updated["storageConnection"].clone()
    }

    pub(crate) async fn test(&self, connection: &Value) -> Value {
        let id = json!({ "storageConnectionId": connection["id"] });
        self.call("TestStorageConnection", id).await
    }

    pub(crate) async fn list(&self, person: &Person) -> Vec<Value> {
        let request = self.world.org_request(json!({}));
        let listed = person.call_ok(&format!("{STORAGE}/ListStorageConnections"), request).await;
        listed["storageConnections"].as_array().cloned().unwrap_or_default()
    }

    pub(crate) async fn create_deploy_key(&self) -> Value {
        let method = "project.v1.GitConnectionService/CreateDeployKey";
        let request = self.world.org_request(json!({}));
        self.world.admin.call_ok(method, request).await["deployKey"].clone()
    }

    /// Writes an object as the audit service does.
    pub(crate) async fn put(
        &self,
        connection: &Value,
        key: &str,
        data: &[u8],
    ) -> Result<(), tonic::Status> {
        let message = pb::PutObjectRequest {
            org_id: self.world.org.clone(),
            storage_connection_id: text(&connection["id"]),
            key: key.to_owned(),
            data: data.to_vec(),
        };
        self.objects().put_object(message).await.map(|_| ())
    }

    pub(crate) fn objects(&self) -> StorageObjectServiceClient<chassis::channel::ServiceChannel> {
        StorageObjectServiceClient::new(self.suite.audit_to_project.clone())
    }
}

/// Creates a connection to a folder; returns its id. The suite needs the option `storage_folder`.
pub(crate) async fn create_folder_connection(owner: &Person, org: &str) -> Value {
    let create = json!({ "orgId": org, "name": "Archive", "folder": {} });
    let created = owner.call_ok(&format!("{STORAGE}/CreateStorageConnection"), create).await;
    created["storageConnection"]["id"].clone()
}
