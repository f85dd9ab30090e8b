//! Files of the sandboxes of an environment: each has a status file and a directory for temporary files.

use std::path::PathBuf;

use anyhow::Result;
use tokio::fs;

use super::{
    account::Accounts,
    directory::{EnvironmentDir, create_directory, remove_tree},
    record::EnvironmentRecord,
};

/// Files of one sandbox.
pub(super) struct SandboxFiles {
    /// File to which `bwrap` writes its status.
    pub(super) status: PathBuf,
    /// `/tmp` of the sandbox. On disk, so that its files count towards the disk limit and not as memory.
    pub(super) tmp: PathBuf,
}

impl EnvironmentDir {
    /// Creates the files of a sandbox, replacing those of an ended one with the same name.
    pub(super) async fn create_sandbox(
        &self,
        accounts: &Accounts,
        name: &str,
    ) -> Result<SandboxFiles> {
        self.remove_sandbox(name).await?;
        self.write_account_files(accounts).await?;
        let sandboxes = self.path().join("sandboxes");
        let directory = sandboxes.join(name);
        create_directory(&sandboxes, 0o711).await?;
        create_directory(&directory, 0o711).await?;
        let tmp = directory.join("tmp");
        self.create_account_directory(accounts, &tmp).await?;
        Ok(SandboxFiles { status: directory.join("status"), tmp })
    }

    /// Writes `/etc/passwd` and `/etc/group` of the sandboxes, unless they exist with this content: running
    /// sandboxes read them.
    async fn write_account_files(&self, accounts: &Accounts) -> Result<()> {
        let account = accounts.get(self);
        let user = account.unwrap_or_else(|| rustix::process::getuid().as_raw());
        let group = account.unwrap_or_else(|| rustix::process::getgid().as_raw());
        let passwd = format!("environment:x:{user}:{group}:environment:/data:/bin/sh\n");
        let groups = format!("environment:x:{group}:\n");
        for (path, text) in [(self.passwd(), passwd), (self.group(), groups)] {
            if fs::read_to_string(&path).await.ok().as_ref() != Some(&text) {
                fs::write(&path, text).await?;
            }
        }
        Ok(())
    }

    /// Removes the files of an ended sandbox.
    pub(super) async fn remove_sandbox(&self, name: &str) -> Result<()> {
        remove_tree(&self.path().join("sandboxes").join(name)).await
    }

    /// Removes the files of all sandboxes but those of the recorded process.
    pub(super) async fn remove_other_sandboxes(&self, record: &EnvironmentRecord) -> Result<()> {
        let kept = record.process.as_ref().and_then(|it| it.status_file().parent());
        let Ok(mut entries) = fs::read_dir(self.path().join("sandboxes")).await else {
            return Ok(());
        };
        while let Some(entry) = entries.next_entry().await? {
            if Some(entry.path().as_path()) != kept {
                remove_tree(&entry.path()).await?;
            }
        }
        Ok(())
    }

    /// Directory with the index of the files that a copy has archived of the directory `name`.
    pub(super) fn copy_index(&self, name: &str) -> PathBuf {
        self.path().join("copy-index").join(name)
    }

    pub(super) async fn remove_copy_indices(&self) -> Result<()> {
        remove_tree(&self.path().join("copy-index")).await
    }

    /// Removes the destination of an incomplete copy.
    pub(super) async fn remove_incoming_data(&self) -> Result<()> {
        remove_tree(&self.incoming_data()).await
    }
}
