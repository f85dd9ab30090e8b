//! HTTP client of the tiles of a log (C2SP tlog-tiles), for `monitor` and `verify`.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use chassis::foreign_text::clean_block;
use flate2::read::GzDecoder;
use reqwest::{Certificate, Client, Response, StatusCode, header};
use verifier::{
    Pins, VerifyError,
    suite::{self, SuiteProof},
    tiles::{EntryRange, Source, TILE_WIDTH, split_bundle},
};

/// Time-out of a request.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time for which the server can ask to wait before a repetition.
const RETRY_AFTER_MAX: u64 = 120;
/// Attempts of a request that the server asks to repeat.
const ATTEMPTS: usize = 5;
/// Largest resource, in bytes: a bundle of 256 entries of at most 65,535 bytes.
const BYTES_MAX: usize = 256 * ((1 << 16) + 2);
/// Largest part of the text of a refusal that is shown, in bytes.
const REFUSAL_BYTES_MAX: usize = 1_000;

/// Arguments with which a log is reached.
#[derive(clap::Args)]
pub(crate) struct LogAccess {
    /// CA certificate (PEM) that signed the certificate of the log.
    #[arg(long, env = "TENANTRY_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Token of a session. Default: none, for a public log.
    #[arg(long, env = "TENANTRY_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File with the token, instead of --token. It is read again with each checkpoint, so that a session can
    /// be replaced.
    #[arg(long)]
    token_file: Option<PathBuf>,
}

/// A log over HTTP.
pub(crate) struct LogClient {
    client: Client,
    /// URL of the log, without a slash at its end.
    url: String,
    token: Option<String>,
    token_file: Option<PathBuf>,
}

/// Result of a request.
enum Answer {
    Found(Vec<u8>),
    /// The bundle has entries of which the log shows only the hashes.
    Hidden(EntryRange),
}

impl LogClient {
    /// Creates a client of the log at a URL.
    pub(crate) fn new(url: &str, access: &LogAccess) -> Result<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut client = Client::builder().timeout(TIMEOUT);
        if let Some(path) = &access.tls_ca {
            let authorities = Certificate::from_pem_bundle(read(path)?.as_bytes())?;
            client = client.tls_certs_only(authorities);
        }
        Ok(Self {
            client: client.build()?,
            url: url.trim_end_matches('/').to_owned(),
            token: access.token.clone(),
            token_file: access.token_file.clone(),
        })
    }

    /// Name of the tree, the last segment of the URL: the id of an organization, or `suite`.
    pub(crate) fn tree_name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the newest checkpoint and, if the pins require cosignatures, the proof that it is in the tree
    /// of the suite. Neither is verified.
    pub(crate) async fn proven_checkpoint(
        &mut self,
        pins: &Pins,
    ) -> Result<(String, Option<SuiteProof>)> {
        if let Some(path) = &self.token_file {
            self.token = Some(read(path)?.trim().to_owned());
        }
        // The tree of the suite has the cosignatures in its own checkpoint.
        if pins.witnesses.is_none() || self.tree_name() == suite::NAME {
            return Ok((self.get_text("checkpoint").await?, None));
        }
        let (note, proof) = SuiteProof::parse(&self.get_text("checkpoint.tlog-proof").await?)?;
        Ok((note, Some(proof)))
    }

    async fn get_text(&self, path: &str) -> Result<String> {
        match self.get(path).await? {
            Answer::Found(bytes) => Ok(String::from_utf8(bytes)
                .map_err(|_| VerifyError::Malformed(format!("{path} is not text")))?),
            Answer::Hidden(_) => bail!("{} shows no {path}", self.url),
        }
    }

    /// Reads a resource. Waits, if the server asks for it.
    async fn get(&self, path: &str) -> Result<Answer> {
        let url = format!("{}/{path}", self.url);
        for attempt in 1.. {
            let mut request = self.client.get(&url).header(header::ACCEPT_ENCODING, "gzip");
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            let response = request.send().await.with_context(|| format!("cannot reach {url}"))?;
            let status = response.status();
            if status == StatusCode::OK {
                return Ok(Answer::Found(read_body(response).await?));
            }
            if let Some(hidden) = text_header(&response, "tenantry-hidden-entries") {
                return Ok(Answer::Hidden(parse_range(hidden)?));
            }
            let retry_after = text_header(&response, "retry-after").and_then(|it| it.parse().ok());
            match retry_after {
                Some(seconds) if seconds <= RETRY_AFTER_MAX && attempt < ATTEMPTS => {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                }
                _ => {
                    let text = response.text().await.unwrap_or_default();
                    let text = clean_block(text.trim(), REFUSAL_BYTES_MAX);
                    bail!("{url}: {status}: {text}");
                }
            }
        }
        bail!("{url} is not available");
    }

    /// Reads the entries of a range from a bundle; fails if the log hides some of them.
    async fn visible_entries(&self, range: EntryRange) -> Result<Vec<Vec<u8>>, Unreadable> {
        let path = range.path();
        let bundle_first = range.first - range.first % TILE_WIDTH;
        // Other logs do not know the query, and return the bundle from its beginning on.
        let first = format!("?first={}", range.first);
        let query = if range.first == bundle_first { "" } else { &first };
        let bytes = match self.get(&format!("{path}{query}")).await? {
            Answer::Found(bytes) => bytes,
            Answer::Hidden(hidden) => return Err(Unreadable::Hidden(hidden)),
        };
        let mut entries = split_bundle(&path, &bytes).map_err(anyhow::Error::from)?;
        let skipped = usize::try_from(range.first - bundle_first).map_err(anyhow::Error::from)?;
        let requested = usize::try_from(range.end - range.first).map_err(anyhow::Error::from)?;
        if entries.len() == skipped + requested {
            entries.drain(..skipped);
        }
        Ok(entries)
    }
}

/// Failure to read entries.
enum Unreadable {
    /// The log shows only the hashes of these entries.
    Hidden(EntryRange),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Unreadable {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Source for LogClient {
    type Error = anyhow::Error;

    async fn tile(&mut self, path: &str) -> Result<Vec<u8>> {
        match self.get(path).await? {
            Answer::Found(bytes) => Ok(bytes),
            Answer::Hidden(_) => bail!("{}/{path} is hidden", self.url),
        }
    }

    async fn entries(&mut self, range: EntryRange) -> Result<Vec<Option<Vec<u8>>>> {
        let mut entries = vec![];
        // Ranges to read, the next one last.
        let mut ranges = vec![range];
        while let Some(range) = ranges.pop() {
            match self.visible_entries(range).await {
                Ok(visible) => entries.extend(visible.into_iter().map(Some)),
                Err(Unreadable::Failed(error)) => return Err(error),
                Err(Unreadable::Hidden(hidden)) if hidden == range => {
                    entries.extend((range.first..range.end).map(|_| None));
                }
                Err(Unreadable::Hidden(hidden)) => {
                    let is_part = range.first <= hidden.first
                        && hidden.first < hidden.end
                        && hidden.end <= range.end;
                    if !is_part {
                        bail!("{}/{} hides other entries than requested", self.url, range.path());
                    }
                    let before = EntryRange { first: range.first, end: hidden.first };
                    let after = EntryRange { first: hidden.end, end: range.end };
                    let parts = [after, hidden, before].into_iter().filter(|it| it.first < it.end);
                    ranges.extend(parts);
                }
            }
        }
        Ok(entries)
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn text_header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

/// Parses `<first>-<last>`.
fn parse_range(text: &str) -> Result<EntryRange> {
    let range = text.split_once('-').and_then(|(first, last)| {
        Some(EntryRange {
            first: first.parse().ok()?,
            end: last.parse::<u64>().ok()?.checked_add(1)?,
        })
    });
    range.with_context(|| format!("the hidden entries {text:?} are not a range"))
}

/// Reads a body of limited length, also after its decompression.
async fn read_body(mut response: Response) -> Result<Vec<u8>> {
    let is_gzip = text_header(&response, "content-encoding") == Some("gzip");
    let mut body = vec![];
    while let Some(chunk) = response.chunk().await? {
        body.extend(chunk);
        if body.len() > BYTES_MAX {
            bail!("a resource of the log is larger than {BYTES_MAX} bytes");
        }
    }
    if !is_gzip {
        return Ok(body);
    }
    let mut plain = vec![];
    let limited =
        GzDecoder::new(&*body).take(u64::try_from(BYTES_MAX)? + 1).read_to_end(&mut plain);
    limited.context("a resource of the log cannot be decompressed")?;
    if plain.len() > BYTES_MAX {
        bail!("a resource of the log is larger than {BYTES_MAX} bytes");
    }
    Ok(plain)
}
