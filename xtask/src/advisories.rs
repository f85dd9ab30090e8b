//! Security advisories for `cargo deny`: a dated snapshot of the RustSec database in `advisories.txt`; the
//! database itself is not reachable from everywhere that builds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Outcome,
    run::{self, root},
};

/// Fields of an advisory that `cargo deny` uses. Texts and links are left out.
const KEPT: [&str; 9] = [
    "id",
    "package",
    "date",
    "aliases",
    "informational",
    "withdrawn",
    "patched",
    "unaffected",
    "os",
];
/// Tables of an advisory with such fields.
const TABLES: [&str; 3] = ["[advisory]", "[versions]", "[affected]"];
/// Where `cargo deny` fetches advisories from.
const DATABASE: &str = "https://github.com/RustSec/advisory-db";

fn snapshot() -> PathBuf {
    root().join("advisories.txt")
}

fn text(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Makes the snapshot anew from a clone of the database.
pub(crate) fn renew(clone: &Path) -> Outcome {
    let commit = git(clone, &["log", "-1", "--format=%H of %cs"])?;
    let mut all = format!(
        "# The RustSec advisory database at {}, without descriptions (CC0-1.0; those of GitHub CC-BY-4.0).\n\
         # Made by `cargo xtask advisories CLONE`.\n",
        commit.trim()
    );
    let mut files = vec![];
    for folder in entries(&clone.join("crates"))? {
        files.extend(entries(&folder)?);
    }
    for file in files.iter().filter(|it| it.extension().is_some_and(|it| it == "md")) {
        all += &condense(&text(file)?).ok_or_else(|| format!("{}: no advisory", file.display()))?;
    }
    fs::write(snapshot(), all).map_err(|error| format!("advisories.txt: {error}"))
}

fn entries(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|it| format!("{}: {it}", folder.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|it| it.path()).collect();
    paths.sort();
    Ok(paths)
}

/// The kept fields of an advisory and its title.
fn condense(advisory: &str) -> Option<String> {
    let (toml, rest) = advisory.split_once("```toml\n")?.1.split_once("```")?;
    let title = rest.lines().find_map(|it| it.strip_prefix("# "))?;
    let (mut kept, mut table, mut open) = (format!("\n# {title}\n"), "", false);
    for line in toml.lines().map(|it| it.split(" #").next().unwrap_or_default().trim_end()) {
        if line.starts_with('[') && !open {
            table = TABLES.iter().find(|it| **it == line).copied().unwrap_or_default();
            if !table.is_empty() {
                kept += &format!("{line}\n");
            }
            continue;
        }
        let name = line.split(['=', ' ']).next().unwrap_or_default();
        // A list over several lines goes on until its bracket.
        if open || (!table.is_empty() && KEPT.contains(&name)) {
            kept += &format!("{line}\n");
            open = (open || line.ends_with('[')) && !line.trim_end().ends_with(']');
        }
    }
    Some(kept)
}

/// Runs `cargo deny` with advisories from the snapshot: git fetches from a local repository in place of the
/// address of the database.
pub(crate) fn check(deny: &Path) -> Outcome {
    let (all, folder) = (text(&snapshot())?, root().join(".tools/advisories"));
    let head = all.lines().next().unwrap_or_default();
    eprintln!("xtask: {}", head.trim_start_matches("# "));
    let (repository, mark) = (folder.join("source"), folder.join("snapshot"));
    if fs::read_to_string(&mark).map_or(true, |it| it != all) {
        let _ = fs::remove_dir_all(&folder);
        unpack(&all, &repository)?;
        let author = ["-c", "user.name=xtask", "-c", "user.email=xtask@localhost"];
        git(&repository, &["init", "--quiet", "--initial-branch=main"])?;
        git(&repository, &["add", "."])?;
        git(&repository, &[&author[..], &["commit", "--quiet", "-m", head]].concat())?;
        write(&mark, &all)?;
    }
    let mut command = Command::new(deny);
    command.current_dir(root()).args(["--workspace", "check", "advisories"]);
    let instead = format!("url.file://{}.insteadOf", repository.display());
    command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", instead);
    command.env("GIT_CONFIG_VALUE_0", DATABASE);
    run::finish(&mut command, "cargo-deny --workspace check advisories")
}

/// Writes each advisory of the snapshot as a file.
fn unpack(all: &str, repository: &Path) -> Outcome {
    for advisory in all.split("\n\n").skip(1) {
        let (title, toml) = advisory.split_once('\n').ok_or("advisories.txt is damaged")?;
        let field = |name: &str| {
            let line = toml.lines().find_map(|it| it.strip_prefix(name)?.split('"').nth(1));
            line.ok_or_else(|| format!("advisories.txt: {title} has no {name}"))
        };
        let folder = repository.join("crates").join(field("package = ")?);
        let markdown = format!("```toml\n{}\n```\n\n{title}\n\nSee its id.\n", toml.trim_end());
        write(&folder.join(format!("{}.md", field("id = ")?)), &markdown)?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Outcome {
    let folder = file.parent().unwrap_or(file);
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(file, text));
    written.map_err(|error| format!("{}: {error}", file.display()))
}

fn git(folder: &Path, arguments: &[&str]) -> Outcome<String> {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).output();
    let output = output.map_err(|error| format!("git does not start: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!(
            "git {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advisory_keeps_what_cargo_deny_uses() {
        let advisory = "```toml\n[advisory]\nid = \"RUSTSEC-2026-0001\"\npackage = \"x\"\ncategories = [\n  \
                        \"id = \",\n]\n[affected.functions]\npatched = \"no\"\n[versions]\npatched = [\n  \
                        \">= 1\", # really\n]\n```\n\n# Broken\n\nText.\n";
        let kept = "\n# Broken\n[advisory]\nid = \"RUSTSEC-2026-0001\"\npackage = \"x\"\n[versions]\n\
                    patched = [\n  \">= 1\",\n]\n";
        assert_eq!(condense(advisory).as_deref(), Some(kept));
    }
}
