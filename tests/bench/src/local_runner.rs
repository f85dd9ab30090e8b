//! A runner in this process that gets its tasks from the benchmark, without a suite.

use std::{
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use api::project as pb;
use runner::{IsolationPolicy, NetworkSettings, ProxySettings, Settings, TaskClient};
use tempfile::TempDir;
use tokio::{
    sync::{
        Mutex,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::hosting::write_repository;

/// Longest wait for the removal of the environments.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(120);

/// The calls of a runner, answered by the benchmark.
struct Tasks {
    leases: Mutex<UnboundedReceiver<pb::Lease>>,
    results: UnboundedSender<pb::FinishTaskRequest>,
    /// True: no environment exists any more.
    is_over: AtomicBool,
}

/// Makes the runner's client of a shared value.
struct Client(Arc<Tasks>);

#[tonic::async_trait]
impl TaskClient for Client {
    async fn lease(&self, _: pb::LeaseTaskRequest) -> Result<Option<pb::Lease>, Status> {
        Ok(self.0.leases.lock().await.recv().await)
    }

    async fn report(&self, _: pb::ReportProgressRequest) -> Result<bool, Status> {
        Ok(false)
    }

    async fn finish(&self, request: pb::FinishTaskRequest) -> Result<(), Status> {
        // Fails only at the end of the benchmark.
        let _ = self.0.results.send(request);
        Ok(())
    }

    async fn send_heartbeat(
        &self,
        request: pb::HeartbeatRequest,
    ) -> Result<pb::HeartbeatResponse, Status> {
        let mut response = pb::HeartbeatResponse::default();
        if self.0.is_over.load(Ordering::Relaxed) {
            let ids = request.environments.into_iter().map(|it| it.environment_id);
            response.unknown_environment_ids = ids.collect();
        }
        Ok(response)
    }

    async fn lease_stream(
        &self,
        _: pb::LeaseStreamRequest,
    ) -> Result<Option<pb::StreamLease>, Status> {
        // Nobody reads a log.
        std::future::pending().await
    }

    async fn receive_input(
        &self,
        _: pb::ReceiveStreamInputRequest,
    ) -> Result<Option<pb::StreamInputs>, Status> {
        Err(Status::unimplemented("no commands"))
    }

    async fn send_part(&self, _: pb::SendStreamDataRequest) -> Result<pb::StreamState, Status> {
        Ok(pb::StreamState::Closed)
    }

    async fn set_challenge(&self, _: pb::SetDnsChallengeRequest) -> Result<(), Status> {
        Err(Status::unimplemented("no DNS server"))
    }

    async fn clear_challenge(&self, _: pb::ClearDnsChallengeRequest) -> Result<(), Status> {
        Err(Status::unimplemented("no DNS server"))
    }
}

/// A running runner with a repository.
pub(crate) struct LocalRunner {
    tasks: Arc<Tasks>,
    leases: UnboundedSender<pb::Lease>,
    results: UnboundedReceiver<pb::FinishTaskRequest>,
    folder: TempDir,
    repository: TempDir,
    stop: CancellationToken,
    running: JoinHandle<Result<()>>,
}

impl LocalRunner {
    /// Starts a runner. `server`: the deployed program, in Perl.
    pub(crate) fn start(server: &str, proxy: Option<ProxySettings>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // Accounts of environments enter the directory.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let repository = tempfile::tempdir()?;
        write_repository(repository.path(), server)?;
        let bind = std::net::Ipv4Addr::LOCALHOST.into();
        let settings = Settings {
            name: "bench".to_owned(),
            data_dir: folder.path().join("runner"),
            bind,
            address: None,
            database_url: None,
            isolation: IsolationPolicy::BestEffort,
            network: NetworkSettings { addresses: "10.213.0.0/16".parse()?, reachable: vec![] },
            build_memory_mb: None,
            proxy,
            docker: None,
        };
        let (leases, receiver) = unbounded_channel();
        let (sender, results) = unbounded_channel();
        let is_over = AtomicBool::new(false);
        let tasks = Arc::new(Tasks { leases: Mutex::new(receiver), results: sender, is_over });
        let (registered, stop) = (CancellationToken::new(), CancellationToken::new());
        let running = runner::run(Client(tasks.clone()), settings, registered, stop.clone());
        #[expect(clippy::disallowed_methods, reason = "the task is awaited when the runner stops")]
        let running = tokio::spawn(running);
        Ok(Self { tasks, leases, results, folder, repository, stop, running })
    }

    /// Deploys environments and waits until they run. `hostname` returns the host name of one.
    pub(crate) async fn deploy(
        &mut self,
        count: usize,
        hostname: impl Fn(usize) -> String,
    ) -> Result<()> {
        for number in 0..count {
            let id = || chassis::id::new().to_string();
            self.leases.send(pb::Lease {
                task_id: id(),
                lease_id: id(),
                environment_id: id(),
                release: id(),
                repository_url: self.repository.path().to_string_lossy().into_owned(),
                branch: "main".to_owned(),
                kind: pb::TaskKind::Deploy.into(),
                resources: Some(pb::Resources { cpu_cores: 2.0, memory_mb: 512, disk_gb: 1 }),
                hostname: hostname(number),
                ..pb::Lease::default()
            })?;
        }
        for _ in 0..count {
            let result = self.results.recv().await.context("the runner has ended")?;
            ensure!(result.error_message.is_empty(), "{}", result.error_message);
        }
        Ok(())
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("runner")
    }

    /// Removes all environments, and stops the runner and its proxy.
    pub(crate) async fn stop(self) -> Result<()> {
        self.tasks.is_over.store(true, Ordering::Relaxed);
        let data_dir = self.data_dir();
        let deadline = Instant::now() + REMOVAL_TIMEOUT;
        let is_environment = |it: &std::fs::DirEntry| it.path().join("record.json").exists();
        while std::fs::read_dir(&data_dir)?.flatten().any(|it| is_environment(&it)) {
            ensure!(Instant::now() < deadline, "the environments were not removed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.stop.cancel();
        self.running.await??;
        if let Ok(mut proxy) = UnixStream::connect(data_dir.join("proxy/run/admin.sock")) {
            proxy.write_all(b"POST /stop HTTP/1.0\r\nContent-Length: 0\r\n\r\n")?;
            // The answer follows after the end of its open requests.
            let _ = proxy.read_to_end(&mut vec![]);
        }
        Ok(())
    }
}
