//! The file with the secret keys of a deployment, and the steps of a rotation that change it. A line has 64
//! hexadecimal digits; the first one is the current key. Text after `#` is a comment.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use super::{Key, Secret, random, write_private};

/// Reads the keys of a file, the current one first.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Secret>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the key file {}", path.display()))?;
    match parse(&text) {
        Some(secrets) if !secrets.is_empty() => Ok(secrets),
        _ => bail!(
            "the key file {} does not have 64 hexadecimal digits on each line; create one with \
             `openssl rand -hex 32`",
            path.display()
        ),
    }
}

fn parse(text: &str) -> Option<Vec<Secret>> {
    let lines = text.lines().map(|it| it.split('#').next().unwrap_or_default().trim());
    let decode = |it: &str| HEXLOWER_PERMISSIVE.decode(it.as_bytes()).ok()?.try_into().ok();
    lines.filter(|it| !it.is_empty()).map(decode).collect()
}

pub(super) fn create_if_missing(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    write_private(path, HEXLOWER.encode(&random()).as_bytes())
        .with_context(|| format!("cannot write the key file {}", path.display()))
}

/// Step 1 of a rotation: adds a random key as the last one and returns its id. Refuses a file with several
/// keys, whose rotation is not complete.
pub fn add_key(path: &Path) -> anyhow::Result<String> {
    let mut secrets = read(path)?;
    ensure!(
        secrets.len() == 1,
        "the key file {} has {} keys; complete the rotation first: promote the new key, or remove the \
         previous one",
        path.display(),
        secrets.len()
    );
    secrets.push(random());
    replace(path, &secrets)?;
    Ok(Key::new(&secrets[1..]).ids().remove(0))
}

/// Step 2 of a rotation: makes the key with an id the current one.
pub fn promote_key(path: &Path, id: &str) -> anyhow::Result<()> {
    let mut secrets = read(path)?;
    let index = position(path, &secrets, id)?;
    secrets[..=index].rotate_right(1);
    replace(path, &secrets)
}

/// Last step of a rotation: removes the key with an id. Refuses the current one.
pub fn remove_key(path: &Path, id: &str) -> anyhow::Result<()> {
    let mut secrets = read(path)?;
    let index = position(path, &secrets, id)?;
    ensure!(index > 0, "{id} is the current key of {}; promote another one first", path.display());
    secrets.remove(index);
    replace(path, &secrets)
}

fn position(path: &Path, secrets: &[Secret], id: &str) -> anyhow::Result<usize> {
    let ids = Key::new(secrets).ids();
    ids.iter().position(|it| it == id).with_context(|| {
        format!("the key file {} has no key {id}; it has {}", path.display(), ids.join(", "))
    })
}

/// Replaces the file at once; it keeps its owner.
fn replace(path: &Path, secrets: &[Secret]) -> anyhow::Result<()> {
    let owner = fs::metadata(path).context("cannot read the key file")?;
    let lines: Vec<_> = secrets.iter().map(|it| HEXLOWER.encode(it)).collect();
    let written = write_private(path, (lines.join("\n") + "\n").as_bytes())
        .and_then(|()| chown(path, Some(owner.uid()), Some(owner.gid())));
    written.with_context(|| format!("cannot write the key file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_keys_comments_and_empty_lines() {
        let (first, second) = ("1".repeat(64), "Ab".repeat(32));
        let text = format!("# current\n\n{first}\n  {second} # previous\n");
        assert_eq!(parse(&text), Some(vec![[0x11; 32], [0xab; 32]]));
        assert_eq!(parse(&first), Some(vec![[0x11; 32]]));
        for invalid in [format!("{first} {second}"), format!("{first}\nx"), "11".to_owned()] {
            assert_eq!(parse(&invalid), None, "{invalid}");
        }
        assert_eq!(parse("# nothing\n"), Some(vec![]));
    }

    #[test]
    fn the_steps_of_a_rotation_change_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.key");
        let old = Key::read_or_create(&path).unwrap().ids().remove(0);
        let new = add_key(&path).unwrap();
        assert_eq!(Key::read(&path).unwrap().ids(), [old.clone(), new.clone()]);
        let refused = add_key(&path).unwrap_err().to_string();
        assert!(refused.contains("has 2 keys"), "{refused}");
        for _ in 0..2 {
            promote_key(&path, &new).unwrap();
            assert_eq!(Key::read(&path).unwrap().ids(), [new.clone(), old.clone()]);
        }
        let refused = remove_key(&path, &new).unwrap_err().to_string();
        assert!(refused.contains("is the current key"), "{refused}");
        remove_key(&path, &old).unwrap();
        assert_eq!(Key::read(&path).unwrap().ids(), [new]);
        let refused = promote_key(&path, &old).unwrap_err().to_string();
        assert!(refused.contains("has no key"), "{refused}");
    }
}
