//! Commands on sinks. The use of a storage connection is registered at the project service, which refuses to
//! delete the connection then. Registrations are remote calls, so they are outside of transactions, and a row
//! of `export_storage_use` is stored before each, from which a job removes what is left over.

use api::check::Check;
use chassis::{Call, Db, Error, Grant, Result, Tx};
use prost::{Message, Name};

use super::{
    Draft, ExportSink, ExportSinkId, Patch, Refused,
    storage::{Storage, StorageUse},
    store,
};

/// Commands on the sinks of the organization of a grant.
pub(super) struct Sinks<'a> {
    pub(super) db: &'a Db,
    pub(super) grant: &'a Grant,
    pub(super) storage: &'a Storage,
}

impl Sinks<'_> {
    /// Creates a sink. Fails with NOT_FOUND if the organization has no such connection.
    pub(super) async fn create<M, R>(
        &self,
        call: &Call<M>,
        draft: Draft,
        response: impl FnOnce(&ExportSink) -> R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        if let Some(first) = self.db.stored_response(call).await? {
            return Ok(first);
        }
        let id = ExportSinkId::new();
        let storage_use = StorageUse {
            org_id: self.grant.org_id(),
            sink_id: id,
            storage_connection_id: draft.storage_connection_id,
            name: draft.name.clone(),
        };
        let create = async |tx: &mut Tx| {
            if !store::storage_use::lock(tx, self.grant.org_id(), id).await? {
                return Err(Refused::Abandoned.into());
            }
            let count = store::lock_and_count(tx, self.grant.org_id()).await?;
            let created = ExportSink::create(id, self.grant, draft, count, tx.now)?;
            if store::is_prefix_used(tx, created.state()).await? {
                let description =
                    "must be another one than that of a sink with the same connection";
                return Err(Error::invalid("prefix", description));
            }
            Ok(response(&store::insert(tx, created).await?))
        };
        let registered = self.register_use(call, &storage_use).await;
        let created = match registered {
            Ok(()) => self.db.write(call, create).await,
            Err(error) => Err(error),
        };
        // After another error, for example a lost connection, the sink may be stored.
        if let Err(Error::Refused { .. } | Error::Invalid(_) | Error::Remote(_)) = created {
            self.remove_use(id).await;
        }
        created
    }

    /// Registers a use. Its row is stored before, so that the job removes the registration if the sink is not
    /// stored, or is deleted meanwhile.
    async fn register_use<M>(&self, call: &Call<M>, storage_use: &StorageUse) -> Result<()> {
        let reserve = async |tx: &mut Tx| store::storage_use::insert(tx, storage_use).await;
        self.db.write_as_system("audit export", reserve).await?;
        self.storage.register(call, storage_use).await
    }

    /// Removes the registration of a sink that does not exist. If that fails, the job repeats it.
    async fn remove_use(&self, id: ExportSinkId) {
        let removed = self.storage.remove(self.db, self.grant.org_id(), id).await;
        if let Err(error) = removed {
            let error = chassis::error::causes(&error);
            tracing::warn!(sink_id = %id, error, "the use of a storage connection is removed later");
        }
    }

    /// Changes a sink. A new name is registered before: the refusal to delete the connection shows it.
    pub(super) async fn update<M, R>(
        &self,
        call: &Call<M>,
        id: ExportSinkId,
        patch: Patch,
        etag: &str,
        response: impl FnOnce(&ExportSink) -> R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        if let Some(first) = self.db.stored_response(call).await? {
            return Ok(first);
        }
        let current = store::get(self.db, self.grant.org_id(), id).await?;
        current.require_etag(etag)?;
        if let Some(name) = patch.name.clone().filter(|it| *it != current.name) {
            let storage_use = StorageUse {
                org_id: current.org_id,
                sink_id: id,
                storage_connection_id: current.storage_connection_id,
                name,
            };
            self.register_use(call, &storage_use).await?;
        }
        let update = async |tx: &mut Tx| {
            let sink = store::lock(tx, self.grant.org_id(), id).await?;
            sink.require_etag(etag)?;
            let unchanged = sink.clone();
            let sink = match sink.update(patch, tx.now) {
                Some(changed) => store::update(tx, changed).await?,
                None => unchanged,
            };
            Ok(response(&sink))
        };
        self.db.write(call, update).await
    }

    /// Deletes a sink, and removes its registration.
    pub(super) async fn delete<M, R>(
        &self,
        call: &Call<M>,
        id: ExportSinkId,
        response: R,
    ) -> Result<R>
    where
        M: Message + Check,
        R: Message + Name + Default,
    {
        let delete = async |tx: &mut Tx| {
            let sink = store::lock(tx, self.grant.org_id(), id).await?;
            store::delete(tx, sink.delete()).await?;
            Ok(response)
        };
        let response = self.db.write(call, delete).await?;
        self.remove_use(id).await;
        Ok(response)
    }
}
