//! HTTP client of one witness: `add-checkpoint`. Its URL is set by the operator, so it may be in a private
//! network.

use std::time::Duration;

use anyhow::{Context, bail};
use chassis::{assert_no_transaction, foreign_text::clean_line};
use data_encoding::BASE64;
use reqwest::StatusCode;
use verifier::witness::Witness;

use crate::{merkle::Hash, note::checkpoint_text, publication::SuiteCheckpoint};

/// Time-out of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest response, in bytes.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// Largest part of a refusal that is logged, in bytes.
const REFUSAL_BYTES_MAX: usize = 300;

/// Client of a witness.
pub(super) struct WitnessClient {
    http: reqwest::Client,
    /// URL of `add-checkpoint`.
    url: String,
    witness: Witness,
}

/// Response of a witness.
pub(super) enum Answer {
    /// The signature line, without its line feed.
    Cosigned(String),
    /// The size of the newest checkpoint that the witness has cosigned.
    OtherSize(u64),
}

impl WitnessClient {
    /// Creates a client.
    pub(super) fn new(witness: &Witness) -> anyhow::Result<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let prefix = witness.url.as_deref().context("a witness has a URL")?;
        let url = format!("{}/add-checkpoint", prefix.trim_end_matches('/'));
        Ok(Self { http, url, witness: witness.clone() })
    }

    /// Name of the witness.
    pub(super) fn name(&self) -> &str {
        self.witness.key.name()
    }

    /// Sends a checkpoint, and the proof that it continues the one of `old_size` entries.
    pub(super) async fn add_checkpoint(
        &self,
        old_size: u64,
        proof: &[Hash],
        checkpoint: &SuiteCheckpoint,
    ) -> anyhow::Result<Answer> {
        assert_no_transaction();
        let proof: String = proof.iter().map(|it| format!("{}\n", BASE64.encode(it))).collect();
        let body = format!("old {old_size}\n{proof}\n{}", checkpoint.note);
        let sent = self.http.post(&self.url).body(body).send().await;
        let mut response = sent.with_context(|| format!("cannot reach {}", self.url))?;
        let status = response.status();
        let mut bytes = vec![];
        while let Some(chunk) = response.chunk().await? {
            bytes.extend(chunk);
            if bytes.len() > RESPONSE_BYTES_MAX {
                bail!("the response is larger than {RESPONSE_BYTES_MAX} bytes");
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        match status {
            StatusCode::OK => {
                let signed =
                    checkpoint_text(&checkpoint.note).context("a checkpoint has a text")?;
                let cosignature = self.witness.key.cosignature_in(signed, &text);
                let cosignature =
                    cosignature.context("the response has no valid cosignature of the witness")?;
                Ok(Answer::Cosigned(cosignature.line.to_owned()))
            }
            StatusCode::CONFLICT => {
                let size = text.trim_end().parse();
                Ok(Answer::OtherSize(size.context("the response is not a size")?))
            }
            _ => bail!("{status}: {}", clean_line(text.trim(), REFUSAL_BYTES_MAX)),
        }
    }
}
