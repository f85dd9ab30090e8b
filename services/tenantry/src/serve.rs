//! All services and a runner in one process.

use std::io::Write;

use chassis::Config;
use host::{Install, process};

use crate::local_runner;

/// Functions that install the services and the runner into the process.
pub const INSTALLS: &[Install] = &[
    identity::install,
    project::install,
    invitation::install,
    audit::install,
    local_runner::install,
];

/// Serves until SIGTERM or Ctrl-C.
pub(crate) async fn serve(config: Config) -> anyhow::Result<()> {
    Box::pin(process::serve("tenantry", config, INSTALLS, print_greeting)).await
}

/// Prints the address and commands to try, when the process is ready.
fn print_greeting(config: &Config) {
    let address = config.listen;
    let program = program_path();
    let text = format!(
        "Tenantry listens on {address}. Commands to try in a second terminal:\n\
         \x20 {program} demo --endpoint http://{address}      run a demo that shows each call\n\
         \x20 grpcurl -plaintext {address} list              list the services\n\
         \x20 grpcurl -plaintext {address} describe tenantry.identity.v1.UserService\n\
         Press Ctrl-C to stop.\n"
    );
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Returns the path with which this program is called from the working directory.
pub(crate) fn program_path() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| "tenantry".into());
    let working_dir = std::env::current_dir().unwrap_or_default();
    match path.strip_prefix(working_dir) {
        Ok(relative) if relative.starts_with("target") => format!("./{}", relative.display()),
        _ => path.display().to_string(),
    }
}
