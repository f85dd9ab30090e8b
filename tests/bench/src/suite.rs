//! Suite under test: services in this process, with their own durable PostgreSQL.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
};

use anyhow::{Context, Result};
use chassis::Config;
use clap::Parser;
use embedded_postgres::{Durability, Postgres};
use host::{DataDir, Host, Install};
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tenantry::{client::Client, demo::Mailbox};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    config: Config,
}

/// A running suite.
pub(crate) struct Suite {
    pub(crate) address: SocketAddr,
    pub(crate) options: PgConnectOptions,
    pub(crate) client: Client,
    pub(crate) mailbox: Mailbox,
    data_dir: TempDir,
    postgres: Postgres,
    stop: CancellationToken,
    running: JoinHandle<Result<()>>,
}

impl Suite {
    /// Starts services with the default settings.
    pub(crate) async fn start(installs: &[Install]) -> Result<Self> {
        Self::start_with(installs, |_| {}).await
    }

    /// Starts services with settings changed by `change`.
    pub(crate) async fn start_with(
        installs: &[Install],
        change: impl FnOnce(&mut Config),
    ) -> Result<Self> {
        let data_dir = tempfile::tempdir()?;
        std::fs::set_permissions(data_dir.path(), std::fs::Permissions::from_mode(0o755))?;
        let postgres = Postgres::start(data_dir.path(), None, Durability::Durable).await?;
        let mut config = Config {
            log: "warn".to_owned(),
            mail_console: false,
            created_orgs_max: 1_000_000,
            sign_ins_max: 0,
            in_flight_max: 4_096,
            invitations_max: 0,
            ..Arguments::parse_from(["bench"]).config
        };
        change(&mut config);
        let options = postgres.options();
        let mut host = Host::new(config, options.clone(), DataDir::open(Some(data_dir.path()))?)?;
        for install in installs {
            install(&mut host)?;
        }
        let socket = host::process::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = socket.local_addr()?;
        let stop = CancellationToken::new();
        let (ready_sender, ready) = tokio::sync::oneshot::channel();
        let stopped = stop.clone().cancelled_owned();
        #[expect(
            clippy::disallowed_methods,
            reason = "a benchmark has no host that drains its tasks"
        )]
        let running = tokio::spawn(host.run(socket, move || _ = ready_sender.send(()), stopped));
        ready.await.context("the suite did not start; set RUST_LOG=info to see the reason")?;
        let client = Client::connect(&format!("http://{address}"), None).await?;
        let mailbox = Mailbox::Folders(vec![data_dir.path().join("mail")]);
        Ok(Self { address, options, client, mailbox, data_dir, postgres, stop, running })
    }

    /// Registers a user, verifies the address and signs in. Returns the session token.
    pub(crate) async fn sign_in(&self, email: &str) -> Result<String> {
        use api::identity as pb;
        let password = "a long enough password".to_owned();
        let register = pb::RegisterRequest {
            email: email.to_owned(),
            password: password.clone(),
            ..Default::default()
        };
        let method = "tenantry.identity.v1.UserService/Register";
        let _: pb::RegisterResponse = self.client.call(method, register).await?;
        let token = self.mailbox.token(email, "tny_ver_").await?;
        let method = "tenantry.identity.v1.UserService/VerifyEmail";
        let verify =
            pb::VerifyEmailRequest { token, password: password.clone(), ..Default::default() };
        let _: pb::VerifyEmailResponse = self.client.call(method, verify).await?;
        let method = "tenantry.identity.v1.SessionService/Login";
        let login = pb::LoginRequest { email: email.to_owned(), password };
        let session: pb::LoginResponse = self.client.call(method, login).await?;
        Ok(session.token)
    }

    /// Runs `analyze`. In a new database the planner has no statistics and scans whole tables until
    /// autovacuum has run, which takes up to a minute.
    pub(crate) async fn analyze(&self) -> Result<()> {
        let mut connection =
            <sqlx::PgConnection as sqlx::Connection>::connect_with(&self.options).await?;
        sqlx::Executor::execute(&mut connection, "analyze").await?;
        Ok(())
    }

    /// Checks the stored audit log like `tenantry audit fsck`, with a copy of the keys and the journal.
    pub(crate) async fn fsck(&self) -> Result<audit::Findings> {
        let folder = tempfile::tempdir()?;
        for name in ["secret.key", "audit.key", "audit.keys", "audit.signed"] {
            std::fs::copy(self.data_dir.path().join(name), folder.path().join(name))?;
        }
        let config = Config { log: "warn".to_owned(), ..Arguments::parse_from(["bench"]).config };
        let data_dir = DataDir::open(Some(folder.path()))?;
        let mut host = Host::new(config, self.options.clone(), data_dir)?;
        audit::install(&mut host)?;
        audit::fsck(&host, audit::Release::None).await
    }

    /// Delays all new mails of the invitation service by a year, so that their delivery is not measured.
    pub(crate) async fn hold_mails(&self) -> Result<()> {
        let mut connection =
            <sqlx::PgConnection as sqlx::Connection>::connect_with(&self.options).await?;
        let hold = "create function invitation.hold() returns trigger language plpgsql as
                    $$ begin new.due_at := new.due_at + interval '1 year'; return new; end $$;
                    create trigger hold before insert on invitation.mail
                    for each row execute function invitation.hold()";
        sqlx::Executor::execute(&mut connection, hold).await?;
        Ok(())
    }

    /// Stops the services and PostgreSQL, and removes all files.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.running.await??;
        tokio::task::spawn_blocking(|| self.postgres.stop()).await?;
        Ok(self.data_dir.close()?)
    }
}
