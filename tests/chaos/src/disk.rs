//! ext4 file systems on loop mounts, which lose their power and fill up.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::sandbox::{run, text_of};

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: nothing that is not on the disk gets there any
/// more, neither data nor the journal. In Python, because an ioctl is unsafe code in Rust.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// File that fills a disk.
const FILLER: &str = "filler";

/// A file system in an image file.
pub(crate) struct Disk {
    image: PathBuf,
    pub(crate) mount_point: PathBuf,
}

impl Disk {
    /// Creates and mounts a file system of a size in MiB. The image file is sparse.
    pub(crate) fn create(folder: &Path, name: &str, mib: u64) -> Result<Self> {
        let disk =
            Self { image: folder.join(format!("{name}.img")), mount_point: folder.join(name) };
        std::fs::create_dir(&disk.mount_point)?;
        std::fs::File::create(&disk.image)?.set_len(mib * 1024 * 1024)?;
        // `-m 0`: without blocks that only root may use, so that it is as full for all accounts.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &text_of(&disk.image)])?;
        disk.mount()?;
        Ok(disk)
    }

    /// Mounts the file system; after a power cut the journal is replayed.
    pub(crate) fn mount(&self) -> Result<()> {
        run("mount", &["-o", "loop", &text_of(&self.image), &text_of(&self.mount_point)])
    }

    /// Cuts the power: what is not on the disk is lost.
    pub(crate) fn shut_down(&self) -> Result<()> {
        run("python3", &["-c", SHUTDOWN, &text_of(&self.mount_point)])
    }

    /// Unmounts the file system, which no process may use any more.
    pub(crate) fn unmount(&self) -> Result<()> {
        let mut attempts = 0;
        loop {
            match run("umount", &[&text_of(&self.mount_point)]) {
                Ok(()) => return Ok(()),
                // Killed processes close their files a moment later.
                Err(_) if attempts < 50 => {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                Err(error) => return Err(error),
            }
            attempts += 1;
        }
    }

    /// Fills the file system to its last block.
    pub(crate) fn fill(&self) -> Result<()> {
        let path = self.mount_point.join(FILLER);
        let free = rustix::fs::statvfs(&self.mount_point)?;
        let bytes = (free.f_bavail * free.f_frsize).to_string();
        // Fails if it needs blocks for itself; the rest is written below.
        let _ = run("fallocate", &["-l", &bytes, &text_of(&path)]);
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let mut file = file.context("the filler can be opened")?;
        let mut block = vec![0_u8; 1024 * 1024];
        while !block.is_empty() {
            if file.write_all(&block).is_err() {
                block.truncate(block.len() / 2);
            }
        }
        Ok(())
    }

    /// Ends the shortage.
    pub(crate) fn free(&self) -> Result<()> {
        std::fs::remove_file(self.mount_point.join(FILLER)).context("the filler can be removed")
    }
}
