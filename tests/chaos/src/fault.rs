//! Faults, chosen by a seeded generator.

use std::{fmt, time::Duration};

use anyhow::Result;
use fastrand::Rng;
use rustix::process::Signal;

use crate::{
    cluster::Cluster,
    network::{self, Cut, MACHINES, Machine, SERVICES},
};

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A program is killed (`SIGKILL`), and started again at the end.
    Kill(String),
    /// A program does not run (`SIGSTOP`) until the end.
    Freeze(String),
    /// The power of a machine is cut: its NATS node and its replicas.
    CutPower(Machine),
    /// The power of PostgreSQL is cut.
    CutPowerOfPostgres,
    /// The power of all machines is cut at once, which all NATS nodes survive with what their disks have.
    CutPowerOfMachines,
    /// The power of everything is cut at once.
    CutPowerOfAll,
    /// A machine is cut off from others.
    Partition(Machine, Cut),
    /// The disk of a machine, with its NATS node, is full.
    FillDisk(Machine),
    /// The disk of PostgreSQL is full.
    FillDiskOfPostgres,
}

/// Part of the cluster that a fault concerns; two faults at a time concern different ones.
#[derive(PartialEq, Eq)]
enum Place {
    Machine(Machine),
    Postgres,
    All,
}

/// Kinds of faults in random order: each comes once before one comes again.
pub(crate) struct Deck {
    rng: Rng,
    /// Faults that are not drawn yet.
    left: Vec<Fault>,
}

impl Deck {
    /// Creates a deck. The same seed draws the same faults.
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), left: vec![] }
    }

    /// Draws one fault, or in one of four cases two that do not concern the same part, and their duration.
    pub(crate) fn draw(&mut self) -> (Vec<Fault>, Duration) {
        let first = self.draw_one();
        let mut drawn = vec![first];
        if self.rng.u8(..4) == 0 && drawn[0].place() != Place::All {
            let second = self.draw_one();
            if second.place() != Place::All && second.place() != drawn[0].place() {
                drawn.push(second);
            } else {
                self.left.push(second);
            }
        }
        (drawn, Duration::from_millis(self.rng.u64(2_000..10_000)))
    }

    fn draw_one(&mut self) -> Fault {
        if let Some(fault) = self.left.pop() {
            return fault;
        }
        self.left = self.all();
        self.rng.shuffle(&mut self.left);
        self.draw_one()
    }

    /// A fault of each kind, with random machines and services.
    fn all(&mut self) -> Vec<Fault> {
        let rng = &mut self.rng;
        let mut machine = || rng.u8(1..=MACHINES);
        let mut all = vec![
            Fault::Kill("postgres".to_owned()),
            Fault::Kill(format!("nats-{}", machine())),
            Fault::Freeze("postgres".to_owned()),
            Fault::Freeze(format!("nats-{}", machine())),
            Fault::CutPower(machine()),
            Fault::CutPowerOfPostgres,
            Fault::CutPowerOfMachines,
            Fault::CutPowerOfAll,
            Fault::FillDisk(machine()),
            Fault::FillDiskOfPostgres,
        ];
        let cuts =
            [Cut::Postgres, Cut::Nats, Cut::Machines, Cut::Everything, Cut::Inbound, Cut::Loss];
        all.extend(cuts.map(|cut| Fault::Partition(machine(), cut)));
        for service in SERVICES {
            let replica = format!("{service}-{}", machine());
            all.push(if machine() == 1 { Fault::Freeze(replica) } else { Fault::Kill(replica) });
        }
        all
    }
}

impl Fault {
    fn place(&self) -> Place {
        match self {
            Self::Kill(name) | Self::Freeze(name) => {
                let machine = name.rsplit_once('-').and_then(|it| it.1.parse().ok());
                machine.map_or(Place::Postgres, Place::Machine)
            }
            Self::CutPower(machine) | Self::Partition(machine, _) | Self::FillDisk(machine) => {
                Place::Machine(*machine)
            }
            Self::CutPowerOfPostgres | Self::FillDiskOfPostgres => Place::Postgres,
            Self::CutPowerOfMachines | Self::CutPowerOfAll => Place::All,
        }
    }

    /// Machines without power, and `None` for PostgreSQL.
    fn powered(&self) -> Vec<Option<Machine>> {
        let machines = (1..=MACHINES).map(Some);
        match self {
            Self::CutPower(machine) => vec![Some(*machine)],
            Self::CutPowerOfPostgres => vec![None],
            Self::CutPowerOfMachines => machines.collect(),
            Self::CutPowerOfAll => [None].into_iter().chain(machines).collect(),
            _ => vec![],
        }
    }

    /// Begins the fault.
    pub(crate) fn begin(&self, cluster: &mut Cluster) -> Result<()> {
        match self {
            Self::Kill(name) => cluster.program(name)?.kill(),
            Self::Freeze(name) => cluster.program(name)?.signal(Signal::STOP),
            Self::CutPower(_)
            | Self::CutPowerOfPostgres
            | Self::CutPowerOfMachines
            | Self::CutPowerOfAll => cluster.cut_power(&self.powered())?,
            Self::Partition(machine, cut) => network::cut(*machine, *cut)?,
            Self::FillDisk(machine) => cluster.disk(Some(*machine)).fill()?,
            Self::FillDiskOfPostgres => cluster.disk(None).fill()?,
        }
        Ok(())
    }

    /// Ends the fault.
    pub(crate) fn end(&self, cluster: &mut Cluster) -> Result<()> {
        match self {
            Self::Kill(name) => cluster.program(name)?.start()?,
            Self::Freeze(name) => cluster.program(name)?.signal(Signal::CONT),
            Self::CutPower(_)
            | Self::CutPowerOfPostgres
            | Self::CutPowerOfMachines
            | Self::CutPowerOfAll => cluster.restore_power(&self.powered())?,
            Self::Partition(machine, _) => network::join(*machine)?,
            Self::FillDisk(machine) => {
                cluster.disk(Some(*machine)).free()?;
                // A NATS node that had no space keeps JetStream disabled until it is started again, which a
                // probe of `/healthz` does in a deployment.
                let node = cluster.program(&format!("nats-{machine}"))?;
                node.kill();
                node.start()?;
            }
            Self::FillDiskOfPostgres => cluster.disk(None).free()?,
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(name) => write!(f, "kill {name}"),
            Self::Freeze(name) => write!(f, "freeze {name}"),
            Self::CutPower(machine) => write!(f, "power cut of machine {machine}"),
            Self::CutPowerOfPostgres => write!(f, "power cut of PostgreSQL"),
            Self::CutPowerOfMachines => write!(f, "power cut of all machines"),
            Self::CutPowerOfAll => write!(f, "power cut of all machines and PostgreSQL"),
            Self::Partition(machine, cut) => {
                let from = match cut {
                    Cut::Postgres => "cut off from PostgreSQL",
                    Cut::Nats => "cut off from NATS",
                    Cut::Machines => "cut off from the other machines",
                    Cut::Everything => "cut off from everything",
                    Cut::Inbound => "receives nothing",
                    Cut::Loss => "loses one packet in five",
                };
                write!(f, "machine {machine} {from}")
            }
            Self::FillDisk(machine) => write!(f, "full disk of machine {machine}"),
            Self::FillDiskOfPostgres => write!(f, "full disk of PostgreSQL"),
        }
    }
}
