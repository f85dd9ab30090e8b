//! The cluster: three machines with a replica of each service and a NATS node, one PostgreSQL and a gateway.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};

use crate::{
    disk::Disk,
    network::{self, Cut, MACHINES, Machine, SERVICES, address},
    program::{Account, Program},
    sandbox::{binary, text_of},
};

/// Interval at which ended programs are noticed.
const SUPERVISE_INTERVAL: Duration = Duration::from_millis(250);
/// Longest wait for PostgreSQL at the first start.
const POSTGRES_MAX: Duration = Duration::from_secs(60);

/// Size of the disk of PostgreSQL, and of a machine, in MiB.
const POSTGRES_MIB: u64 = 768;
const MACHINE_MIB: u64 = 256;

/// Settings of PostgreSQL beside its defaults, which are durable. `syncfs`: after a crash the server waits
/// for one flush of its disk, instead of one for each of its thousands of files.
const POSTGRES_CONF: &str = "listen_addresses = '10.77.0.1'
unix_socket_directories = ''
max_connections = 250
shared_buffers = 64MB
min_wal_size = 32MB
max_wal_size = 128MB
recovery_init_sync_method = syncfs
";

/// Differences of a cluster from the default one.
pub(crate) struct Options {
    /// Number of machines whose services are started; their NATS nodes always are.
    pub(crate) machines: u8,
    /// Control group of the services of a machine.
    pub(crate) control_groups: Vec<PathBuf>,
}

/// The programs and disks of a cluster.
pub(crate) struct Cluster {
    pub(crate) programs: Vec<Program>,
    /// Disks of the machines in their order.
    pub(crate) disks: Vec<Disk>,
    pub(crate) postgres_disk: Disk,
    pub(crate) folder: PathBuf,
    /// Certificate of the authority (PEM).
    pub(crate) authority: String,
}

impl Cluster {
    /// Starts the cluster. Its services may not answer yet.
    pub(crate) async fn start(folder: &Path, options: Options) -> Result<Self> {
        let postgres_disk = Disk::create(folder, "postgres", POSTGRES_MIB)?;
        let disk = |machine| Disk::create(folder, &format!("machine-{machine}"), MACHINE_MIB);
        let disks: Vec<_> = (1..=MACHINES).map(disk).collect::<Result<_>>()?;
        create_secrets(folder)?;
        let authority = std::fs::read_to_string(folder.join("tls/authority/ca.pem"))?;
        let programs = vec![];
        let mut cluster =
            Self { programs, disks, postgres_disk, folder: folder.to_owned(), authority };
        cluster.start_postgres().await?;
        for machine in 1..=MACHINES {
            let node = cluster.nats_node(machine)?;
            cluster.add(node)?;
        }
        cluster.migrate()?;
        for machine in 1..=options.machines {
            for service in SERVICES {
                let mut replica = cluster.replica(service, machine)?;
                let group = options.control_groups.get(usize::from(machine) - 1);
                replica.control_group = group.cloned();
                cluster.add(replica)?;
            }
        }
        let gateway = cluster.gateway()?;
        cluster.add(gateway)?;
        Ok(cluster)
    }

    fn add(&mut self, mut program: Program) -> Result<()> {
        program.start()?;
        self.programs.push(program);
        Ok(())
    }

    /// Returns the program with a name.
    pub(crate) fn program(&mut self, name: &str) -> Result<&mut Program> {
        let found = self.programs.iter_mut().find(|it| it.name == name);
        found.with_context(|| format!("no program is named {name}"))
    }

    /// Starts programs again that have ended without a fault.
    pub(crate) fn supervise(&mut self) -> Result<()> {
        self.programs.iter_mut().try_for_each(Program::supervise)
    }

    /// Waits for a time, and meanwhile starts programs again that have ended.
    pub(crate) async fn run_for(&mut self, time: Duration) -> Result<()> {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            self.supervise()?;
            tokio::time::sleep(SUPERVISE_INTERVAL.min(time)).await;
        }
        self.supervise()
    }

    /// Number of ends of programs that no fault caused, with their names.
    pub(crate) fn crashes(&self) -> Vec<(String, usize)> {
        let crashed = self.programs.iter().filter(|it| it.crashes > 0);
        crashed.map(|it| (it.name.clone(), it.crashes)).collect()
    }

    /// Cuts the power of machines, and with `None` that of PostgreSQL: nothing reaches their disks after this
    /// moment.
    pub(crate) fn cut_power(&mut self, places: &[Option<Machine>]) -> Result<()> {
        // All at once, before a disk is gone: a stopped process acknowledges nothing that its disk did not
        // get. Without a network no peer learns of the end of a connection.
        for place in places {
            if let Some(machine) = place {
                network::cut(*machine, Cut::Everything)?;
            }
            self.on(*place).for_each(|it| it.signal(Signal::STOP));
        }
        for place in places {
            self.disk(*place).shut_down()?;
        }
        for place in places {
            self.on(*place).for_each(Program::kill);
            self.disk(*place).unmount()?;
        }
        Ok(())
    }

    /// Starts what [`Self::cut_power`] has ended.
    pub(crate) fn restore_power(&mut self, places: &[Option<Machine>]) -> Result<()> {
        for place in places {
            self.disk(*place).mount()?;
            if let Some(machine) = place {
                network::join(*machine)?;
            }
            self.on(*place).try_for_each(Program::start)?;
        }
        Ok(())
    }

    /// Programs that use the disk of a machine, or that of PostgreSQL.
    fn on(&mut self, machine: Option<Machine>) -> impl Iterator<Item = &mut Program> {
        let is_on = move |it: &&mut Program| match machine {
            Some(_) => it.machine == machine,
            None => it.name == "postgres",
        };
        self.programs.iter_mut().filter(is_on)
    }

    /// Disk of a machine, or that of PostgreSQL.
    pub(crate) fn disk(&self, machine: Option<Machine>) -> &Disk {
        machine.map_or(&self.postgres_disk, |it| &self.disks[usize::from(it) - 1])
    }

    /// Directories with the mails that the services have sent.
    pub(crate) fn mail_folders(&self) -> Vec<PathBuf> {
        let services = ["identity", "invitation"];
        let of = |disk: &Disk| services.map(|it| disk.mount_point.join(it).join("mail"));
        self.disks.iter().flat_map(of).collect()
    }

    /// Options of a connection of the owner of the database.
    pub(crate) fn database_options() -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass().host("10.77.0.1");
        options.username("tenantry").database("tenantry")
    }

    fn program_of(&self, name: String, path: PathBuf, arguments: Vec<String>) -> Program {
        let log = self.folder.join(format!("{name}.log"));
        Program {
            name,
            machine: None,
            path,
            arguments,
            account: None,
            variables: vec![],
            log,
            is_held: false,
            child: None,
            crashes: 0,
            control_group: None,
        }
    }

    async fn start_postgres(&mut self) -> Result<()> {
        let account = postgres_account()?;
        let data = self.postgres_disk.mount_point.join("data");
        std::fs::create_dir(&data)?;
        std::os::unix::fs::chown(&data, Some(account.uid), Some(account.gid))?;
        let mut initdb = Command::new(embedded_postgres::program("initdb")?);
        initdb.args(["--username=tenantry", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        initdb.args(["--wal-segsize=4", "-D"]).arg(&data).current_dir("/").stdout(Stdio::null());
        std::os::unix::process::CommandExt::uid(&mut initdb, account.uid);
        std::os::unix::process::CommandExt::gid(&mut initdb, account.gid);
        ensure!(initdb.status()?.success(), "initdb failed");
        std::fs::write(data.join("pg_hba.conf"), "host all all 10.77.0.0/16 trust\n")?;
        let conf = data.join("postgresql.conf");
        std::fs::write(&conf, std::fs::read_to_string(&conf)? + POSTGRES_CONF)?;
        let arguments = vec!["-D".to_owned(), text_of(&data)];
        let path = embedded_postgres::program("postgres")?;
        let mut server = self.program_of("postgres".to_owned(), path, arguments);
        server.account = Some(account);
        self.add(server)?;
        let options = Self::database_options().database("postgres");
        let connect = async {
            loop {
                match PgConnection::connect_with(&options).await {
                    Ok(connection) => return connection,
                    Err(_) => tokio::time::sleep(SUPERVISE_INTERVAL).await,
                }
            }
        };
        let mut connection = tokio::time::timeout(POSTGRES_MAX, connect).await?;
        connection.execute("create database tenantry").await?;
        connection.execute(include_str!("../../../deploy/roles.sql")).await?;
        Ok(())
    }

    /// NATS node with the users of `deploy/nats.conf`.
    fn nats_node(&self, machine: Machine) -> Result<Program> {
        let address = address("nats", machine);
        let store = self.disk(Some(machine)).mount_point.join("nats");
        let text = include_str!("../../../deploy/nats.conf");
        // Older servers reject `sync_interval: always`; this run shows that nothing is lost without it.
        let text = text.replace("port: 4222\n", "").replace(", sync_interval: always", "");
        let text = text.replace("/data", &text_of(&store));
        let routes: Vec<_> = (1..=MACHINES).map(|it| format!("nats://nats-{it}:6222")).collect();
        let text = format!(
            "server_name: nats-{machine}\nlisten: \"{address}:4222\"\n\
             cluster {{ name: tenantry, listen: \"{address}:6222\", routes: [{}] }}\n{text}",
            routes.join(", ")
        );
        let conf = self.folder.join(format!("nats-{machine}.conf"));
        std::fs::write(&conf, text)?;
        let arguments = vec!["-c".to_owned(), text_of(&conf)];
        let mut node = self.program_of(format!("nats-{machine}"), "nats-server".into(), arguments);
        node.machine = Some(machine);
        Ok(node)
    }

    /// Applies all migrations.
    fn migrate(&self) -> Result<()> {
        let output = Command::new(binary("tenantry")?)
            .args(["migrate", "--database-url=postgres://tenantry@postgres/tenantry"])
            .args(self.key_arguments())
            .arg(format!("--data-dir={}", self.folder.join("migrate").display()))
            .output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`tenantry migrate` failed: {error}");
        Ok(())
    }

    fn key_arguments(&self) -> [String; 2] {
        let file = |name| self.folder.join(name).display().to_string();
        [
            format!("--key-file={}", file("secret.key")),
            format!("--audit-key-file={}", file("audit.key")),
        ]
    }

    /// A replica. Those of a service differ only in their addresses and directories, which a container engine
    /// would give them.
    fn replica(&self, service: &str, machine: Machine) -> Result<Program> {
        let address = address(service, machine);
        let disk = &self.disk(Some(machine)).mount_point;
        let tls = self.folder.join("tls").join(service);
        let nats: Vec<_> =
            (1..=MACHINES).map(|it| format!("nats://{service}:{service}@nats-{it}:4222")).collect();
        let mut arguments = vec![
            format!("--listen={address}:50051"),
            format!("--health-listen={address}:8081"),
            format!("--data-dir={}", disk.join(service).display()),
            format!("--database-url=postgres://tenantry_{service}:{service}@postgres/tenantry"),
            format!("--nats-url={}", nats.join(",")),
            "--nats-stream-replicas=3".to_owned(),
            format!("--tls-cert={}", tls.join("tls.pem").display()),
            format!("--tls-key={}", tls.join("tls.key").display()),
            format!("--tls-ca={}", tls.join("ca.pem").display()),
            "--base-url=https://gateway:50051".to_owned(),
            "--trusted-proxies=10.77.0.1".to_owned(),
            "--mail-console=false".to_owned(),
            "--sign-ins-max=0".to_owned(),
            "--created-orgs-max=100000".to_owned(),
            "--invitations-max=0".to_owned(),
        ];
        arguments.extend(self.key_arguments());
        let name = format!("{service}-{machine}");
        let mut replica = self.program_of(name, binary(service)?, arguments);
        replica.machine = Some(machine);
        Ok(replica)
    }

    /// Caddy with `deploy/Caddyfile`.
    fn gateway(&self) -> Result<Program> {
        let text = include_str!("../../../deploy/Caddyfile");
        let tls = self.folder.join("tls/gateway");
        let text = text.replace("/tls/", &format!("{}/", tls.display()));
        let file = self.folder.join("Caddyfile");
        std::fs::write(&file, text)?;
        let file = text_of(&file);
        let arguments = ["run", "--config", &file, "--adapter", "caddyfile"].map(str::to_owned);
        let mut gateway =
            self.program_of("gateway".to_owned(), testkit::caddy(), arguments.to_vec());
        let home = text_of(&self.folder.join("caddy"));
        gateway.variables = ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"]
            .map(|it| (it.to_owned(), home.clone()))
            .to_vec();
        Ok(gateway)
    }
}

/// Creates certificates and keys.
fn create_secrets(folder: &Path) -> Result<()> {
    let program = binary("tenantry")?;
    let addresses = (1..=MACHINES).flat_map(|it| SERVICES.map(|name| address(name, it)));
    let hosts: Vec<_> = addresses.collect();
    let certs = vec![
        "certs".to_owned(),
        format!("--out={}", folder.join("tls").display()),
        "--split".to_owned(),
        format!("--services={}", SERVICES.join(",")),
        "--proxies=gateway".to_owned(),
        format!("--hosts={}", hosts.join(",")),
    ];
    let keys = vec![
        "keys".to_owned(),
        format!("--secret-key={}", folder.join("secret.key").display()),
        format!("--audit-key={}", folder.join("audit.key").display()),
    ];
    for arguments in [certs, keys] {
        let output = Command::new(&program).args(&arguments).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`tenantry {}` failed: {error}", arguments[0]);
    }
    Ok(())
}

/// The account `postgres`, which PostgreSQL's package creates.
fn postgres_account() -> Result<Account> {
    let text = std::fs::read_to_string("/etc/passwd")?;
    let line = text.lines().find(|it| it.starts_with("postgres:"));
    let mut fields = line.context("there is no account `postgres`")?.split(':').skip(2);
    let mut next = || -> Result<u32> { Ok(fields.next().context("/etc/passwd")?.parse()?) };
    Ok(Account { uid: next()?, gid: next()? })
}
