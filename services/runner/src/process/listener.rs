//! Owners of listening sockets, and clients of them, read from `/proc` (proc_net(5), proc_pid_fd(5)).

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{process_table::ProcessTable, process_tree::ProcessTree};

/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// State of a connected socket (`TCP_ESTABLISHED`).
const ESTABLISHED: &str = "01";

/// Returns true if all sockets that accept connections to an address belong to processes of a sandbox, and
/// there is one.
pub(super) async fn belongs_to(
    address: SocketAddr,
    process: &ProcessTree,
    table: &ProcessTable,
) -> bool {
    let root = process.root_pid();
    let pids: Vec<_> = table.tree(root).iter().map(|it| it.pid).collect();
    let owned = tokio::task::spawn_blocking(move || owns_listeners(root, &pids, address)).await;
    // Fails only if the runtime is shutting down.
    owned.unwrap_or(false)
}

/// `root`: process in the network namespace of the address; `pids`: processes that may own the sockets.
fn owns_listeners(root: u32, pids: &[u32], address: SocketAddr) -> bool {
    let tables = ["tcp", "tcp6"].map(|it| fs::read_to_string(format!("/proc/{root}/net/{it}")));
    let tables: Vec<_> = tables.into_iter().flatten().collect();
    let lines = tables.iter().flat_map(|it| it.lines());
    let mut inodes: HashSet<&str> = lines.filter_map(|it| listener_inode(it, address)).collect();
    if inodes.is_empty() {
        return false;
    }
    for pid in pids {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for target in files.filter_map(|it| fs::read_link(it.path()).ok()) {
            let inode = target.to_str().and_then(|it| it.strip_prefix("socket:["));
            if let Some(inode) = inode {
                inodes.remove(inode.trim_end_matches(']'));
            }
        }
    }
    inodes.is_empty()
}

/// Returns true if clients are connected to an address in the network of a sandbox.
pub(super) async fn has_connections(address: SocketAddr, process: &ProcessTree) -> bool {
    let root = process.root_pid();
    // Fails only if the runtime is shutting down.
    tokio::task::spawn_blocking(move || is_connected(root, address)).await.unwrap_or(false)
}

fn is_connected(pid: u32, address: SocketAddr) -> bool {
    let tables = ["tcp", "tcp6"].map(|it| fs::read_to_string(format!("/proc/{pid}/net/{it}")));
    let mut tables = tables.into_iter().flatten();
    tables.any(|it| it.lines().any(|line| is_connection(line, address)))
}

/// Returns true if a line of `/proc/net/tcp` is the connection of a client to the address.
fn is_connection(line: &str, address: SocketAddr) -> bool {
    let fields: Vec<_> = line.split_whitespace().collect();
    let (Some(local), Some(state)) = (fields.get(1), fields.get(3)) else { return false };
    let Some((ip, port)) = local.split_once(':') else { return false };
    *state == ESTABLISHED
        && u16::from_str_radix(port, 16) == Ok(address.port())
        && parse_ip(ip) == Some(address.ip())
}

/// Returns the inode in a line of `/proc/net/tcp` if its socket accepts connections to the address.
fn listener_inode(line: &str, address: SocketAddr) -> Option<&str> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let (ip, port) = fields.get(1)?.split_once(':')?;
    let is_listener =
        *fields.get(3)? == LISTEN && u16::from_str_radix(port, 16) == Ok(address.port());
    let ip = parse_ip(ip).filter(|_| is_listener)?;
    (ip.is_unspecified() || ip == address.ip()).then(|| fields.get(9).copied())?
}

/// Parses an IP address of `/proc/net/tcp`: 32-bit words in the byte order of the machine, in hexadecimal.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let words = text.as_bytes().chunks(8).map(|it| str::from_utf8(it).ok());
    let words = words.map(|it| u32::from_str_radix(it?, 16).ok());
    let words = words.collect::<Option<Vec<_>>>()?;
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    if let Ok(bytes) = <[u8; 4]>::try_from(&*bytes) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    let bytes = <[u8; 16]>::try_from(bytes).ok()?;
    // An IPv4 socket of a program may be an IPv6 one with a mapped address.
    Some(Ipv6Addr::from(bytes).to_canonical())
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn a_listening_socket_belongs_to_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = std::process::id();
        assert!(owns_listeners(own, &[own], address));
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!owns_listeners(own, &[other.id()], address), "the socket of another process");
        other.kill().unwrap();
        other.wait().unwrap();
        drop(listener);
        assert!(!owns_listeners(own, &[own], address), "nothing listens");
    }

    #[test]
    fn a_connection_to_an_address_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = std::process::id();
        assert!(!is_connected(own, address));
        let client = std::net::TcpStream::connect(address).unwrap();
        let accepted = listener.accept().unwrap();
        assert!(is_connected(own, address));
        drop((client, accepted));
        // A process that another test has just forked has copies of the sockets until it executes its
        // program.
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_connected(own, address) && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!is_connected(own, address));
    }

    #[test]
    fn addresses_of_both_families_are_parsed() {
        assert_eq!(parse_ip("0100007F"), Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(
            parse_ip("00000000000000000000000000000000"),
            Some(Ipv6Addr::UNSPECIFIED.into())
        );
        let mapped = "0000000000000000FFFF00000100007F";
        assert_eq!(parse_ip(mapped), Some(Ipv4Addr::LOCALHOST.into()));
    }
}
