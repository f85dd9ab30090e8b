//! A suite with a durable PostgreSQL of its own.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result};
use chassis::{
    Config, Host,
    host::{DataDir, Install},
    postgres::{Durability, Postgres},
};
use clap::Parser;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tenantry::{client::Client, demo::Mailbox};
use tokio::{net::TcpListener, task::JoinHandle};
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
    folder: TempDir,
    postgres: Postgres,
    stop: CancellationToken,
    running: JoinHandle<Result<()>>,
}

impl Suite {
    /// Starts these services.
    pub(crate) async fn start(installs: &[Install]) -> Result<Self> {
        Self::start_with(installs, |_| {}).await
    }

    /// Starts these services with some setting of its own.
    pub(crate) async fn start_with(
        installs: &[Install],
        change: impl FnOnce(&mut Config),
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let postgres = Postgres::start(folder.path(), None, Durability::Durable).await?;
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
        let mut host = Host::new(config, options.clone(), DataDir::open(Some(folder.path()))?)?;
        for install in installs {
            install(&mut host)?;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let stopped = stop.clone().cancelled_owned();
        #[expect(
            clippy::disallowed_methods,
            reason = "a benchmark has no host whose tasks are drained"
        )]
        let running = tokio::spawn(host.run(listener, move || _ = ready.send(()), stopped));
        is_ready.await.context("the suite did not start; RUST_LOG=info tells why")?;
        let client = Client::connect(&format!("http://{address}"), None).await?;
        let mailbox = Mailbox::new(vec![folder.path().join("mail")]);
        Ok(Self { address, options, client, mailbox, folder, postgres, stop, running })
    }

    /// Registers, confirms, signs in; answers the session's token.
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
        let _: pb::VerifyEmailResponse =
            self.client.call(method, pb::VerifyEmailRequest { token }).await?;
        let method = "tenantry.identity.v1.SessionService/Login";
        let login = pb::LoginRequest { email: email.to_owned(), password };
        let session: pb::LoginResponse = self.client.call(method, login).await?;
        Ok(session.token)
    }

    /// Tells the planner how large the tables are, as autovacuum does every minute: a new database thinks
    /// that they are empty, and looks at all rows.
    pub(crate) async fn analyze(&self) -> Result<()> {
        let mut connection =
            <sqlx::PgConnection as sqlx::Connection>::connect_with(&self.options).await?;
        sqlx::Executor::execute(&mut connection, "analyze").await?;
        Ok(())
    }

    /// From now on mails wait: what is measured is not their sending.
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

    /// Ends everything.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.running.await??;
        tokio::task::spawn_blocking(|| self.postgres.stop()).await?;
        Ok(self.folder.close()?)
    }
}
