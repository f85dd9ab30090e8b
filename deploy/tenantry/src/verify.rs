//! Proves offline that an entry is in the audit log. Shares no code with the service that builds the log:
//! what it checks is written here from the specifications (RFC 9162, 2.1.3.2; C2SP signed-note and
//! tlog-checkpoint).

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::{
    digest,
    signature::{ED25519, UnparsedPublicKey},
};
use data_encoding::{BASE64, HEXLOWER};
use prost::Message;
use serde_json::Value;

/// A proof and the key to check it with.
#[derive(clap::Args)]
pub struct Arguments {
    /// The answer of `GetInclusionProof`, as grpcurl prints it.
    pub proof: PathBuf,
    /// The log's verifier key, from its operator and not from the log: `<name>+<id>+<key>`.
    #[arg(long)]
    pub key: String,
    /// The organization whose log it must be. Without it any organization of the log will do.
    #[arg(long)]
    pub org: Option<String>,
}

/// Everything that proves one entry.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The entry's place in the tree.
    pub index: u64,
    /// The entry's exact bytes.
    pub leaf: Vec<u8>,
    /// The path to the root, lowest first.
    pub hashes: Vec<Vec<u8>>,
    /// The signed head.
    pub checkpoint: String,
}

/// What a proof proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The log and organization.
    pub origin: String,
    /// Entries of the log at that time.
    pub size: u64,
}

/// Reads, checks and reports.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let text = std::fs::read_to_string(&arguments.proof);
    let text = text.with_context(|| format!("cannot read {}", arguments.proof.display()))?;
    let proof = Proof::from_json(&serde_json::from_str(&text).context("the proof is no JSON")?)?;
    let proven = verify(&proof, &arguments.key, arguments.org.as_deref())?;
    let envelope = api::event::Envelope::decode(&*proof.leaf).context("the entry is no event")?;
    let event = envelope.event.map(|it| it.type_url).unwrap_or_default();
    let actor = envelope.actor.unwrap_or_default();
    crate::tools::print(&format!(
        "VERIFIED: entry {} of {} in {}\n  {} by {} <{}>, event {}\n",
        proof.index,
        proven.size,
        proven.origin,
        event.trim_start_matches('/'),
        actor.name,
        actor.email,
        envelope.id,
    ))
}

impl Proof {
    /// Reads the answer of `GetInclusionProof`. An index of 0 is left out of JSON.
    pub fn from_json(json: &Value) -> Result<Self> {
        let bytes = |it: &Value| -> Result<Vec<u8>> {
            Ok(BASE64.decode(it.as_str().context("bytes are base64 text")?.as_bytes())?)
        };
        let index = match &json["index"] {
            Value::Null => 0,
            Value::String(it) => it.parse().context("the index is no number")?,
            other => other.as_u64().context("the index is no number")?,
        };
        let hashes = json["hashes"].as_array().cloned().unwrap_or_default();
        Ok(Self {
            index,
            leaf: bytes(&json["leaf"]).context("the proof has no leaf")?,
            hashes: hashes.iter().map(bytes).collect::<Result<_>>()?,
            checkpoint: json["checkpoint"]
                .as_str()
                .context("the proof has no checkpoint")?
                .to_owned(),
        })
    }
}

/// Checks the signature of the head, and that the entry is under it.
pub fn verify(proof: &Proof, verifier_key: &str, org: Option<&str>) -> Result<Proven> {
    let (name, key) = parse_key(verifier_key)?;
    let text = signed_text(&proof.checkpoint, &name, &key)?;
    let lines: Vec<&str> = text.lines().collect();
    let [origin, size, root] = lines.as_slice() else {
        bail!("the checkpoint must have three lines")
    };
    let of_log = origin.strip_prefix(&name).and_then(|it| it.strip_prefix('/'));
    let of_log = of_log.with_context(|| format!("the checkpoint is of {origin}, not of {name}"))?;
    ensure!(org.is_none_or(|it| it == of_log), "the checkpoint is of the organization {of_log}");
    let canonical = size.parse::<u64>().ok().filter(|it| it.to_string() == **size);
    let size = canonical.context("the size is no number")?;
    let root = BASE64.decode(root.as_bytes()).context("the root is not base64")?;
    let computed = root_of(proof, size)?;
    ensure!(
        computed == root,
        "the entry is not under this head: it was changed, or the proof is of another"
    );
    Ok(Proven { origin: (*origin).to_owned(), size })
}

/// `<name>+<key id in hex>+<base64 of type and key>`.
fn parse_key(text: &str) -> Result<(String, Vec<u8>)> {
    let mut parts = text.trim().splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        bail!("the verifier key must look like <name>+<id>+<key>");
    };
    let key = BASE64.decode(key.as_bytes()).context("the verifier key is not base64")?;
    ensure!(key.len() == 33 && key[0] == 1, "the verifier key is not of type Ed25519");
    ensure!(
        id == HEXLOWER.encode(&key_id(name, &key)),
        "the verifier key and its id do not belong together"
    );
    Ok((name.to_owned(), key))
}

fn key_id(name: &str, key: &[u8]) -> [u8; 4] {
    let hash = sha256(&[name.as_bytes(), b"\n", key]);
    [hash[0], hash[1], hash[2], hash[3]]
}

/// The text of a note, if this key signed it.
fn signed_text<'a>(note: &'a str, name: &str, key: &[u8]) -> Result<&'a str> {
    let (text, signatures) = note.rsplit_once("\n\n").context("the checkpoint has no signature")?;
    let text = &note[..=text.len()];
    for line in signatures.lines() {
        let Some((signer, signature)) =
            line.strip_prefix("\u{2014} ").and_then(|it| it.split_once(' '))
        else {
            bail!("a signature line of the checkpoint is malformed");
        };
        let signature = BASE64.decode(signature.as_bytes()).context("a signature is not base64")?;
        if signer == name && signature.starts_with(&key_id(name, key)) {
            let public = UnparsedPublicKey::new(&ED25519, &key[1..]);
            let verified = public.verify(text.as_bytes(), &signature[4..]);
            ensure!(
                verified.is_ok(),
                "the signature of the checkpoint is wrong: it is not from this log"
            );
            return Ok(text);
        }
    }
    bail!("the checkpoint carries no signature of this key")
}

/// RFC 9162, 2.1.3.2: the root that follows from an entry and its path.
fn root_of(proof: &Proof, size: u64) -> Result<Vec<u8>> {
    ensure!(proof.index < size, "the entry is beyond the head");
    ensure!(proof.hashes.iter().all(|it| it.len() == 32), "a hash of the path is no SHA-256");
    let (mut at, mut last) = (proof.index, size - 1);
    let mut hash = sha256(&[&[0], &proof.leaf]);
    for sibling in &proof.hashes {
        ensure!(last != 0, "the path is too long");
        if at & 1 == 1 || at == last {
            hash = sha256(&[&[1], sibling, &hash]);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = sha256(&[&[1], &hash, sibling]);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    ensure!(last == 0, "the path is too short");
    Ok(hash)
}

fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    digest::digest(&digest::SHA256, &parts.concat()).as_ref().to_vec()
}
