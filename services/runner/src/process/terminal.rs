//! Pseudo terminals (pty(7)) of commands.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::chown,
    },
    path::{Path, PathBuf},
};

use api::project::TerminalSize;
use rustix::{
    fs::{Mode, OFlags, fcntl_setfl, open},
    io::Errno,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::io::unix::AsyncFd;

/// Number of columns or rows, as terminals have it.
pub(super) fn cells(count: i32) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// A terminal whose other side is a command.
pub(super) struct Terminal {
    /// The side of the runner.
    controller: AsyncFd<File>,
    path: PathBuf,
}

/// The side of the command. The output ends when it is dropped and the command has closed it.
pub(super) struct TerminalDevice {
    _device: OwnedFd,
}

impl Terminal {
    /// Creates a terminal that belongs to an account.
    #[expect(
        deprecated,
        reason = "sound for a file, which closes with it; the replacement is unsafe"
    )]
    pub(super) fn new(size: TerminalSize, account: u32) -> io::Result<(Self, TerminalDevice)> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let path = ptsname(&controller, vec![])?.into_string();
        let path = PathBuf::from(path.map_err(|_| io::ErrorKind::InvalidData)?);
        chown(&path, Some(account), None)?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let device = open(&path, flags, Mode::empty())?;
        fcntl_setfl(&controller, OFlags::RDWR | OFlags::NONBLOCK)?;
        let controller = AsyncFd::new(File::from(controller))?;
        let terminal = Self { controller, path };
        terminal.resize(size)?;
        Ok((terminal, TerminalDevice { _device: device }))
    }

    /// Path of the side of the command.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the size, and sends SIGWINCH to the foreground processes.
    pub(super) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let size = Winsize {
            ws_col: cells(size.columns),
            ws_row: cells(size.rows),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(self.controller.get_ref().as_fd(), size)?)
    }

    /// Reads output. Returns 0 at its end.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.controller.readable().await?;
            match ready.try_io(|it| it.get_ref().read(buffer)) {
                // EIO: the other side is closed.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    return Ok(0);
                }
                Ok(read) => return read,
                Err(_would_block) => {}
            }
        }
    }

    /// Writes a part of the input; returns its length. Cancel-safe.
    pub(super) async fn write(&self, input: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.controller.writable().await?;
            if let Ok(written) = ready.try_io(|it| it.get_ref().write(input)) {
                return written;
            }
        }
    }
}
