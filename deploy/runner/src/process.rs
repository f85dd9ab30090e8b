//! Runs environments as processes of this machine.
//!
//! | concept | file |
//! |---|---|
//! | where an environment's files lie, and what is known of it | `home` |
//! | which commands a repository asks for | `manifest` |
//! | fetching and building a version | `release` |
//! | starting a program, its limits, what keeps it from others | `launch`, `account`, `limits` |
//! | ending what runs | `group` |
//! | the databases of environments | `databases` |
//! | what runs and what it uses | `figures`, `http` |
//! | looking after what should run | `supervise` |

mod account;
mod databases;
mod figures;
mod group;
mod home;
mod http;
mod launch;
mod limits;
mod manifest;
mod release;
mod supervise;

use std::{
    collections::HashSet,
    net::{SocketAddr, TcpListener},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use api::project::{Capacity, EnvironmentReport, Lease, Observed, Variable};
use tokio::fs;

use crate::{
    Settings,
    driver::{About, Done, Driver, Reporter},
};
use account::Accounts;
use databases::Databases;
use figures::Figures;
use home::{Home, Known, Wanted};
use launch::{Launch, Sandbox};
use limits::Limits;
use manifest::Manifest;

/// How long a program may take until it serves, unless its repository says otherwise.
const START_MAX: Duration = Duration::from_secs(60);

/// Steps of a deployment.
const STEPS: i32 = 5;

/// The environments that run on this machine.
pub(crate) struct Processes {
    settings: Settings,
    accounts: Accounts,
    sandbox: Sandbox,
    limits: Limits,
    figures: Figures,
    databases: Databases,
    /// Environments in which something is being done.
    busy: Mutex<HashSet<String>>,
}

/// An environment in which something is being done.
struct Busy<'a>(&'a Processes, String);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Processes {
    pub(crate) fn new(settings: Settings) -> Result<Self> {
        let folder = &settings.folder;
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        // Local repositories belong to whoever made them, which git distrusts.
        std::fs::write(folder.join("gitconfig"), "[safe]\n\tdirectory = *\n")?;
        let accounts = Accounts::of(folder.clone());
        let (sandbox, limits) = (Sandbox::probe(&accounts), Limits::probe());
        tracing::info!(isolation = sandbox.word(), limits = limits.word(), "the runner works");
        let (figures, busy) = (Figures::default(), Mutex::default());
        let databases = folder.join("services");
        let databases = Databases::new(databases, settings.database_url.clone());
        Ok(Self { settings, accounts, sandbox, limits, figures, databases, busy })
    }

    fn home(&self, environment_id: &str) -> Home {
        // The id is a UUID of the project service, so it is one step of a path.
        Home::new(self.settings.folder.join(environment_id))
    }

    fn hold(&self, environment_id: &str) -> Busy<'_> {
        let id = environment_id.to_owned();
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        Busy(self, id)
    }

    fn is_busy(&self, environment_id: &str) -> bool {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).contains(environment_id)
    }

    fn url(&self, known: &Known) -> String {
        format!("http://{}:{}", self.settings.address, known.port)
    }

    fn free_port(&self) -> Result<u16> {
        let listener = TcpListener::bind((self.settings.bind, 0)).context("no port is free")?;
        Ok(listener.local_addr()?.port())
    }

    /// The lease with what the program is told of its extra services, which are there now.
    async fn provided(&self, lease: &Lease, report: &Reporter) -> Result<Lease> {
        let mut lease = lease.clone();
        for it in &lease.provisions {
            let value = self.databases.provide(it).await;
            let value =
                value.with_context(|| format!("{} could not be provided", it.service_key))?;
            let line = if value.is_some() { "is there" } else { "is gone" };
            report.say(vec![format!("{} {line}", it.service_key)]).await;
            let name = it.variable.clone();
            lease.variables.extend(value.map(|value| Variable { name, value }));
        }
        Ok(lease)
    }

    /// Starts a version beside what runs and waits until it serves.
    async fn serve(
        &self,
        home: &Home,
        launch: &Launch,
        port: u16,
        patience: Duration,
    ) -> Result<group::Process> {
        let address = SocketAddr::new(self.settings.bind, port);
        let mut child = self.start_program(home, launch, address)?;
        // Before anything else can go wrong: a runner that is killed from here on leaves no stray behind.
        let new = child.id().and_then(group::Process::of).context("the command ended at once")?;
        home.note_starting(&new).await?;
        self.limits.apply(home.id(), &new, launch);
        launch::open(&mut child).await?;
        let stray = group::Stray::new(&new);
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = child.try_wait()? {
                new.stop().await;
                let said = home.last_lines().await;
                bail!("the program ended before it served ({status}); {said}");
            }
            match http::get_status(address, &launch.health).await {
                Some(status) if status < 500 => {
                    stray.keep();
                    return Ok(new);
                }
                status if Instant::now() > deadline => {
                    new.stop().await;
                    let said = home.last_lines().await;
                    match status {
                        Some(status) => bail!("it answers with HTTP status {status}; {said}"),
                        None => bail!(
                            "it does not answer on {address}; does it listen on $PORT? {said}"
                        ),
                    }
                }
                _ => tokio::time::sleep(Duration::from_millis(25)).await,
            }
        }
    }

    /// Starts, in its own place, what was deployed.
    async fn start_release(&self, lease: &Lease, home: &Home, known: &mut Known) -> Result<()> {
        ensure!(!known.release.is_empty(), "nothing is deployed here; deploy it first");
        let manifest = Manifest::read(&home.release(&known.release)).await?;
        let launch = Launch::of(lease, home, &known.release, &manifest);
        let port = if known.port == 0 { self.free_port()? } else { known.port };
        let process = self.serve(home, &launch, port, manifest.patience(START_MAX)).await?;
        home.keep_launch(&launch).await?;
        known.serves(process, port);
        home.write(known).await?;
        home.forget_starting().await
    }
}

#[tonic::async_trait]
impl Driver for Processes {
    fn about(&self) -> About {
        let capacity: Capacity = figures::machine(&self.settings.folder);
        About { capacity, isolation: self.sandbox.word(), limits: self.limits.word() }
    }

    async fn deploy(&self, lease: &Lease, report: &Reporter) -> Result<Done> {
        let _busy = self.hold(&lease.environment_id);
        let home = self.home(&lease.environment_id);
        home.prepare(&self.accounts).await?;
        let lease = &self.provided(lease, report).await?;
        let mut known = home.read().await;
        if known.release == lease.release && known.runs() {
            // An earlier runner did it all, but did not live to say so.
            report.step("done", STEPS, STEPS, "it serves already").await;
            return Ok(Done {
                commit: known.commit.clone(),
                url: self.url(&known),
                ..Done::default()
            });
        }
        let (commit, built) = self.fetch(lease, &home, &known, report).await?;
        let manifest = self.build(lease, &home, built, report).await?;
        let launch = Launch::of(lease, &home, &lease.release, &manifest);
        let port = self.free_port()?;
        report
            .step("start", 3, STEPS, format!("starting `{}` on port {port}", launch.command))
            .await;
        let patience = manifest.patience(START_MAX);
        let process = self.serve(&home, &launch, port, patience).await?;
        report.step("health", 4, STEPS, "it answers").await;
        report.settle();
        let old = known.takes_over(process, port, &lease.release, &commit);
        home.keep_launch(&launch).await?;
        home.write(&known).await?;
        home.forget_starting().await?;
        if let Some(old) = old {
            old.stop().await;
        }
        known.previous = None;
        home.write(&known).await?;
        home.sweep(&known).await?;
        report.step("done", STEPS, STEPS, format!("serving on {}", self.url(&known))).await;
        let about = self.about_commit(&home, &lease.release).await;
        Ok(Done { commit, about, url: self.url(&known), ..Done::default() })
    }

    async fn start(&self, lease: &Lease, report: &Reporter) -> Result<Done> {
        let _busy = self.hold(&lease.environment_id);
        let home = self.home(&lease.environment_id);
        let mut known = home.read().await;
        report.step("start", 1, 2, "starting").await;
        if !known.runs() {
            let lease = &self.provided(lease, report).await?;
            self.start_release(lease, &home, &mut known).await?;
        }
        report.step("done", 2, 2, format!("serving on {}", self.url(&known))).await;
        Ok(Done { commit: known.commit.clone(), url: self.url(&known), ..Done::default() })
    }

    async fn stop(&self, lease: &Lease, report: &Reporter) -> Result<Done> {
        let _busy = self.hold(&lease.environment_id);
        let home = self.home(&lease.environment_id);
        report.step("stop", 1, 2, "stopping").await;
        home.end_strays().await;
        let mut known = home.read().await;
        let process = known.rests(Wanted::Stopped);
        // Written first: what should not run is not started again meanwhile.
        home.write(&known).await?;
        if let Some(process) = process {
            process.stop().await;
        }
        self.accounts.end_all(&home);
        self.limits.forget(home.id());
        Ok(Done { commit: known.commit, ..Done::default() })
    }

    async fn pause(&self, lease: &Lease, _: &Reporter) -> Result<Done> {
        let _busy = self.hold(&lease.environment_id);
        let home = self.home(&lease.environment_id);
        let mut known = home.read().await;
        let process = known.process.clone().filter(group::Process::lives);
        let process = process.context("it does not run, so it cannot be paused")?;
        known.wanted = Wanted::Paused;
        home.write(&known).await?;
        process.freeze();
        Ok(Done::default())
    }

    async fn resume(&self, lease: &Lease, report: &Reporter) -> Result<Done> {
        let home = self.home(&lease.environment_id);
        {
            let _busy = self.hold(&lease.environment_id);
            let mut known = home.read().await;
            if let Some(process) = known.process.clone().filter(group::Process::lives) {
                process.thaw();
                known.wanted = Wanted::Running;
                home.write(&known).await?;
                return Ok(Done { url: self.url(&known), ..Done::default() });
            }
        }
        // The machine was started again meanwhile: what was frozen is gone, its data is not.
        self.start(lease, report).await
    }

    async fn look(&self, lease: &Lease, report: &Reporter) -> Result<Done> {
        let _busy = self.hold(&lease.environment_id);
        let known = self.home(&lease.environment_id).read().await;
        let observed = known.observed();
        report.say(vec![format!("found: {}", observed.as_str_name())]).await;
        let url = if observed == Observed::Running { self.url(&known) } else { String::new() };
        Ok(Done { commit: known.commit, url, observed: Some(observed), ..Done::default() })
    }

    async fn copy(&self, lease: &Lease, report: &Reporter) -> Result<Done> {
        let _busy = self.hold(&lease.environment_id);
        let _still = self.hold(&lease.source_environment_id);
        self.copy_environment(lease, report).await
    }

    async fn provision(&self, lease: &Lease, report: &Reporter) -> Result<Done> {
        let _busy = self.hold(&lease.environment_id);
        report.step("provision", 1, 2, "looking after extra services").await;
        self.provided(lease, report).await?;
        report.step("done", 2, 2, "the program finds them from its next start on").await;
        Ok(Done::default())
    }

    fn database_address(&self) -> String {
        self.databases.address()
    }

    async fn destroy(&self, environment_id: &str) -> Result<()> {
        let _busy = self.hold(environment_id);
        let home = self.home(environment_id);
        home.end_strays().await;
        let known = home.read().await;
        for process in [known.process, known.previous].into_iter().flatten() {
            process.stop().await;
        }
        self.accounts.end_all(&home);
        self.limits.forget(home.id());
        if self.databases.is_there() {
            self.databases.remove(&databases::name(environment_id)).await?;
        }
        match fs::remove_dir_all(home.path()).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} cannot be removed", home.path().display()))
            }
            _ => Ok(()),
        }
    }

    async fn abandon(&self, lease: &Lease) -> Result<()> {
        let _busy = self.hold(&lease.environment_id);
        let home = self.home(&lease.environment_id);
        home.end_strays().await;
        let known = home.read().await;
        if known.release != lease.release {
            home.remove_release(&lease.release).await?;
        }
        Ok(())
    }

    async fn tend(&self) {
        self.databases.adopt().await;
        self.mend_all().await;
    }

    async fn environments(&self) -> Vec<EnvironmentReport> {
        self.reports().await
    }
}

/// The path of a folder, for a command line.
fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

/// An environment's folder, by its id.
fn id_of(path: &std::path::Path) -> String {
    path.file_name().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default()
}
