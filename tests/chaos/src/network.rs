//! The network: a bridge with three namespaces ("machines"), and their partitions by nftables.
//!
//! | address | |
//! |---|---|
//! | `10.77.0.1` | the namespace of the run: PostgreSQL, gateway, load |
//! | `10.77.<machine>.1` to `.4` | replicas of identity, project, invitation, audit |
//! | `10.77.<machine>.5` | NATS node |

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::sandbox::run;

/// Number of machines.
pub(crate) const MACHINES: u8 = 3;

/// Names of the services, in the order of their addresses.
pub(crate) const SERVICES: [&str; 4] = ["identity", "project", "invitation", "audit"];

/// Number of the machine of a replica, from 1.
pub(crate) type Machine = u8;

/// Peers from which a machine is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// PostgreSQL.
    Postgres,
    /// All NATS nodes, also its own.
    Nats,
    /// The other machines.
    Machines,
    /// All other addresses.
    Everything,
    /// All other addresses, in one direction: its packets arrive, and it receives none.
    Inbound,
    /// One in five packets in each direction.
    Loss,
}

impl Cut {
    /// Rules of the chains `output` and `input`.
    fn rules(self, machine: Machine) -> [String; 2] {
        match self {
            Self::Postgres => ["tcp dport 5432 drop".to_owned(), "tcp sport 5432 drop".to_owned()],
            Self::Nats => {
                let ports = "{ 4222, 6222 }";
                let rule = format!("tcp dport {ports} drop; tcp sport {ports} drop");
                [rule.clone(), rule]
            }
            Self::Machines => {
                let others = (1..=MACHINES).filter(|it| *it != machine);
                let networks: Vec<_> = others.map(|it| format!("10.77.{it}.0/24")).collect();
                let networks = networks.join(", ");
                [
                    format!("ip daddr {{ {networks} }} drop"),
                    format!("ip saddr {{ {networks} }} drop"),
                ]
            }
            Self::Everything => ["oifname eth0 drop".to_owned(), "iifname eth0 drop".to_owned()],
            Self::Inbound => [String::new(), "iifname eth0 drop".to_owned()],
            Self::Loss => {
                let rule = |interface| format!("{interface} eth0 numgen random mod 5 == 0 drop");
                [rule("oifname"), rule("iifname")]
            }
        }
    }
}

/// Address of a replica.
pub(crate) fn address(service: &str, machine: Machine) -> String {
    let position = SERVICES.iter().position(|it| *it == service).map_or(5, |it| it + 1);
    format!("10.77.{machine}.{position}")
}

/// Host names: those of the services have the addresses of the replicas on the first `machines` machines.
pub(crate) fn hosts(machines: u8) -> String {
    let mut text = "127.0.0.1 localhost\n10.77.0.1 postgres gateway\n".to_owned();
    for machine in 1..=MACHINES {
        for service in SERVICES.iter().filter(|_| machine <= machines) {
            text += &format!("{} {service}\n", address(service, machine));
        }
        text += &format!("{} nats-{machine}\n", address("nats", machine));
    }
    text
}

/// Name of the namespace of a machine.
pub(crate) fn namespace(machine: Machine) -> String {
    format!("machine-{machine}")
}

/// Makes the bridge and the namespaces.
pub(crate) fn create() -> Result<()> {
    let ip = |line: &str| run("ip", &line.split(' ').collect::<Vec<_>>());
    ip("link set lo up")?;
    ip("link add bridge type bridge")?;
    ip("addr add 10.77.0.1/16 dev bridge")?;
    ip("link set bridge up")?;
    for machine in 1..=MACHINES {
        let name = namespace(machine);
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add veth-{machine} type veth peer name eth0 netns {name}"))?;
        ip(&format!("link set veth-{machine} master bridge up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        for number in 1..=5 {
            ip(&format!("-n {name} addr add 10.77.{machine}.{number}/16 dev eth0"))?;
        }
    }
    Ok(())
}

/// Cuts a machine off.
pub(crate) fn cut(machine: Machine, cut: Cut) -> Result<()> {
    let [output, input] = cut.rules(machine);
    let table = format!(
        "table inet chaos {{
           chain output {{ type filter hook output priority 0; {output}; }}
           chain input {{ type filter hook input priority 0; {input}; }}
         }}\n"
    );
    nft(machine, &table)
}

/// Ends a partition.
pub(crate) fn join(machine: Machine) -> Result<()> {
    nft(machine, "delete table inet chaos\n")
}

/// Applies rules of nftables in the namespace of a machine.
fn nft(machine: Machine, rules: &str) -> Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", namespace(machine))).args(["nft", "-f", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().context("nft starts")?;
    let mut input = child.stdin.take().context("nft has an input")?;
    input.write_all(rules.replace("; ;", ";").as_bytes())?;
    drop(input);
    ensure!(child.wait()?.success(), "nft refuses\n{rules}");
    Ok(())
}
