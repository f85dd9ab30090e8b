//! Receipt: one entry with its inclusion proof, as `GetInclusionProof` and `GetReceipt` return it.

use api::event::Envelope;
use prost::Message;
use serde_json::Value;

use crate::{
    Checkpoint, Pins, VerifyError, malformed, note, read_bytes, read_hashes, read_number,
    sealed::{self, FieldText, Keys},
    suite::{self, SuiteProof},
    tree::{Hash, leaf_hash, verify_inclusion},
};

/// Kinds of objects whose name is the name of a person, and therefore sealed.
const PERSONAL_RESOURCE_KINDS: [&str; 3] = ["user", "member", "invitation"];

/// Everything that proves one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Index of the entry in the tree.
    pub index: u64,
    /// Exact bytes of the leaf.
    pub leaf: Vec<u8>,
    /// Inclusion proof: hashes from the leaf to the root, lowest first.
    pub hashes: Vec<Hash>,
    /// The checkpoint, as a signed note.
    pub checkpoint: String,
    /// Keys that decrypt the sealed fields of the leaf.
    pub keys: Keys,
    /// Proof that the checkpoint is in the suite tree; only of a log with witnesses.
    pub suite: Option<SuiteProof>,
}

/// A proven entry, with the fields that its keys decrypt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenEntry {
    /// Index of the entry in the tree.
    pub index: u64,
    /// Id of the event.
    pub event_id: String,
    /// Full name of the event's message: `tenantry.identity.v1.TeamCreated`.
    pub event: String,
    /// Name and e-mail address of the actor at that time, or `erased`.
    pub actor: String,
    /// Kind and name of the object; its id, if it has no name.
    pub resource: String,
    /// Name of the service that emitted the event.
    pub source: String,
    /// Sequence number among the events of the service in the organization; 0 if it has none.
    pub sequence: i64,
}

impl Receipt {
    /// Reads the response as grpcurl prints it.
    pub fn from_json(json: &Value) -> Result<Self, VerifyError> {
        let mut keys = Keys::new();
        for key in json["keys"].as_array().into_iter().flatten() {
            let subject = key["subjectId"].as_str().or(key["subject_id"].as_str());
            let subject = subject.ok_or_else(|| malformed("a key has no subjectId"))?;
            keys.insert(subject.to_owned(), read_bytes(&key["key"], "key")?);
        }
        let checkpoint = json["checkpoint"].as_str();
        let checkpoint = checkpoint.ok_or_else(|| malformed("the field checkpoint is missing"))?;
        Ok(Self {
            index: read_number(json, "index")?,
            leaf: read_bytes(&json["leaf"], "leaf")?,
            hashes: read_hashes(&json["hashes"])?,
            checkpoint: checkpoint.to_owned(),
            keys,
            suite: SuiteProof::from_json(&json["suite"])?,
        })
    }

    /// Verifies the signature of the checkpoint, its cosignatures, and the inclusion proof of the entry.
    pub fn verify(&self, pins: &Pins) -> Result<(Checkpoint, ProvenEntry), VerifyError> {
        let checkpoint = note::open(&self.checkpoint, pins)?;
        suite::verify(self.suite.as_ref(), &self.checkpoint, pins)?;
        let index = self.index;
        let size = checkpoint.size;
        if index >= size {
            return Err(VerifyError::BeyondHead { index, size });
        }
        let leaf = leaf_hash(&self.leaf);
        if !verify_inclusion(index, leaf, &self.hashes, size, &checkpoint.root) {
            return Err(VerifyError::NotInLog { index });
        }
        let entry = decode_leaf(index, &self.leaf, &self.keys)?;
        Ok((checkpoint, entry))
    }
}

/// Decodes a leaf and decrypts its sealed fields.
pub fn decode_leaf(index: u64, leaf: &[u8], keys: &Keys) -> Result<ProvenEntry, VerifyError> {
    let envelope = Envelope::decode(leaf);
    let envelope = envelope.map_err(|_| {
        malformed(format!("entry {index} is not an encoded tenantry.event.v1.Envelope"))
    })?;
    let open = |text: &str| match sealed::open(text, keys) {
        FieldText::Plain(text) => Ok(text),
        FieldText::Erased => Ok("erased".to_owned()),
        FieldText::WrongKey => Err(VerifyError::WrongPersonKey { index }),
    };
    let actor = envelope.actor.unwrap_or_default();
    let name = open(&actor.name)?;
    let email = open(&actor.email)?;
    let actor = match (name.as_str(), email.as_str()) {
        ("", "") => actor.id,
        (_, "") => name,
        _ => format!("{name} <{email}>"),
    };
    let type_url = envelope.event.map(|it| it.type_url).unwrap_or_default();
    let resource = envelope.resource.unwrap_or_default();
    // Only names of people are sealed. Another name that happens to look sealed is shown unchanged.
    let is_person = PERSONAL_RESOURCE_KINDS.contains(&resource.kind.as_str());
    let resource_name = if is_person { open(&resource.name)? } else { resource.name };
    let object = if resource_name.is_empty() {
        resource.id
    } else {
        format!("\u{201c}{resource_name}\u{201d}")
    };
    Ok(ProvenEntry {
        index,
        event_id: envelope.id,
        event: type_url.rsplit('/').next().unwrap_or_default().to_owned(),
        actor,
        resource: format!("{} {object}", resource.kind),
        source: envelope.source,
        sequence: envelope.sequence,
    })
}
