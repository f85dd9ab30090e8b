//! Commands on DNS connections. Tests are remote calls, so they run before the transaction; the transaction
//! refuses settings of a connection that was changed meanwhile.

use api::check::Check;
use chassis::{Call, Db, Grant, Result, Tx};
use project_rules::{
    connection::{
        TestFailure,
        dns::{DnsConnection, Draft, Patch},
    },
    types::DnsConnectionId,
    variable::Vault,
};
use prost::{Message, Name};

use crate::{dns::dns_client::DnsClient, store};

/// Commands on the connections of the organization of a grant.
pub(super) struct Connections<'a> {
    pub(super) db: &'a Db,
    pub(super) grant: &'a Grant,
    pub(super) vault: &'a Vault,
    pub(super) dns: &'a DnsClient,
}

/// Result of a test with the stored settings.
pub(super) struct TestResult {
    pub(super) connection: DnsConnection,
    pub(super) failure: Option<TestFailure>,
}

impl Connections<'_> {
    /// Creates a connection if the test of its settings passes. A repeated call is not tested again.
    pub(super) async fn create<M, R>(
        &self,
        call: &Call<M>,
        draft: Draft,
        response: impl FnOnce(&DnsConnection) -> R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        if let Some(first) = self.db.stored_response(call).await? {
            return Ok(first);
        }
        let org_id = self.grant.org_id();
        self.dns.test(&draft, org_id).await?;
        let create = async |tx: &mut Tx| {
            store::dns_connection::lock_set(tx, org_id).await?;
            let count = store::dns_connection::count(tx, org_id).await?;
            let created = DnsConnection::create(self.grant, draft, count, self.vault, tx.now)?;
            Ok(response(&store::dns_connection::insert(tx, created).await?))
        };
        self.db.write(call, create).await
    }

    /// Updates a connection, after a test if anything but the name changes.
    pub(super) async fn update<M, R>(
        &self,
        call: &Call<M>,
        id: DnsConnectionId,
        patch: Patch,
        etag: &str,
        response: impl FnOnce(&DnsConnection) -> R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        if let Some(first) = self.db.stored_response(call).await? {
            return Ok(first);
        }
        let org_id = self.grant.org_id();
        let current = store::dns_connection::get(self.db, org_id, id).await?;
        current.require_etag(etag)?;
        let name = patch.name.clone();
        let tested = if patch.changes_settings() {
            let settings = current.settings(self.vault)?.patched(patch)?;
            self.dns.test(&settings, org_id).await?;
            Some(settings)
        } else {
            None
        };
        let update = async |tx: &mut Tx| {
            let connection = store::dns_connection::lock(tx, org_id, id).await?;
            let unchanged = connection.clone();
            let version = current.version;
            let updated = connection.update(name, tested, version, self.vault, tx.now)?;
            let connection = match updated {
                Some(changed) => store::dns_connection::update(tx, changed).await?,
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
        id: DnsConnectionId,
        response: impl FnOnce(TestResult) -> R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        if let Some(first) = self.db.stored_response(call).await? {
            return Ok(first);
        }
        let org_id = self.grant.org_id();
        let current = store::dns_connection::get(self.db, org_id, id).await?;
        let failure = self.dns.test(&current.settings(self.vault)?, org_id).await.err();
        let record = async |tx: &mut Tx| {
            let connection = store::dns_connection::lock(tx, org_id, id).await?;
            connection.require_version(current.version)?;
            let tested = connection.record_test(failure.as_ref(), tx.now);
            let connection = store::dns_connection::update_test(tx, tested).await?;
            Ok(response(TestResult { connection, failure }))
        };
        self.db.write(call, record).await
    }

    /// Makes a connection the default one of the organization.
    pub(super) async fn set_default(
        &self,
        tx: &mut Tx,
        id: DnsConnectionId,
    ) -> Result<DnsConnection> {
        let org_id = self.grant.org_id();
        store::dns_connection::lock_set(tx, org_id).await?;
        let before = store::dns_connection::default(tx, org_id).await?;
        let connection = store::dns_connection::lock(tx, org_id, id).await?;
        let unchanged = connection.clone();
        match connection.set_default(before.as_ref()) {
            Some(changed) => store::dns_connection::set_default(tx, changed).await,
            None => Ok(unchanged),
        }
    }

    /// Deletes a connection that no server and no record uses.
    pub(super) async fn delete(&self, tx: &mut Tx, id: DnsConnectionId) -> Result<()> {
        let connection = store::dns_connection::lock(tx, self.grant.org_id(), id).await?;
        let users = store::dns_connection::users(tx, &connection).await?;
        store::dns_connection::delete(tx, connection.delete(users)?).await
    }
}
