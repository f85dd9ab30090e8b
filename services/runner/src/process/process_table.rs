//! Process table of this machine, read from `/proc`.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
};

use rustix::param::page_size;

/// Snapshot of one process.
#[derive(Clone, Debug)]
pub(super) struct ProcessRow {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// User id.
    pub(super) account: u32,
    /// Start time in clock ticks since boot; distinguishes processes that reuse a pid.
    pub(super) started: u64,
    /// Consumed CPU time in clock ticks.
    pub(super) cpu_ticks: u64,
    /// Resident memory.
    pub(super) memory_bytes: i64,
    pub(super) is_zombie: bool,
}

impl ProcessRow {
    /// Reads the process with a pid; `None` if no such process exists.
    pub(super) fn read(pid: u32) -> Option<Self> {
        let account = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Field 2 is the name in parentheses, which may contain any character; field 3 follows the last one
        // (proc(5)).
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<_> = rest.split(' ').collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            pid,
            parent: u32::try_from(number(4)?).ok()?,
            account,
            started: number(22)?,
            cpu_ticks: number(14)? + number(15)?,
            memory_bytes: i64::try_from(number(24)?).ok()? * i64::try_from(page_size()).ok()?,
            is_zombie: fields.first() == Some(&"Z"),
        })
    }
}

/// Snapshot of all processes of this machine.
pub(super) struct ProcessTable(Vec<ProcessRow>);

impl ProcessTable {
    pub(super) fn read() -> Self {
        let Ok(entries) = fs::read_dir("/proc") else { return Self(vec![]) };
        let pids = entries.flatten().filter_map(|it| it.file_name().to_str()?.parse().ok());
        Self(pids.filter_map(ProcessRow::read).collect())
    }

    /// Returns the processes of an account.
    pub(super) fn of_account(&self, account: u32) -> Vec<&ProcessRow> {
        self.0.iter().filter(|it| it.account == account).collect()
    }

    /// Returns a process and its descendants, the root first. In a pid namespace, orphans become children of
    /// its init process, so no process leaves the tree.
    pub(super) fn tree(&self, root: u32) -> Vec<&ProcessRow> {
        let mut children: HashMap<u32, Vec<&ProcessRow>> = HashMap::new();
        for row in &self.0 {
            children.entry(row.parent).or_default().push(row);
        }
        let mut tree: Vec<_> = self.0.iter().filter(|it| it.pid == root).collect();
        let mut seen: HashSet<u32> = HashSet::from([root]);
        let mut next = 0;
        while let Some(row) = tree.get(next) {
            let unseen = children.get(&row.pid).into_iter().flatten();
            let unseen: Vec<_> = unseen.filter(|it| seen.insert(it.pid)).copied().collect();
            tree.extend(unseen);
            next += 1;
        }
        tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_match_proc_status() {
        let own = std::process::id();
        let row = ProcessRow::read(own).unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|it| it.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<i64>().unwrap()
        };
        // Memory changes between the two reads, by less than 4 MiB.
        assert!((row.memory_bytes / 1_024 - field("VmRSS:")).abs() < 4_096);
        assert_eq!(i64::from(row.parent), field("PPid:"));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let table = ProcessTable::read();
        assert!(table.tree(own).iter().any(|it| it.pid == child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
