//! Examples of the guides: code blocks of the language `sh` that begin with `grpcurl`, run against a suite
//! with a new data directory. They get a session token in `TOKEN` and an organization in `ORG`.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    Outcome, docs, machine,
    run::{self, root},
};

/// Address of the suite in the documents.
const DOCUMENTED_ADDRESS: &str = "127.0.0.1:50051";
const EMAIL: &str = "ann@example.com";
const PASSWORD: &str = "correct horse battery staple";
/// Maximum wait for the start of the suite, and for a mail.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Parser of fenced code blocks: finds out for each line of a document if it is in one.
#[derive(Default)]
pub(crate) struct Fence {
    is_open: bool,
}

impl Fence {
    /// Returns true if the next line is in a code block, or opens or closes one.
    pub(crate) fn is_code(&mut self, line: &str) -> bool {
        let is_mark = line.trim_start().starts_with("```");
        self.is_open ^= is_mark;
        self.is_open || is_mark
    }
}

/// Runs the examples of all guides.
pub(crate) fn run() -> Outcome {
    machine::need(&[machine::POSTGRES, machine::GIT])?;
    run::build(&["--bin", "tenantry"])?;
    let suite = Suite::start()?;
    let token = suite.sign_in()?;
    let created = suite.call(
        "tenantry.identity.v1.OrganizationService/CreateOrganization",
        "{\"name\": \"Acme\"}",
        Some(&token),
    )?;
    let org = field(&created, "id")?;
    for guide in docs::markdown(&root().join("docs/guides")) {
        let text = fs::read_to_string(&guide).map_err(|error| error.to_string())?;
        for example in examples(&text) {
            let script = example.replace(DOCUMENTED_ADDRESS, &suite.address);
            let mut shell = Command::new("sh");
            shell.args(["-e", "-c", &script]).env("TOKEN", &token).env("ORG", &org);
            shell.stdout(Stdio::null());
            let name = guide.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let first_line = example.lines().next().unwrap_or_default();
            run::finish(&mut shell, &format!("{name}: {first_line}"))?;
        }
    }
    Ok(())
}

/// Returns the code blocks of the language `sh` that begin with `grpcurl`.
fn examples(text: &str) -> Vec<String> {
    let blocks = text.split("\n```sh\n").skip(1).filter_map(|it| it.split("\n```").next());
    blocks.filter(|it| it.starts_with("grpcurl")).map(str::to_owned).collect()
}

/// A suite with its own data directory, stopped and deleted on drop.
struct Suite {
    address: String,
    data_dir: PathBuf,
    process: Child,
}

impl Suite {
    fn start() -> Outcome<Self> {
        let address = free_address()?;
        let data_dir = std::env::temp_dir().join(format!("tenantry-docs-{}", std::process::id()));
        let mut command = Command::new(root().join("target/debug/tenantry"));
        command.args(["--listen", &address, "--data-dir"]).arg(&data_dir);
        command.args(["--allow-weak-isolation", "true"]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.map_err(|error| format!("tenantry: {error}"))?;
        let suite = Self { address, data_dir, process };
        wait("the start of the suite", || TcpStream::connect(&suite.address).ok())?;
        Ok(suite)
    }

    /// Registers a person, confirms the address with the token of the mail, and returns a session token.
    fn sign_in(&self) -> Outcome<String> {
        let login = format!("{{\"email\": \"{EMAIL}\", \"password\": \"{PASSWORD}\"}}");
        self.call("tenantry.identity.v1.UserService/Register", &login, None)?;
        let mails = self.data_dir.join("mail");
        let token = wait("the mail", || mailed_token(&mails))?;
        let confirm = format!("{{\"token\": \"{token}\", \"password\": \"{PASSWORD}\"}}");
        self.call("tenantry.identity.v1.UserService/VerifyEmail", &confirm, None)?;
        field(&self.call("tenantry.identity.v1.SessionService/Login", &login, None)?, "token")
    }

    /// Returns the response of a call as JSON.
    fn call(&self, method: &str, request: &str, token: Option<&str>) -> Outcome<String> {
        let mut grpcurl = Command::new("grpcurl");
        grpcurl.args(["-plaintext", "-d", request]);
        if let Some(token) = token {
            grpcurl.args(["-H", &format!("authorization: Bearer {token}")]);
        }
        let output = grpcurl.args([&self.address, method]).output();
        let output = output.map_err(|error| format!("grpcurl: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("{method}: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.data_dir);
    }
}

fn free_address() -> Outcome<String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    Ok(listener.local_addr().map_err(|error| error.to_string())?.to_string())
}

/// Calls `probe` until it returns a value; fails after [`TIMEOUT`]. `name` is for the error.
fn wait<T>(name: &str, mut probe: impl FnMut() -> Option<T>) -> Outcome<T> {
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if let Some(value) = probe() {
            return Ok(value);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("waited {} s for {name} without success", TIMEOUT.as_secs()))
}

/// Returns the confirmation token in the mails of a directory; lines of a mail may be folded with `=`.
fn mailed_token(directory: &Path) -> Option<String> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let mail = fs::read_to_string(entry.path()).unwrap_or_default();
        let mail = mail.replace("=\r\n", "").replace("=\n", "");
        if let Some((_, rest)) = mail.split_once("tny_ver_") {
            let secret: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
            return Some(format!("tny_ver_{secret}"));
        }
    }
    None
}

/// Returns the first text field with a name in a JSON text.
fn field(json: &str, name: &str) -> Outcome<String> {
    let value = json.split_once(&format!("\"{name}\": \"")).and_then(|it| it.1.split('"').next());
    value.map(str::to_owned).ok_or_else(|| format!("the response has no {name}: {json}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_blocks_of_grpcurl() {
        let text = "a\n```sh\ngrpcurl x\n  y\n```\n```sh\nls\n```\n```console\n$ grpcurl z\n```\n";
        assert_eq!(examples(text), ["grpcurl x\n  y"]);
    }
}
