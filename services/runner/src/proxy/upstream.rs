//! Files with the addresses of programs. Caddy reads the file of a program for each request, so that a
//! deployment changes a file and not the configuration, and kept connections to a replaced program are not
//! used again.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use uuid::Uuid;

use super::configuration::{Route, Target};

/// Files in a folder that only the runner can write to.
pub(super) struct UpstreamFiles {
    folder: PathBuf,
    /// Addresses in the files, by file name.
    written: BTreeMap<String, SocketAddr>,
}

impl UpstreamFiles {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, written: BTreeMap::new() }
    }

    /// Writes the addresses of all programs of these routes, each file atomically.
    pub(super) fn write(&mut self, routes: &[Route]) -> Result<()> {
        for (name, address) in addresses(routes) {
            if self.written.get(&name) == Some(&address) {
                continue;
            }
            let file = self.folder.join(&name);
            let new = self.folder.join(format!("{name}.new"));
            let write = || {
                fs::write(&new, address.to_string())?;
                // Caddy has an account of its own, whatever the umask of the runner is.
                fs::set_permissions(&new, Permissions::from_mode(0o644))?;
                fs::rename(&new, &file)
            };
            write().with_context(|| format!("cannot write {}", file.display()))?;
            self.written.insert(name, address);
        }
        Ok(())
    }

    /// Removes the files that no route needs, also those that an earlier runner wrote.
    pub(super) fn remove_others(&mut self, routes: &[Route]) -> Result<()> {
        let needed = addresses(routes);
        self.written.retain(|name, _| needed.contains_key(name));
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|it| needed.contains_key(it)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Returns the placeholder of Caddy (2.8 and newer) for the content of a program's file.
pub(super) fn placeholder(folder: &Path, environment_id: Uuid, port: Option<u16>) -> String {
    format!("{{file.{}}}", folder.join(file_name(environment_id, port)).display())
}

/// Returns true if a path can be part of a placeholder.
pub(super) fn is_valid_in_placeholder(path: &Path) -> bool {
    path.to_str().is_some_and(|it| it.starts_with('/') && !it.contains(['{', '}', '\\']))
}

/// Returns the name of a file. `port`: that of a path with an upstream of its own; it is in the name, so that
/// a file never changes its meaning while Caddy has an older configuration.
fn file_name(environment_id: Uuid, port: Option<u16>) -> String {
    port.map_or_else(|| environment_id.to_string(), |it| format!("{environment_id}-{it}"))
}

/// Returns the addresses of the programs of routes, by file name.
fn addresses(routes: &[Route]) -> BTreeMap<String, SocketAddr> {
    let mut addresses = BTreeMap::new();
    for route in routes {
        let Target::Program(upstreams) = &route.target else { continue };
        addresses.insert(file_name(route.environment_id, None), upstreams.address);
        for path in &upstreams.paths {
            let name = file_name(route.environment_id, Some(path.address.port()));
            addresses.insert(name, path.address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{PathUpstream, Upstreams};

    fn route(id: u128, port: u16, paths: &[u16]) -> Route {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let paths =
            paths.iter().map(|it| PathUpstream { path: "/live".into(), address: address(*it) });
        Route {
            environment_id: Uuid::from_u128(id),
            hostnames: vec!["a.apps.test".to_owned()],
            target: Target::Program(Upstreams { address: address(port), paths: paths.collect() }),
        }
    }

    fn files(folder: &Path) -> BTreeMap<String, String> {
        let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
        entries
            .map(|it| {
                let name = it.file_name().into_string().unwrap();
                (name, fs::read_to_string(it.path()).unwrap())
            })
            .collect()
    }

    #[test]
    fn files_have_the_addresses_of_programs() {
        let folder = tempfile::tempdir().unwrap();
        let mut files_of_caddy = UpstreamFiles::new(folder.path().to_owned());
        files_of_caddy.write(&[route(1, 4000, &[8072]), route(2, 4001, &[])]).unwrap();
        files_of_caddy.write(&[route(1, 4002, &[8072])]).unwrap();
        let [one, two] = [1, 2].map(Uuid::from_u128);
        let address = |port: u16| format!("127.0.0.1:{port}");
        let expected = [
            (one.to_string(), address(4002)),
            (format!("{one}-8072"), address(8072)),
            (two.to_string(), address(4001)),
        ];
        assert_eq!(files(folder.path()), expected.into());
        // Another runner, which has written none of them.
        let mut next = UpstreamFiles::new(folder.path().to_owned());
        next.write(&[route(1, 4002, &[])]).unwrap();
        next.remove_others(&[route(1, 4002, &[])]).unwrap();
        assert_eq!(files(folder.path()), [(one.to_string(), address(4002))].into());
    }

    #[test]
    fn a_path_with_characters_of_placeholders_is_not_used() {
        assert!(is_valid_in_placeholder(Path::new("/var/lib/tenantry/proxy/upstreams")));
        for path in ["/data/{env.HOME}", "/data/}", "/data/a\\b", "relative"] {
            assert!(!is_valid_in_placeholder(Path::new(path)), "{path}");
        }
    }
}
