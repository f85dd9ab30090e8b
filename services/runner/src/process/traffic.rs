//! Traffic of environments since the start of the runner: requests that the proxy answered, and bytes of
//! their networks.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use api::project::TrafficTotals;
use uuid::Uuid;

use crate::proxy::access_log::AccessLog;

/// Interface of a network that is not counted.
const LOOPBACK: &str = "lo";

/// Bytes that the interfaces of a network namespace have received and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct InterfaceBytes {
    received: i64,
    sent: i64,
}

/// Counters of a network namespace when they were last read.
#[derive(Clone, Copy)]
struct NetworkSample {
    /// Inode of the namespace.
    namespace: u64,
    bytes: InterfaceBytes,
}

/// Traffic of one environment.
#[derive(Default)]
struct Traffic {
    totals: TrafficTotals,
    network: Option<NetworkSample>,
}

/// Totals of all environments.
pub(super) struct TrafficMeter {
    environments: Mutex<HashMap<Uuid, Traffic>>,
    /// `None`: there is no proxy.
    access_log: Option<Arc<Mutex<AccessLog>>>,
    start: SystemTime,
}

impl TrafficMeter {
    #[expect(
        clippy::disallowed_methods,
        reason = "the runner has no clock of a suite; tests do not move it"
    )]
    pub(super) fn new(access_log: Option<AccessLog>) -> Self {
        Self {
            environments: Mutex::default(),
            access_log: access_log.map(|it| Arc::new(it.into())),
            start: SystemTime::now(),
        }
    }

    /// Counts the requests since the last call.
    pub(super) async fn count_requests(&self) {
        let Some(log) = self.access_log.clone() else { return };
        let read = move || log.lock().unwrap_or_else(PoisonError::into_inner).read();
        // Fails only if the runtime is shutting down.
        let requests = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let mut environments = self.lock();
        for (id, requests) in requests {
            let totals = &mut environments.entry(id).or_default().totals;
            totals.request_count += requests.count;
            totals.error_count += requests.error_count;
            totals.duration_s += requests.duration_s;
        }
    }

    /// Returns the totals of an environment. `pid`: its running program, in whose network the bytes are
    /// counted, unless that is the network of the machine.
    pub(super) fn totals(&self, id: Uuid, pid: Option<u32>) -> TrafficTotals {
        let sample = pid.and_then(NetworkSample::read);
        let mut environments = self.lock();
        let traffic = environments.entry(id).or_default();
        if let Some(sample) = sample {
            traffic.add(sample);
        }
        TrafficTotals { start_time: Some(self.start.into()), ..traffic.totals }
    }

    /// Drops the totals of environments that are not in `ids`.
    pub(super) fn retain_only(&self, ids: &[Uuid]) {
        self.lock().retain(|id, _| ids.contains(id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Traffic>> {
        self.environments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traffic {
    /// Adds the bytes since the last sample. The first sample of a namespace is its begin: an earlier runner
    /// has counted what was before, or the namespace is new and its counters are small.
    fn add(&mut self, sample: NetworkSample) {
        let before = self.network.replace(sample);
        if let Some(before) = before.filter(|it| it.namespace == sample.namespace) {
            self.totals.received_bytes += (sample.bytes.received - before.bytes.received).max(0);
            self.totals.sent_bytes += (sample.bytes.sent - before.bytes.sent).max(0);
        }
    }
}

impl NetworkSample {
    /// Reads the counters of a process's network; `None` if that is the network of this process.
    fn read(pid: u32) -> Option<Self> {
        let namespace = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
        if namespace == fs::metadata("/proc/self/ns/net").ok()?.ino() {
            return None;
        }
        let table = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
        Some(Self { namespace, bytes: interface_bytes(&table) })
    }
}

/// Sums the interfaces of a table `/proc/net/dev`: name, 8 numbers of received data, 8 of sent data, each
/// beginning with the bytes (proc(5)).
fn interface_bytes(table: &str) -> InterfaceBytes {
    let mut sum = InterfaceBytes::default();
    for line in table.lines() {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        let numbers: Vec<i64> = numbers.split_whitespace().flat_map(str::parse).collect();
        if name.trim() != LOOPBACK && numbers.len() >= 16 {
            sum.received += numbers[0];
            sum.sent += numbers[8];
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive         |  Transmit
 face |bytes    packets   |bytes    packets
    lo:    9000  90 0 0 0 0 0 0   9000  90 0 0 0 0 0 0
  eth0:     100   2 0 0 0 0 0 0    300   3 0 0 0 0 0 0
  eth1:      10   1 0 0 0 0 0 0     20   1 0 0 0 0 0 0
";

    #[test]
    fn bytes_of_interfaces_are_summed() {
        assert_eq!(interface_bytes(TABLE), InterfaceBytes { received: 110, sent: 320 });
        assert_eq!(interface_bytes("eth0: 1 2\nx\n"), InterfaceBytes::default());
    }

    #[test]
    fn bytes_are_counted_from_the_first_sample_of_a_namespace() {
        let mut traffic = Traffic::default();
        let sample = |namespace, received, sent| NetworkSample {
            namespace,
            bytes: InterfaceBytes { received, sent },
        };
        for sample in [sample(1, 500, 50), sample(1, 600, 60), sample(2, 5, 5), sample(2, 15, 6)] {
            traffic.add(sample);
        }
        assert_eq!((traffic.totals.received_bytes, traffic.totals.sent_bytes), (110, 11));
        assert!(NetworkSample::read(std::process::id()).is_none(), "the network of this process");
    }
}
