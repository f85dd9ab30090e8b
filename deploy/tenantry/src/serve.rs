//! The whole suite in one process.

use std::io::Write;

use chassis::{Config, host::Install, process};

/// What lives in the all-in-one.
pub const INSTALLS: &[Install] =
    &[identity::install, project::install, invitation::install, audit::install, runner::install];

/// Serves everything until SIGTERM or Ctrl-C.
pub(crate) async fn serve(config: Config) -> anyhow::Result<()> {
    process::serve("tenantry", config, INSTALLS, greet).await
}

/// What a newcomer does next.
fn greet(config: &Config) {
    let at = config.listen;
    let program = program();
    let text = format!(
        "Tenantry serves on {at}. In a second terminal:\n\
         \x20 {program} demo --endpoint http://{at}      the whole story, call by call\n\
         \x20 grpcurl -plaintext {at} list              what there is\n\
         \x20 grpcurl -plaintext {at} describe tenantry.identity.v1.UserService\n\
         Ctrl-C stops it.\n"
    );
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// How to call this program from where the reader is.
pub(crate) fn program() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| "tenantry".into());
    let here = std::env::current_dir().unwrap_or_default();
    match path.strip_prefix(here) {
        Ok(relative) if relative.starts_with("target") => format!("./{}", relative.display()),
        _ => path.display().to_string(),
    }
}
