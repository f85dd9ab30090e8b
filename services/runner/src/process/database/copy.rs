//! Copies of databases: `pg_dump` reads a snapshot of the source while its program runs, `pg_restore` writes
//! a new database, which replaces that of the target when it is complete. Both log in with the privileges of
//! the environments, not of an administrator: SQL in a dump runs with the privileges of the role that
//! restores it.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use api::project::Provision;
use sqlx::{Connection, PgConnection, query_scalar};

use super::{
    DatabaseCredentials, Databases, check_name, check_password, create_database, drop_database, run,
};
use crate::{process::network::Network, text::read_bounded};

/// Maximum length of a tool's error output, in bytes.
const ERROR_BYTES_MAX: usize = 8 << 10;

/// Time that `pg_dump` waits for the lock of a table, in milliseconds.
const LOCK_TIMEOUT_MS: u32 = 10_000;

/// Connection of an administrator to the source of a copy.
pub(in crate::process) struct SourceConnection {
    connection: PgConnection,
    database: String,
}

/// Exported snapshot of a database (`pg_export_snapshot`), valid while this exists.
pub(in crate::process) struct Snapshot {
    /// Keeps the transaction that has exported the snapshot open.
    _connection: PgConnection,
    database: String,
    id: String,
}

impl SourceConnection {
    /// Exports a snapshot of the current content.
    pub(in crate::process) async fn snapshot(mut self) -> Result<Snapshot> {
        let begin = "begin transaction isolation level repeatable read read only; \
                     set local idle_in_transaction_session_timeout = 0";
        run(&mut self.connection, begin.to_owned()).await?;
        let id = query_scalar("select pg_export_snapshot()").fetch_one(&mut self.connection).await;
        let id = id.context("the database server exports no snapshot")?;
        Ok(Snapshot { _connection: self.connection, database: self.database, id })
    }
}

impl Databases {
    /// Connects to the database that is copied.
    pub(in crate::process) async fn connect_source(
        &self,
        network: &Network,
        name: &str,
    ) -> Result<SourceConnection> {
        check_name(name)?;
        let options = self.options(network).await?.database(name);
        let connection = PgConnection::connect_with(&options).await;
        let connection = connection.context("cannot connect to the database of the source")?;
        Ok(SourceConnection { connection, database: name.to_owned() })
    }

    /// Copies a snapshot to a new database beside that of `target`.
    pub(in crate::process) async fn copy(
        &self,
        network: &Network,
        source: &Snapshot,
        target: &Provision,
        account: Option<u32>,
    ) -> Result<()> {
        check_name(&target.name)?;
        check_password(&target.password)?;
        let mut admin = self.admin(network).await?;
        let copy = copy_name(&target.name);
        drop_database(&mut admin, &copy).await?;
        create_database(&mut admin, &copy, &target.name).await?;
        // A temporary role with the privileges of the source's role, whose password is not known here.
        let reader = reader_name(&target.name);
        let secret = random_password()?;
        run(&mut admin, format!("drop role if exists {reader}")).await?;
        let role = &source.database;
        let create = format!("create role {reader} login password '{secret}' in role {role}");
        run(&mut admin, create).await?;
        let from =
            DatabaseCredentials { user: &reader, password: &secret, database: &source.database };
        let to =
            DatabaseCredentials { user: &target.name, password: &target.password, database: &copy };
        let copied = self.transfer(from, &source.id, to, account).await;
        run(&mut admin, format!("drop role if exists {reader}")).await?;
        copied.context("the database cannot be copied")
    }

    /// Replaces the database of `target` by its complete copy.
    pub(in crate::process) async fn replace_by_copy(
        &self,
        network: &Network,
        target: &Provision,
    ) -> Result<()> {
        check_name(&target.name)?;
        let mut admin = self.admin(network).await?;
        let (name, copy) = (&target.name, copy_name(&target.name));
        drop_database(&mut admin, name).await?;
        run(&mut admin, format!("alter database {copy} rename to {name}")).await
    }

    /// Removes an incomplete copy.
    pub(in crate::process) async fn discard_copy(
        &self,
        network: &Network,
        name: &str,
    ) -> Result<()> {
        check_name(name)?;
        let mut admin = self.admin(network).await?;
        drop_database(&mut admin, &copy_name(name)).await?;
        run(&mut admin, format!("drop role if exists {}", reader_name(name))).await
    }

    /// Runs `pg_dump` and `pg_restore`, which are killed if this future is dropped.
    async fn transfer(
        &self,
        from: DatabaseCredentials<'_>,
        snapshot: &str,
        to: DatabaseCredentials<'_>,
        account: Option<u32>,
    ) -> Result<()> {
        let mut dump = self.tool("pg_dump", &from, account)?;
        dump.args(["--format=custom", "--no-owner", "--no-privileges"]);
        dump.arg(format!("--lock-wait-timeout={LOCK_TIMEOUT_MS}"));
        dump.arg(format!("--snapshot={snapshot}"));
        let mut dump = dump.stdout(Stdio::piped()).spawn()?;
        let archive: Stdio = dump.stdout.take().context("no standard output")?.try_into()?;
        let mut restore = self.tool("pg_restore", &to, account)?;
        restore.args(["--no-owner", "--no-privileges", "--exit-on-error", "--dbname", to.database]);
        let mut restore = restore.stdin(archive).stdout(Stdio::null()).spawn()?;
        let errors = [dump.stderr.take(), restore.stderr.take()];
        let [dump_errors, restore_errors] = errors.map(|it| it.context("no error output"));
        let (dump_errors, restore_errors, dumped, restored) = tokio::try_join!(
            read_bounded(dump_errors?, ERROR_BYTES_MAX),
            read_bounded(restore_errors?, ERROR_BYTES_MAX),
            dump.wait(),
            restore.wait(),
        )?;
        ensure!(dumped.success(), "{}", dump_errors.trim());
        ensure!(restored.success(), "{}", restore_errors.trim());
        Ok(())
    }
}

/// Name of the copy that replaces a database.
pub(super) fn copy_name(name: &str) -> String {
    format!("{name}_incoming")
}

/// Name of the temporary role that reads the source of a copy.
fn reader_name(name: &str) -> String {
    format!("{name}_reader")
}

/// Returns 256 random bits in hexadecimal.
fn random_password() -> Result<String> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).context("the operating system provides no random bytes")?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}
