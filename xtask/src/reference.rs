//! Pages of `docs/reference/` that are generated from the contract and the code. The program `tenantry`
//! prints them, because this crate has no dependencies.

use std::{path::PathBuf, process::Command};

use crate::{Outcome, run::root};

/// Names of the pages.
const PAGES: [&str; 5] = ["api", "errors", "events", "permissions", "cli"];

/// Returns the file and the text of every page. The program must have been built.
pub(crate) fn pages() -> Outcome<Vec<(PathBuf, String)>> {
    PAGES.iter().map(|page| Ok((file(page), text(page)?))).collect()
}

fn file(page: &str) -> PathBuf {
    root().join("docs/reference").join(format!("{page}.md"))
}

fn text(page: &str) -> Outcome<String> {
    let output =
        Command::new(root().join("target/debug/tenantry")).args(["reference", page]).output();
    let output = output.map_err(|error| format!("tenantry reference {page}: {error}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("tenantry reference {page}: {}", error.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
