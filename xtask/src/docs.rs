//! Checks of the documents: relative links with their anchors, the book, and the examples of the guides.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Outcome,
    examples::{self, Fence},
    machine,
    run::{self, root},
};

/// Documents outside of `docs/`.
const ROOT_DOCUMENTS: [&str; 5] =
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"];

/// Checks links, builds the book and runs the examples. The last two are skipped with a message if their
/// program is not installed.
pub(crate) fn check() -> Outcome {
    links()?;
    if machine::runs("mdbook", &["--version"]) {
        run::program(Path::new("mdbook"), &["build", "docs"])?;
    } else {
        eprintln!("xtask: mdbook is not installed; the book is not built (cargo install mdbook)");
    }
    if machine::runs("grpcurl", &["-version"]) {
        examples::run()
    } else {
        eprintln!("xtask: grpcurl is not installed; the examples are not run");
        Ok(())
    }
}

/// Fails with every relative link whose file or anchor does not exist.
pub(crate) fn links() -> Outcome {
    let mut broken = vec![];
    for document in documents() {
        let text = read(&document)?;
        let directory = document.parent().unwrap_or(&document).to_owned();
        for target in targets(&text) {
            if let Err(problem) = resolve(&document, &directory, &target) {
                let name = document.strip_prefix(root()).unwrap_or(&document).display().to_string();
                broken.push(format!("{name}: {target}: {problem}"));
            }
        }
    }
    let count = broken.len();
    if count == 0 {
        Ok(())
    } else {
        Err(format!("{count} broken links:\n  {}", broken.join("\n  ")))
    }
}

fn resolve(document: &Path, directory: &Path, target: &str) -> Outcome {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() { document.to_owned() } else { directory.join(path) };
    if !file.exists() {
        return Err("no such file".to_owned());
    }
    if anchor.is_empty() || anchors(&read(&file)?).iter().any(|it| it == anchor) {
        Ok(())
    } else {
        Err("no such anchor".to_owned())
    }
}

fn documents() -> Vec<PathBuf> {
    let mut found: Vec<_> = ROOT_DOCUMENTS.iter().map(|it| root().join(it)).collect();
    found.extend(markdown(&root().join("docs")));
    found
}

/// Returns the Markdown files of a directory and its subdirectories, sorted.
pub(crate) fn markdown(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(markdown(&path));
        } else if path.extension().is_some_and(|it| it == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns the lines outside of code blocks, without inline code.
fn prose(text: &str) -> Vec<String> {
    let mut fence = Fence::default();
    let lines = text.lines().filter(|line| !fence.is_code(line));
    lines.map(|line| line.split('`').step_by(2).collect::<Vec<_>>().join("`")).collect()
}

/// Returns the targets of all relative links.
fn targets(text: &str) -> Vec<String> {
    let mut found = vec![];
    for line in prose(text) {
        let links = line.split("](").skip(1).filter_map(|it| it.split(')').next());
        let relative = links.filter(|it| !it.contains("://") && !it.starts_with("mailto:"));
        found.extend(relative.map(str::to_owned));
    }
    found
}

/// Returns the anchors of a document: its headings, as GitHub and mdBook name them, and explicit ids.
fn anchors(text: &str) -> Vec<String> {
    let mut found: Vec<String> = vec![];
    let mut fence = Fence::default();
    for line in text.lines().filter(|line| !fence.is_code(line)) {
        let heading = line.trim_start_matches('#');
        if heading.len() < line.len() && heading.starts_with(' ') {
            let slug = slug(heading);
            let earlier = found.iter().filter(|it| **it == slug).count();
            found.push(if earlier == 0 { slug } else { format!("{slug}-{earlier}") });
        }
        let ids = line.split("id=\"").skip(1).filter_map(|it| it.split('"').next());
        found.extend(ids.map(str::to_owned));
    }
    found
}

fn slug(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|it| it.is_alphanumeric() || " -_".contains(*it));
    kept.map(|it| if it == ' ' { '-' } else { it.to_ascii_lowercase() }).collect()
}

fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_headings_and_ids() {
        let text = "# A b\n## `x`/Y, z\n```sh\n# no heading\n```\n## A b\n<a id=\"given\"></a>\n";
        assert_eq!(anchors(text), ["a-b", "xy-z", "a-b-1", "given"]);
    }

    #[test]
    fn documents_have_no_broken_links() {
        assert_eq!(links(), Ok(()));
    }

    #[test]
    fn links_in_code_are_ignored() {
        let text = "[a](b.md#c) `[x](y)` [e](https://example.com)\n```\n[n](o)\n```\n";
        assert_eq!(targets(text), ["b.md#c"]);
    }
}
