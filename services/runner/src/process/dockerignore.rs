//! Files that `.dockerignore` leaves out of a build context
//! (<https://docs.docker.com/build/concepts/context/#dockerignore-files>). The classic builder leaves that to
//! its clients.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use glob::MatchOptions;
use walkdir::WalkDir;

/// Files that the builder reads, and removes itself if patterns match them.
const SENT_ALWAYS: [&str; 2] = ["Dockerfile", ".dockerignore"];

/// Patterns in order; the last one that matches a path or a parent of it decides.
pub(super) struct Patterns(Vec<Pattern>);

struct Pattern {
    glob: glob::Pattern,
    /// True for a line that begins with `!`.
    is_exception: bool,
}

impl Patterns {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|it| !it.starts_with('#')).map(str::trim);
        let mut patterns = vec![];
        for line in lines {
            let (is_exception, pattern) = match line.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, line),
            };
            // Relative to the context, also with a leading slash or `./`.
            let parts = pattern.split('/').filter(|it| !matches!(*it, "" | "."));
            let pattern = parts.collect::<Vec<_>>().join("/");
            if pattern.is_empty() {
                continue;
            }
            let glob = glob::Pattern::new(&pattern);
            let glob = glob.with_context(|| format!("invalid line in .dockerignore: {line}"))?;
            patterns.push(Pattern { glob, is_exception });
        }
        Ok(Self(patterns))
    }

    fn excludes(&self, path: &Path) -> bool {
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        let is_match =
            |it: &&Pattern| path.ancestors().any(|path| it.glob.matches_path_with(path, options));
        self.0.iter().rev().find(is_match).is_some_and(|it| !it.is_exception)
    }

    /// Returns the excluded files and directories below a directory, relative to it. Contents of excluded
    /// directories are left out. Symbolic links are not followed.
    pub(super) fn excluded_below(&self, directory: &Path) -> Vec<PathBuf> {
        let has_exceptions = self.0.iter().any(|it| it.is_exception);
        let mut excluded = vec![];
        let mut entries = WalkDir::new(directory).min_depth(1).into_iter();
        while let Some(entry) = entries.next() {
            let Ok(entry) = entry else { continue };
            let Ok(path) = entry.path().strip_prefix(directory) else { continue };
            if SENT_ALWAYS.iter().any(|it| path == Path::new(it)) || !self.excludes(path) {
                continue;
            }
            // An exception may name a file in the directory.
            if entry.file_type().is_dir() && has_exceptions {
                continue;
            }
            if entry.file_type().is_dir() {
                entries.skip_current_dir();
            }
            excluded.push(path.to_owned());
        }
        excluded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the files that are left of some.
    fn left(patterns: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            "Dockerfile",
            "README.md",
            "docs/README.md",
            "docs/a/b.md",
            "node_modules/x/y.js",
            "src/main.js",
            "src/node_modules/z.js",
            "secret.key",
        ];
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let excluded = Patterns::parse(patterns).unwrap().excluded_below(folder.path());
        let is_left = |file: &&str| !excluded.iter().any(|it| Path::new(file).starts_with(it));
        files.iter().filter(|it| is_left(it)).map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn patterns_are_those_of_docker() {
        let all = left("");
        assert_eq!(all.len(), 8);
        let without = |names: &[&str]| -> Vec<String> {
            all.iter().filter(|it| !names.contains(&it.as_str())).cloned().collect()
        };
        assert_eq!(left("# README.md\n\n"), all);
        assert_eq!(left("node_modules"), without(&["node_modules/x/y.js"]));
        let modules = ["node_modules/x/y.js", "src/node_modules/z.js"];
        assert_eq!(left("**/node_modules/\n"), without(&modules));
        assert_eq!(left("/*.md"), without(&["README.md"]));
        assert_eq!(left("./secret.?ey"), without(&["secret.key"]));
        let text = ["README.md", "docs/README.md", "docs/a/b.md"];
        assert_eq!(left("**/*.md"), without(&text));
        assert_eq!(left("docs\n!docs/README.md"), without(&["docs/a/b.md"]));
        assert_eq!(left("!docs/README.md\ndocs"), without(&["docs/README.md", "docs/a/b.md"]));
        assert_eq!(left("*\n!src"), ["Dockerfile", "src/main.js", "src/node_modules/z.js"]);
        assert!(Patterns::parse("[").is_err());
    }
}
