//! Commands on storage connections. Tests are remote calls, so they run before the transaction; the
//! transaction refuses settings of a connection that was changed meanwhile.

use api::check::Check;
use chassis::{Call, Db, Grant, Result, Tx};
use project_rules::{
    connection::{
        TestFailure,
        deploy_key::OpenDeployKey,
        storage::{Draft, Patch, Settings, StorageConnection, Tested},
    },
    types::{DeployKeyId, StorageConnectionId},
    variable::Vault,
};
use prost::{Message, Name};

use super::client::StorageClient;
use crate::store;

/// Commands on the connections of the organization of a grant.
pub(super) struct Connections<'a> {
    pub(super) db: &'a Db,
    pub(super) grant: &'a Grant,
    pub(super) vault: &'a Vault,
    pub(super) client: &'a StorageClient,
}

/// Result of a test with the stored settings.
pub(super) struct TestResult {
    pub(super) connection: StorageConnection,
    pub(super) failure: Option<TestFailure>,
}

impl Connections<'_> {
    /// Creates a connection if the test of its settings passes. A repeated call is not tested again.
    pub(super) async fn create<M, R>(
        &self,
        call: &Call<M>,
        draft: Draft,
        response: impl FnOnce(&StorageConnection) -> R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        if let Some(first) = self.db.stored_response(call).await? {
            return Ok(first);
        }
        let key_id = draft.deploy_key_id;
        let deploy_key = self.deploy_key(key_id).await?;
        let tested = self.test(draft.settings(deploy_key)).await?;
        let org_id = self.grant.org_id();
        let create = async |tx: &mut Tx| {
            store::storage_connection::lock_set(tx, org_id).await?;
            let count = store::storage_connection::count(tx, org_id).await?;
            let created = StorageConnection::create(self.grant, tested, count, self.vault, tx.now)?;
            self.take_deploy_key(tx, key_id).await?;
            Ok(response(&store::storage_connection::insert(tx, created).await?))
        };
        self.db.write(call, create).await
    }

    /// Updates a connection, after a test if anything but the name changes.
    pub(super) async fn update<M, R>(
        &self,
        call: &Call<M>,
        id: StorageConnectionId,
        patch: Patch,
        etag: &str,
        response: impl FnOnce(&StorageConnection) -> R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        if let Some(first) = self.db.stored_response(call).await? {
            return Ok(first);
        }
        let current = store::storage_connection::get(self.db, self.grant.org_id(), id).await?;
        current.require_etag(etag)?;
        let (name, key_id) = (patch.name.clone(), patch.deploy_key_id);
        let tested = if patch.changes_settings() {
            let deploy_key = self.deploy_key(key_id).await?;
            let settings = current.settings(self.vault)?.patched(patch, deploy_key)?;
            Some(self.test(settings).await?)
        } else {
            None
        };
        let update = async |tx: &mut Tx| {
            let connection = store::storage_connection::lock(tx, self.grant.org_id(), id).await?;
            self.take_deploy_key(tx, key_id).await?;
            let unchanged = connection.clone();
            let version = current.version;
            let updated = connection.update(name, tested, version, self.vault, tx.now)?;
            let connection = match updated {
                Some(changed) => store::storage_connection::update(tx, changed).await?,
                None => unchanged,
            };
            Ok(response(&connection))
        };
        self.db.write(call, update).await
    }

    /// Tests a connection with its stored settings, and records the result.
    pub(super) async fn test_stored<M, R>(
        &self,
        call: &Call<M>,
        id: StorageConnectionId,
        response: impl FnOnce(TestResult) -> R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        if let Some(first) = self.db.stored_response(call).await? {
            return Ok(first);
        }
        let current = store::storage_connection::get(self.db, self.grant.org_id(), id).await?;
        let access = current.settings(self.vault)?.access(self.grant.org_id())?;
        let failure = self.client.test(&access).await?.err();
        let record = async |tx: &mut Tx| {
            let connection = store::storage_connection::lock(tx, self.grant.org_id(), id).await?;
            connection.require_version(current.version)?;
            let tested = connection.record_test(failure.as_ref(), tx.now);
            let connection = store::storage_connection::update_test(tx, tested).await?;
            Ok(response(TestResult { connection, failure }))
        };
        self.db.write(call, record).await
    }

    /// Makes a connection the default one of the organization.
    pub(super) async fn set_default(
        &self,
        tx: &mut Tx,
        id: StorageConnectionId,
    ) -> Result<StorageConnection> {
        let org_id = self.grant.org_id();
        store::storage_connection::lock_set(tx, org_id).await?;
        let before = store::storage_connection::default(tx, org_id).await?;
        let connection = store::storage_connection::lock(tx, org_id, id).await?;
        let unchanged = connection.clone();
        match connection.set_default(before.as_ref()) {
            Some(changed) => store::storage_connection::set_default(tx, changed).await,
            None => Ok(unchanged),
        }
    }

    /// Deletes a connection that nothing uses.
    pub(super) async fn delete(&self, tx: &mut Tx, id: StorageConnectionId) -> Result<()> {
        let connection = store::storage_connection::lock(tx, self.grant.org_id(), id).await?;
        let consumers = store::storage_connection::consumers(tx, &connection).await?;
        store::storage_connection::delete(tx, connection.delete(consumers)?).await
    }

    async fn test(&self, settings: Settings) -> Result<Tested> {
        let access = settings.access(self.grant.org_id())?;
        let host_key = self.client.test(&access).await??;
        Ok(settings.tested(host_key))
    }

    async fn deploy_key(&self, id: Option<DeployKeyId>) -> Result<Option<OpenDeployKey>> {
        let Some(id) = id else { return Ok(None) };
        let key = store::deploy_key::get(self.db, self.grant, id).await?;
        key.open(self.vault).map(Some)
    }

    /// Deletes a deploy key that becomes part of a connection.
    async fn take_deploy_key(&self, tx: &mut Tx, id: Option<DeployKeyId>) -> Result<()> {
        match id {
            Some(id) => store::deploy_key::take(tx, self.grant.org_id(), id).await,
            None => Ok(()),
        }
    }
}
