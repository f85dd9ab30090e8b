//! Commands in running containers (`docker exec`). Their connection is made here, because the client of the
//! engine takes the output of a terminal for headers of messages if it begins with the bytes 0 to 2.

use std::{io, path::Path};

use anyhow::{Context, Result, ensure};
use bollard::{exec::ResizeExecOptions, models::ExecConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{Docker, engine_error};

/// Maximum length of the head of the engine's response, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Length of the header of a message of output: its stream and its length.
const HEADER_BYTES: usize = 8;

/// Number of the error output in the header of a message.
const STDERR: u8 = 2;

/// Command to run in a container.
pub(crate) struct ExecSpec<'a> {
    /// Id of the container.
    pub(crate) container_id: &'a str,
    /// Account, also as group.
    pub(crate) account: u32,
    pub(crate) arguments: Vec<String>,
    /// Variables besides those of the container, as `NAME=value`.
    pub(crate) variables: Vec<String>,
    /// `None`: that of the image.
    pub(crate) working_dir: Option<&'a str>,
    pub(crate) has_terminal: bool,
}

/// A command that was started in a container.
pub(crate) struct Exec {
    client: bollard::Docker,
    id: String,
}

/// Output of a command. With a terminal it has no headers.
pub(crate) struct ExecOutput {
    connection: OwnedReadHalf,
    has_terminal: bool,
    /// Bytes of the current message that follow.
    remaining: usize,
    is_error: bool,
}

impl Docker {
    /// Starts a command; returns it with its output and its input.
    pub(crate) async fn start_exec(
        &self,
        spec: ExecSpec<'_>,
    ) -> Result<(Exec, ExecOutput, OwnedWriteHalf)> {
        let has_terminal = spec.has_terminal;
        let config = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(has_terminal),
            env: Some(spec.variables),
            cmd: Some(spec.arguments),
            user: Some(format!("{0}:{0}", spec.account)),
            working_dir: spec.working_dir.map(str::to_owned),
            privileged: Some(false),
            ..ExecConfig::default()
        };
        let created = self.client.create_exec(spec.container_id, config).await;
        let id = created.map_err(engine_error)?.id;
        let connection = connect(&self.socket, &id, has_terminal).await?;
        let (connection, input) = connection.into_split();
        let output = ExecOutput { connection, has_terminal, remaining: 0, is_error: false };
        Ok((Exec { client: self.client.clone(), id }, output, input))
    }
}

impl Exec {
    /// Sets the size of the terminal.
    pub(crate) async fn resize(&self, width: u16, height: u16) -> Result<()> {
        let options = ResizeExecOptions { height, width };
        self.client.resize_exec(&self.id, options).await.map_err(engine_error)
    }

    /// Returns the process id on this machine; `None` before the start and after the end.
    pub(crate) async fn pid(&self) -> Option<u32> {
        let state = self.client.inspect_exec(&self.id).await.ok()?;
        state.pid.and_then(|it| u32::try_from(it).ok()).filter(|it| *it > 0)
    }

    /// Returns the exit status; `None` while the command runs.
    pub(crate) async fn exit_status(&self) -> Result<Option<i32>> {
        let state = self.client.inspect_exec(&self.id).await.map_err(engine_error)?;
        let status = state.exit_code.filter(|_| state.running != Some(true));
        Ok(status.and_then(|it| i32::try_from(it).ok()))
    }
}

impl ExecOutput {
    /// Reads output; returns its length, 0 at the end, and true for the error output.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        if self.has_terminal {
            return Ok((self.connection.read(buffer).await?, false));
        }
        while self.remaining == 0 {
            let mut header = [0; HEADER_BYTES];
            match self.connection.read_exact(&mut header).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok((0, false));
                }
                Err(error) => return Err(error),
            }
            let [stream, _, _, _, length @ ..] = header;
            self.is_error = stream == STDERR;
            self.remaining = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        }
        let length = buffer.len().min(self.remaining);
        let read = self.connection.read(&mut buffer[..length]).await?;
        self.remaining -= read;
        Ok((read, self.is_error))
    }
}

/// Starts a created command, and takes over the connection.
async fn connect(socket: &Path, id: &str, has_terminal: bool) -> Result<UnixStream> {
    let mut connection = UnixStream::connect(socket).await.context("no container engine")?;
    let body = serde_json::json!({ "Detach": false, "Tty": has_terminal }).to_string();
    let request = format!(
        "POST /exec/{id}/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await?;
    let mut head = vec![];
    // Byte by byte, because the output follows at once.
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < HEAD_BYTES_MAX, "the response of the container engine has no end");
        head.push(connection.read_u8().await.context("the container engine does not answer")?);
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    ensure!(["101", "200"].contains(&status), "the container engine answers with status {status}");
    Ok(connection)
}
