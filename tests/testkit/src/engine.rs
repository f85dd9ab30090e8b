//! One Docker Engine for all tests, with its own directories, beside that of the machine. It pulls nothing:
//! its base image consists of packages of this machine.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bollard::{
    Docker, body_full,
    query_parameters::{
        CreateImageOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
        ListVolumesOptions,
    },
};
use futures::StreamExt;
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};
use tokio::sync::OnceCell;

/// Image with a shell, Perl and Python.
pub const BASE_IMAGE: &str = "test-base:1";

/// Packages of the base image, beside those on which they depend.
const PACKAGES: [&str; 8] =
    ["base-files", "dash", "bash", "coreutils", "util-linux", "libc-bin", "perl", "python3"];

/// Program of the engine.
const DOCKERD: &str = "/usr/sbin/dockerd";

/// A Docker Engine.
pub struct Engine {
    folder: PathBuf,
    client: Docker,
    /// Lock held until the end of the process, so that two test runs do not start it at the same time.
    _lock: File,
    /// True for the engine of one test, which ends with it.
    is_own: bool,
    /// End of its containers.
    containers: Containers,
}

/// End of the containers of an engine that is killed and starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containers {
    /// They go on (`live-restore`).
    GoOn,
    /// The engine kills them at its next start, as is its default.
    AreKilled,
}

static ENGINE: OnceCell<Option<Engine>> = OnceCell::const_new();

impl Engine {
    /// Returns the engine of this test run. `None` where this machine cannot run one, which is printed and
    /// noted: the calling test counts as skipped.
    pub async fn shared() -> Option<&'static Self> {
        let engine = ENGINE.get_or_init(|| async {
            match Self::start().await {
                Ok(engine) => Some(engine),
                Err(reason) => {
                    note_skipped(&reason);
                    None
                }
            }
        });
        let engine = engine.await.as_ref();
        if engine.is_none() {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            note_skipped(&test);
        }
        engine
    }

    /// Starts an engine for one test, which it can kill.
    pub async fn own(folder: &Path, containers: Containers) -> Option<Self> {
        Self::shared().await?;
        let engine = Self::start_in(folder.to_owned(), containers).await;
        let mut engine = engine.expect("another engine starts");
        engine.is_own = true;
        Some(engine)
    }

    /// Kills the engine (`SIGKILL`) and starts it again.
    pub async fn kill_and_start(&mut self) {
        self.kill();
        self.start_again().await;
    }

    /// Kills the engine (`SIGKILL`), and with it its containerd.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Starts a killed engine.
    pub async fn start_again(&mut self) {
        let started = start_engine(&self.folder, &self.socket(), self.containers).await;
        self.client = started.expect("it starts again");
    }

    /// Kills its containerd (`SIGKILL`), which the engine starts again, and waits for that.
    pub async fn kill_containerd(&self) {
        let file = self.folder.join("exec/containerd/containerd.pid");
        let pid = || fs::read_to_string(&file).ok()?.trim().parse().ok().and_then(Pid::from_raw);
        let killed = pid().expect("a running containerd");
        kill_process(killed, Signal::KILL).expect("it is running");
        crate::eventually("another containerd", async || {
            // The engine leaves out a component that does not answer.
            let components = self.client.version().await.ok()?.components.unwrap_or_default();
            let is_answering = components.iter().any(|it| it.name == "containerd");
            pid().filter(|it| *it != killed && is_answering)
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        let pid = fs::read_to_string(self.folder.join("pid")).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
            while Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("exe").exists() {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            // An engine does not start while its file names a process, also one that has ended.
            let _ = fs::remove_file(self.folder.join("pid"));
            // Its containerd ends with it.
            let _ = fs::remove_file(self.folder.join("exec/containerd/containerd.pid"));
        }
    }

    async fn start() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("the tests do not run as root".to_owned());
        }
        if !Path::new(DOCKERD).exists() {
            return Err(format!("{DOCKERD} is not installed; run `cargo xtask test`"));
        }
        Self::start_in(folder(), Containers::GoOn).await
    }

    async fn start_in(folder: PathBuf, containers: Containers) -> Result<Self, String> {
        fs::create_dir_all(&folder).map_err(|it| it.to_string())?;
        let lock = File::create(folder.join("lock")).map_err(|it| it.to_string())?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|it| it.to_string())?;
        let socket = folder.join("docker.sock");
        let client = match connect(&socket).await {
            Some(client) => client,
            None => start_engine(&folder, &socket, containers).await?,
        };
        let engine = Self { folder, client, _lock: lock, is_own: false, containers };
        engine.import_base_image().await?;
        Ok(engine)
    }

    /// Path of its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    /// Client of its API.
    pub fn client(&self) -> &Docker {
        &self.client
    }

    /// Everything in the engine that has to do with an environment: containers, images, networks, volumes.
    pub async fn objects_of(&self, environment: &str) -> Vec<String> {
        let label = format!("tenantry.environment={environment}");
        let filters = HashMap::from([("label", vec![label])]);
        let mut objects = vec![];
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = self.client.list_containers(Some(options)).await.expect("an answer");
        objects.extend(containers.iter().map(|it| format!("container {:?}", it.state)));
        let name = HashMap::from([("reference", vec![format!("tenantry/{environment}")])]);
        let options = ListImagesOptionsBuilder::new().filters(&name).build();
        let images = self.client.list_images(Some(options)).await.expect("an answer");
        objects.extend(images.iter().map(|it| format!("image {:?}", it.repo_tags)));
        let networks = self.client.list_networks(None).await.expect("an answer");
        let networks = networks.into_iter().filter_map(|it| it.name);
        objects.extend(
            networks.filter(|it| it.contains(environment)).map(|it| format!("network {it}")),
        );
        let volumes =
            self.client.list_volumes(None::<ListVolumesOptions>).await.expect("an answer").volumes;
        let volumes = volumes.unwrap_or_default().into_iter().map(|it| it.name);
        objects
            .extend(volumes.filter(|it| it.contains(environment)).map(|it| format!("volume {it}")));
        objects
    }

    /// Ids of all images, also of unnamed layers.
    pub async fn images(&self) -> BTreeSet<String> {
        let options = ListImagesOptionsBuilder::new().all(true).build();
        let images = self.client.list_images(Some(options)).await.expect("an answer");
        images.into_iter().map(|it| it.id).collect()
    }

    async fn import_base_image(&self) -> Result<(), String> {
        if self.client.inspect_image(BASE_IMAGE).await.is_ok() {
            return Ok(());
        }
        let archive = tokio::task::spawn_blocking(archive_packages).await;
        let archive = archive.map_err(|it| it.to_string())??;
        let (repository, tag) = BASE_IMAGE.split_once(':').unwrap_or((BASE_IMAGE, ""));
        let options =
            CreateImageOptionsBuilder::new().from_src("-").repo(repository).tag(tag).build();
        let mut import = std::pin::pin!(self.client.create_image(
            Some(options),
            Some(body_full(archive.into())),
            None
        ));
        while let Some(step) = import.next().await {
            step.map_err(|it| format!("the base image cannot be imported: {it}"))?;
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.is_own {
            self.signal(Signal::TERM);
        }
    }
}

/// Directory of the engine: one per checkout, reused by the next run. `cargo xtask test` ends it.
fn folder() -> PathBuf {
    crate::database::folder().with_extension("engine")
}

/// Prints the reason, and appends it to the file that `cargo xtask test` prints.
fn note_skipped(text: &str) {
    let line = format!("SKIPPED, no container engine: {text}\n");
    let mut error = std::io::stderr();
    let _ = error.write_all(line.as_bytes());
    let _ = fs::create_dir_all(folder());
    let file = File::options().create(true).append(true).open(folder().join("skipped"));
    let _ = file.and_then(|mut it| it.write_all(line.as_bytes()));
}

async fn connect(socket: &Path) -> Option<Docker> {
    let path = socket.to_str()?;
    let client = Docker::connect_with_unix(path, 120, bollard::API_DEFAULT_VERSION).ok()?;
    client.negotiate_version().await.ok()
}

/// Starts an engine that changes nothing of the machine: neither its bridge nor its packet filter.
async fn start_engine(
    folder: &Path,
    socket: &Path,
    containers: Containers,
) -> Result<Docker, String> {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let log = File::create(folder.join("log")).map_err(|it| it.to_string())?;
    let mut command = Command::new(DOCKERD);
    command.args(["--data-root", &path("data"), "--exec-root", &path("exec")]);
    command.args(["--pidfile", &path("pid"), "--host", &format!("unix://{}", socket.display())]);
    command.args(["--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]);
    command.args(["--ip-forward=false", "--log-level", "warn"]);
    if containers == Containers::GoOn {
        command.arg("--live-restore");
    }
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(|it| it.to_string())?).stderr(log);
    let mut child = command.process_group(0).spawn().map_err(|it| it.to_string())?;
    loop {
        if let Some(client) = connect(socket).await {
            return Ok(client);
        }
        if let Some(status) = child.try_wait().map_err(|it| it.to_string())? {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(5).collect();
            return Err(format!("the engine ended ({status}): {}", lines.join(" | ")));
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Archives the files of [`PACKAGES`], and of those on which they depend.
fn archive_packages() -> Result<Vec<u8>, String> {
    let query = |arguments: &[&str]| {
        let output = Command::new("dpkg-query").args(arguments).output();
        let output = output.map_err(|it| format!("dpkg-query does not run: {it}"))?;
        Ok::<_, String>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let installed = query(&["--show", "--showformat=${Package}\t${Pre-Depends}, ${Depends}\n"])?;
    let dependencies: BTreeMap<_, _> =
        installed.lines().filter_map(|it| it.split_once('\t')).collect();
    let mut packages = BTreeSet::new();
    let mut queue: Vec<_> = PACKAGES.to_vec();
    while let Some(package) = queue.pop() {
        if let Some(needed) = dependencies.get(package)
            && packages.insert(package)
        {
            let names = needed.split([',', '|']).filter_map(|it| it.split_whitespace().next());
            queue.extend(names.filter_map(|it| it.split(':').next()));
        }
    }
    let mut list = vec!["--listfiles"];
    list.extend(&packages);
    let mut files: BTreeSet<_> = ["bin", "lib", "lib64", "sbin"].map(PathBuf::from).into();
    for line in query(&list)?.lines().map(Path::new).filter(|it| it.is_absolute()) {
        // The directories of these files are symbolic links on a current machine (`/bin`).
        let parent = line.parent().and_then(|it| it.canonicalize().ok());
        if let (Some(parent), Some(name)) = (parent, line.file_name())
            && !line.starts_with("/usr/share/doc")
            && line.symlink_metadata().is_ok()
        {
            files.insert(parent.join(name).strip_prefix("/").unwrap_or(line).to_owned());
        }
    }
    let mut tar = Command::new("tar");
    tar.args(["--create", "--file=-", "--directory=/", "--no-recursion", "--files-from=-"]);
    tar.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = tar.spawn().map_err(|it| it.to_string())?;
    let names: Vec<_> = files.iter().map(|it| it.to_string_lossy().into_owned()).collect();
    let mut input = child.stdin.take().ok_or("no standard input")?;
    let writer = std::thread::spawn(move || input.write_all(names.join("\n").as_bytes()));
    let output = child.wait_with_output().map_err(|it| it.to_string())?;
    writer.join().map_err(|_| "the list of files is not written")?.map_err(|it| it.to_string())?;
    Ok(output.stdout)
}
