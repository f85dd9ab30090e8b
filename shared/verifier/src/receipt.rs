//! One entry with its path: the answer of `GetInclusionProof` or of `GetReceipt`.

use api::event::Envelope;
use prost::Message;
use serde_json::Value;

use crate::{
    Head, Pins, Refused, bytes, hashes, malformed, note, number,
    sealed::{self, Keys, Shown},
    tree::{Hash, includes, leaf_hash},
};

/// Everything that proves one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The entry's place in the tree.
    pub index: u64,
    /// The entry's exact bytes.
    pub leaf: Vec<u8>,
    /// The path to the root, lowest first.
    pub hashes: Vec<Hash>,
    /// The signed head.
    pub checkpoint: String,
    /// What opens its sealed fields.
    pub keys: Keys,
}

/// An entry that was proven, as far as it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Its place.
    pub index: u64,
    /// The identity of the event.
    pub event_id: String,
    /// What happened: the name of the event's message.
    pub event: String,
    /// Who did it: name and address at that time, or `erased`.
    pub actor: String,
    /// To what.
    pub resource: String,
    /// The service that said so, and its number there; 0 if it has none.
    pub source: String,
    /// As above.
    pub sequence: i64,
}

impl Receipt {
    /// Reads the answer as grpcurl prints it.
    pub fn from_json(json: &Value) -> Result<Self, Refused> {
        let mut keys = Keys::new();
        for key in json["keys"].as_array().into_iter().flatten() {
            let subject = key["subjectId"].as_str().or(key["subject_id"].as_str());
            let subject = subject.ok_or_else(|| malformed("a key says not whose it is"))?;
            keys.insert(subject.to_owned(), bytes(&key["key"], "key")?);
        }
        let checkpoint = json["checkpoint"].as_str();
        Ok(Self {
            index: number(json, "index")?,
            leaf: bytes(&json["leaf"], "leaf")?,
            hashes: hashes(&json["hashes"])?,
            checkpoint: checkpoint.ok_or_else(|| malformed("there is no checkpoint"))?.to_owned(),
            keys,
        })
    }

    /// Checks the signature of the head, and that the entry is under it.
    pub fn verify(&self, pins: &Pins) -> Result<(Head, Proven), Refused> {
        let head = note::open(&self.checkpoint, pins)?;
        let (index, size) = (self.index, head.size);
        if index >= size {
            return Err(Refused::BeyondHead { index, size });
        }
        if !includes(index, leaf_hash(&self.leaf), &self.hashes, size, &head.root) {
            return Err(Refused::NotInLog { index });
        }
        Ok((head, read(index, &self.leaf, &self.keys)?))
    }
}

/// Reads a leaf, as far as its keys open it.
pub fn read(index: u64, leaf: &[u8], keys: &Keys) -> Result<Proven, Refused> {
    let it = Envelope::decode(leaf);
    let it = it.map_err(|_| malformed(format!("entry {index} is no event")))?;
    let open = |text: &str| match sealed::open(text, keys) {
        Shown::Plain(text) => Ok(text),
        Shown::Erased => Ok("erased".to_owned()),
        Shown::WrongKey => Err(Refused::WrongPersonKey { index }),
    };
    let (actor, resource) = (it.actor.unwrap_or_default(), it.resource.unwrap_or_default());
    let (name, email) = (open(&actor.name)?, open(&actor.email)?);
    let who = match (name.as_str(), email.as_str()) {
        ("", "") => actor.id,
        (_, "") => name,
        _ => format!("{name} <{email}>"),
    };
    let event = it.event.map(|it| it.type_url).unwrap_or_default();
    // The log seals the names of people only; another name may look sealed, and is shown as it is.
    let personal = ["user", "member", "invitation"].contains(&resource.kind.as_str());
    let named = if personal { open(&resource.name)? } else { resource.name };
    let object = if named.is_empty() { resource.id } else { format!("\u{201c}{named}\u{201d}") };
    Ok(Proven {
        index,
        event_id: it.id,
        event: event.rsplit('/').next().unwrap_or_default().to_owned(),
        actor: who,
        resource: format!("{} {object}", resource.kind),
        source: it.source,
        sequence: it.sequence,
    })
}
