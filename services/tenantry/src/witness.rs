//! `tenantry witness`: cosigns the checkpoints of configured logs (C2SP tlog-witness, tlog-cosignature). Has
//! a key and a directory of its own, and shares no code with the service that builds the audit log.
//!
//! | concept | module |
//! |---|---|
//! | the configured logs | `logs` |
//! | the body of `add-checkpoint` | `request` |
//! | key, rules of a cosignature | `cosigner` |
//! | the newest cosigned checkpoint of each log, on disk | `state` |
//! | HTTP | `server` |

mod cosigner;
mod logs;
mod request;
mod server;
mod state;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use host::{DataDir, process};
use tokio_util::sync::CancellationToken;

use self::{cosigner::Cosigner, logs::Logs, state::StateDir};
use crate::tools::print;

/// Arguments of `witness`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name of the witness in its cosignatures, a URL without the scheme, for example `witness.example/w1`.
    #[arg(long)]
    name: String,
    /// File with the logs: a line for each, `<origin> <verifier key>`. While a log rotates its key, it has a
    /// line for each key. Lines that begin with `#` are comments.
    #[arg(long)]
    logs: PathBuf,
    /// Directory of the key (`witness.key`, created on the first start) and of the newest cosigned checkpoint
    /// of each log. Never restore it from a backup: a witness that has forgotten checkpoints can cosign
    /// others in their place.
    #[arg(long)]
    data_dir: PathBuf,
    /// Address of the HTTP server. A proxy in front of it adds TLS.
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
}

/// Cosigns until SIGTERM or Ctrl-C.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let stop_signal = process::stop_signal()?;
    let logs = Logs::read(&arguments.logs)?;
    let data_dir = DataDir::open(Some(&arguments.data_dir))?;
    let state = StateDir::open(data_dir.path())?;
    let key = cosigner::read_or_generate_key(data_dir.path())?;
    let cosigner = Cosigner::new(&arguments.name, key, logs, state)?;
    let listener = process::bind(arguments.listen)?.listen(1024);
    let listener = listener.with_context(|| format!("cannot listen on {}", arguments.listen))?;
    print(&format!("{}\nlistens on {}\n", cosigner.verifier_key(), listener.local_addr()?))?;
    let stop = CancellationToken::new();
    let serving = server::serve(listener, Arc::new(cosigner), stop.clone());
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        () = stop_signal => {
            stop.cancel();
            serving.await;
        }
    }
    Ok(())
}
