//! References to images in a Dockerfile and in a manifest. The engine resolves the beginning of an image's id
//! like a name, and the names of images of other environments. A tenant could run, read or build upon the
//! images of others by them, so such references are refused before the engine sees them.

use anyhow::{Result, bail, ensure};

/// Beginning of the names of images that the runner builds.
pub(super) const IMAGE_PREFIX: &str = "tenantry/";

/// Fails unless a reference can only mean an image of a registry, or one that the operator has named.
pub(crate) fn check_reference(reference: &str) -> Result<()> {
    let name = reference.to_ascii_lowercase();
    let hub = ["docker.io/", "index.docker.io/", "registry-1.docker.io/"];
    let without_host = hub.iter().find_map(|it| name.strip_prefix(it)).unwrap_or(&name);
    ensure!(
        !without_host.starts_with(IMAGE_PREFIX),
        "the image {reference} belongs to an environment of this server; use one of a registry"
    );
    // A variable can have any value, so what precedes it must already exclude an id.
    let literal = name.split('$').next().unwrap_or_default();
    let has_tag_or_host = literal.contains([':', '/']);
    let is_word = literal == name && !literal.bytes().all(|it| it.is_ascii_hexdigit());
    ensure!(
        (has_tag_or_host || is_word) && !literal.starts_with("sha256:") && !reference.is_empty(),
        "the image {reference} could be the id of an image of another environment; add a tag to its name, \
         for example {reference}:latest"
    );
    Ok(())
}

/// Fails if a Dockerfile refers to images by something that is not a name in a registry.
pub(crate) fn check_dockerfile(text: &str) -> Result<()> {
    let mut stages = vec!["scratch".to_owned()];
    for line in logical_lines(text)? {
        let words: Vec<_> = line.split_whitespace().collect();
        let mut arguments = words.iter().skip(1).filter(|it| !it.starts_with("--"));
        if words.first().is_some_and(|it| it.eq_ignore_ascii_case("from"))
            && let Some(image) = arguments.next()
        {
            if !stages.contains(&image.to_ascii_lowercase()) {
                check_reference(image)?;
            }
            if arguments.next().is_some_and(|it| it.eq_ignore_ascii_case("as")) {
                stages.extend(arguments.next().map(|it| it.to_ascii_lowercase()));
            }
        }
        for source in words.iter().filter_map(|it| it.strip_prefix("--from=")) {
            let is_index = source.bytes().all(|it| it.is_ascii_digit());
            if !is_index && !stages.contains(&source.to_ascii_lowercase()) {
                check_reference(source)?;
            }
        }
    }
    Ok(())
}

/// Returns the instructions of a Dockerfile, each as one line.
fn logical_lines(text: &str) -> Result<Vec<String>> {
    let mut lines = vec![];
    let mut current = String::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(comment) = trimmed.strip_prefix('#') {
            let directive = comment.split('=').next().unwrap_or_default().trim();
            if directive.eq_ignore_ascii_case("escape") {
                bail!("the Dockerfile must not change its escape character");
            }
            continue;
        }
        if let Some(part) = trimmed.strip_suffix('\\') {
            current.push_str(part);
            continue;
        }
        current.push_str(trimmed);
        lines.push(std::mem::take(&mut current));
    }
    lines.push(current);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_other_environments_are_refused() {
        let foreign = [
            "FROM tenantry/0192:1",
            "FROM docker.io/Tenantry/0192:1",
            "FROM cafe",
            "FROM sha256:0123456789ab",
            "FROM 0",
            "from --platform=linux/amd64 beef AS x",
            "FROM \\\n  beef",
            "FROM be\\\nef",
            "FROM be\\\n# comment\nef",
            "ARG X=beef\nFROM $X",
            "ARG X=beef\nFROM ${X}",
            "FROM alpine:3\nCOPY --from=beef / /",
            "FROM alpine:3\nONBUILD COPY --from=tenantry/0192:1 / /",
            "FROM alpine:3\nARG X=beef\nCOPY --chown=1 --from=$X / /",
            "# escape=`\nFROM alpine:3",
        ];
        for text in foreign {
            assert!(check_dockerfile(text).is_err(), "{text}");
        }
        let allowed = [
            "FROM scratch\nCOPY . /",
            "FROM alpine",
            "ARG VERSION=3\nFROM alpine:${VERSION} AS cafe\nRUN x\nFROM cafe\nCOPY --from=cafe /x /",
            "FROM registry.example.com/team/shop@sha256:0123\nCOPY --from=0 /x /",
            "FROM alpine:3\nRUN echo from cafe",
        ];
        for text in allowed {
            check_dockerfile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }
}
