//! A site behind the proxy whose deployments stop at a step until the test lets them go on.

use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use testkit::{BASE_IMAGE, Engine, Suite, eventually};

use super::Helper;
use crate::support::web_site::{APPS_DOMAIN, Proxy, RunnerAccount, WebSite, WebSocket};

/// Step of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The code is fetched, or has just been.
    Checkout,
    /// The build command runs.
    Build,
    /// The program runs, and is not healthy yet.
    Start,
    /// The new version is recorded as the one that serves, and the proxy does not know it.
    Route,
    /// The new version serves, and the replaced one has an open connection.
    Drain,
}

impl Step {
    pub(super) const ALL: [Self; 5] =
        [Self::Checkout, Self::Build, Self::Start, Self::Route, Self::Drain];

    /// True while requests go to the version before.
    pub(super) fn is_before_switch(self) -> bool {
        matches!(self, Self::Checkout | Self::Build | Self::Start)
    }
}

/// Technology that runs programs.
pub(super) enum Programs<'a> {
    Sandboxes,
    Containers(&'a Engine),
}

/// A deployment that has reached a step.
pub(super) struct Deployment {
    task: String,
    page: String,
    /// Connection to the version before.
    socket: Option<WebSocket>,
}

/// A site with a deployed environment.
pub(super) struct Drill<'a> {
    pub(super) site: WebSite,
    /// Id of the environment.
    pub(super) id: String,
    suite: &'a Suite,
    /// Task of the Dockerfile that does not end.
    task: String,
    /// Number of deployments.
    number: u32,
}

/// Commands that wait for a file in the data of the environment.
const MANIFEST: &str = r#"[build]
command = "while [ ! -e $DATA_DIR/build ]; do sleep 0.1; done"
[run]
command = "while [ ! -e $DATA_DIR/start ]; do sleep 0.1; done; exec perl server.pl"
"#;

impl<'a> Drill<'a> {
    pub(super) async fn new(suite: &'a Suite, programs: Programs<'_>) -> Self {
        let mut proxy = Proxy::new(APPS_DOMAIN);
        proxy.arguments = match programs {
            Programs::Sandboxes => vec!["--driver=process".to_owned()],
            Programs::Containers(engine) => vec![
                format!("--docker-host={}", engine.socket().display()),
                format!("--base-image={BASE_IMAGE}"),
            ],
        };
        let site = WebSite::with_proxy(suite, RunnerAccount::Own, proxy).await;
        let id = site.environment("main").await;
        site.run("Deploy", &id, json!({})).await;
        site.hosting.repository.write("tenantry.toml", MANIFEST);
        Self { site, id, suite, task: String::new(), number: 0 }
    }

    /// The page that is served; waits for one.
    pub(super) async fn next_page(&self) -> String {
        eventually("a page", async || self.try_page().await).await
    }

    /// The page that is served; fails if there is none.
    pub(super) async fn page(&self) -> String {
        self.try_page().await.expect("a page")
    }

    async fn try_page(&self) -> Option<String> {
        let url = self.site.url_of("main-hosted");
        let response = self.site.visitor(&["main-hosted"]).get(url).send().await.ok()?;
        let is_page = response.status() == 200;
        let body = response.text().await.ok()?;
        let first = body.lines().next().unwrap_or_default().to_owned();
        is_page.then_some(first)
    }

    fn gate(&self, name: &str) -> PathBuf {
        self.site.data_dir().join(&self.id).join("data").join(name)
    }

    pub(super) fn open_gates(&self) {
        for name in ["build", "start"] {
            std::fs::write(self.gate(name), "").unwrap();
        }
    }

    /// Begins a deployment of a new version, which waits in a step.
    pub(super) async fn deploy_until(&mut self, step: Step) -> Deployment {
        self.number += 1;
        let page = format!("{step:?}-{}", self.number);
        self.site.hosting.repository.commit(&page);
        self.open_gates();
        match step {
            Step::Checkout | Step::Build => std::fs::remove_file(self.gate("build")).unwrap(),
            Step::Start => std::fs::remove_file(self.gate("start")).unwrap(),
            Step::Route => self.site.signal_proxy(Signal::STOP),
            Step::Drain => {}
        }
        let socket = if step == Step::Drain {
            let visitor = self.site.visitor(&["main-hosted"]);
            Some(WebSocket::open(&visitor, &self.site.url_of("main-hosted")).await)
        } else {
            None
        };
        let before = self.record()["release"].clone();
        let task = self.site.hosting.start_task("Deploy", &self.id, json!({})).await;
        eventually(&format!("{step:?}"), async || {
            let is_reached = match step {
                Step::Checkout => !self.step_of(&task).await.is_empty(),
                Step::Build => self.step_of(&task).await == "build",
                Step::Start => self.step_of(&task).await == "start",
                Step::Route => self.record()["release"] != before,
                Step::Drain => self.try_page().await.as_ref() == Some(&page),
            };
            is_reached.then_some(())
        })
        .await;
        Deployment { task, page, socket }
    }

    async fn step_of(&self, task: &str) -> String {
        let task = self.site.hosting.task(task).await;
        task["currentStep"].as_str().unwrap_or_default().to_owned()
    }

    fn record(&self) -> Value {
        let file = self.site.data_dir().join(&self.id).join("record.json");
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    /// Lets the lease of a killed runner expire.
    pub(super) fn expire_lease(&self) {
        self.suite.clock.advance(chassis::clock::Duration::seconds(16));
    }

    /// Waits until a deployment has completed and serves, and the version before has ended.
    pub(super) async fn expect_completed(&self, deployment: Deployment) {
        let Deployment { task, page, socket } = deployment;
        drop(socket);
        let task = self.ended_task(&page, &task).await;
        assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{page}: {task}");
        eventually("the new version", async || {
            (self.try_page().await.as_ref() == Some(&page)).then_some(())
        })
        .await;
        self.expect_one_program().await;
    }

    async fn ended_task(&self, page: &str, task: &str) -> Value {
        eventually(&format!("the end of {page}"), async || {
            let task = self.site.hosting.task(task).await;
            task["completeTime"].is_string().then_some(task)
        })
        .await
    }

    /// Waits until a deployment has ended; it may have failed. The environment is served.
    pub(super) async fn expect_end(&self, deployment: Deployment) {
        drop(deployment.socket);
        let task = self.ended_task(&deployment.page, &deployment.task).await;
        assert_ne!(task["state"], "TASK_STATE_CANCELLED", "{task}");
        self.next_page().await;
    }

    /// Checks that the account of the environment has the processes of one program only.
    async fn expect_one_program(&self) {
        let record = self.record();
        assert!(record["previous"].is_null(), "{record}");
        let sandboxes = self.site.data_dir().join(&self.id).join("sandboxes");
        let sandboxes: Vec<_> = std::fs::read_dir(sandboxes).unwrap().flatten().collect();
        assert_eq!(sandboxes.len(), 1, "{sandboxes:?}");
        // Each request has a process of its own.
        eventually("the end of other programs", async || {
            let processes = self.processes();
            let programs = processes.iter().filter(|it| *it == "perl\0server.pl\0");
            (programs.count() == 1).then_some(())
        })
        .await;
    }

    pub(super) async fn expect_one_container(&self, engine: &Engine) {
        eventually("the end of other containers", async || {
            let objects = engine.objects_of(&self.id).await;
            let containers = objects.iter().filter(|it| it.starts_with("container"));
            (containers.count() == 1).then_some(())
        })
        .await;
    }

    /// Command lines of the processes of the environment's account.
    fn processes(&self) -> Vec<String> {
        use std::os::unix::fs::MetadataExt;
        let data = self.site.data_dir().join(&self.id).join("data");
        let Ok(account) = std::fs::metadata(data).map(|it| it.uid()) else { return vec![] };
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let own = all.filter(|it| it.metadata().is_ok_and(|it| it.uid() == account));
        own.filter_map(|it| std::fs::read_to_string(it.path().join("cmdline")).ok()).collect()
    }

    /// Kills the init process of the program. The proxy can reach a program that is not recorded yet.
    pub(super) async fn kill_program(&self) {
        eventually("a recorded program", async || {
            let pid = self.record()["process"]["init"]["pid"].as_i64()?;
            kill_process(Pid::from_raw(i32::try_from(pid).ok()?)?, Signal::KILL).ok()
        })
        .await;
    }

    /// Waits until the runner has looked for the engine in vain for some rounds of two seconds.
    pub(super) async fn wait_for_rounds_without_engine(&self, rounds: usize) {
        eventually("rounds without the engine", async || {
            let log = self.site.runner_log();
            let line = "supervise: the container engine does not answer";
            let lines = log.matches(line).count();
            (lines >= rounds).then_some(())
        })
        .await;
    }

    /// Begins a deployment of a Dockerfile whose second step does not end; returns the process of that step.
    pub(super) async fn begin_endless_dockerfile(&mut self) -> Helper {
        let step = Helper::new();
        let repository = &self.site.hosting.repository;
        std::fs::remove_file(repository.path().join("tenantry.toml")).unwrap();
        let endless = step.command();
        let endless = endless.trim_end_matches('&');
        let dockerfile =
            format!("FROM {BASE_IMAGE}\nRUN echo first > /first\nRUN exec {endless}\n");
        repository.write("Dockerfile", &dockerfile);
        repository.commit("dockerfile");
        self.task = self.site.hosting.start_task("Deploy", &self.id, json!({})).await;
        eventually("the endless step", async || step.is_running().then_some(())).await;
        step
    }

    /// Commits a Dockerfile that serves.
    pub(super) fn end_dockerfile(&self) {
        let repository = &self.site.hosting.repository;
        let dockerfile = format!(
            "FROM {BASE_IMAGE}\nWORKDIR /srv\nCOPY server.pl page.txt ./\nCMD [\"perl\", \"server.pl\"]\n"
        );
        repository.write("Dockerfile", &dockerfile);
        repository.commit("image");
    }

    pub(super) async fn expect_completed_dockerfile(&self) {
        let task = self.ended_task("the Dockerfile", &self.task).await;
        assert_eq!(task["state"], "TASK_STATE_COMPLETED", "{task}");
        assert_eq!(self.next_page().await, "image");
    }

    pub(super) async fn expect_failed_dockerfile(&self) {
        let task = self.ended_task("the Dockerfile", &self.task).await;
        assert_eq!(task["state"], "TASK_STATE_FAILED", "{task}");
        self.next_page().await;
    }

    /// Destroys the environment, of which nothing may be left.
    pub(super) async fn destroy(&self) {
        self.site.run("Destroy", &self.id, json!({ "confirmName": "main" })).await;
        assert!(!self.site.data_dir().join(&self.id).exists());
        let namespace = format!("tny-{}", &self.id.replace('-', "")[16..]);
        assert!(!std::path::Path::new("/run/netns").join(namespace).exists());
    }
}
