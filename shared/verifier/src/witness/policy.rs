//! Policies: the witnesses whose cosignatures a checkpoint needs (C2SP tlog-policy).

use std::collections::BTreeMap;

use super::WitnessKey;
use crate::{VerifyError, note::VerifierKey};

/// Predefined name of a quorum without witnesses.
const NONE: &str = "none";

/// Witnesses, and the rule about which of them must cosign a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessPolicy {
    /// In the order of the file.
    witnesses: Vec<Witness>,
    quorum: Quorum,
}

/// A witness of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Verifier key, as in the file.
    pub verifier_key: String,
    /// The same, parsed.
    pub key: WitnessKey,
    /// URL of its submission prefix; verification needs none.
    pub url: Option<String>,
}

/// Rule about cosignatures.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Quorum {
    /// The witness with this index.
    Witness(usize),
    /// At least `threshold` of the members.
    Group { threshold: usize, members: Vec<Quorum> },
}

impl Quorum {
    fn is_met(&self, has_cosigned: &impl Fn(usize) -> bool) -> bool {
        match self {
            Self::Witness(index) => has_cosigned(*index),
            Self::Group { threshold, members } => {
                members.iter().filter(|it| it.is_met(has_cosigned)).count() >= *threshold
            }
        }
    }
}

/// Defect of a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct PolicyError {
    /// Number of the line, from 1.
    line: usize,
    problem: String,
}

impl WitnessPolicy {
    /// Creates the policy that `required` of these witnesses must cosign.
    pub fn of_keys(verifier_keys: &[String], required: usize) -> Result<Self, VerifyError> {
        let mut text = String::new();
        let mut names = String::new();
        for (index, key) in verifier_keys.iter().enumerate() {
            text += &format!("witness {index} {key}\n");
            names += &format!(" {index}");
        }
        text += &format!("group all-of-them {required}{names}\nquorum all-of-them\n");
        Self::parse(&text).map_err(|error| {
            let problem = error.problem.trim_start_matches("MALFORMED: ");
            VerifyError::Malformed(problem.to_owned())
        })
    }

    /// Parses a policy file. The keys of logs in it are checked, and not used: they are pinned elsewhere.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut parser = Parser::default();
        let mut line_count = 0;
        for (index, line) in text.split('\n').enumerate() {
            line_count = index + 1;
            let parsed = parser.parse_line(line);
            parsed.map_err(|problem| PolicyError { line: line_count, problem })?;
        }
        let quorum = parser.quorum.ok_or_else(|| {
            let problem = "there is no line `quorum <name>`".to_owned();
            PolicyError { line: line_count, problem }
        })?;
        Ok(Self { witnesses: parser.witnesses, quorum })
    }

    /// All witnesses of the policy, also those that its quorum does not use.
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// True if the cosignatures under a checkpoint are enough.
    pub fn is_met(&self, note: &str) -> bool {
        self.quorum.is_met(&|index| self.witnesses[index].key.cosignature(note).is_some())
    }

    /// Fails unless the cosignatures under a checkpoint are enough.
    pub fn require(&self, note: &str) -> Result<(), VerifyError> {
        if self.is_met(note) {
            return Ok(());
        }
        let keys = self.witnesses.iter().map(|it| &it.key);
        let valid = keys.filter(|it| it.cosignature(note).is_some());
        let names: Vec<&str> = valid.map(WitnessKey::name).collect();
        let found = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
        Err(VerifyError::NotWitnessed { found })
    }
}

/// State between two lines.
#[derive(Default)]
struct Parser {
    witnesses: Vec<Witness>,
    logs: Vec<VerifierKey>,
    /// Witnesses and groups by name; `None` after one was used as a member.
    names: BTreeMap<String, Option<Quorum>>,
    quorum: Option<Quorum>,
}

impl Parser {
    fn parse_line(&mut self, line: &str) -> Result<(), String> {
        if line.chars().any(|it| it.is_ascii_control() && it != '\t') {
            return Err("a control character is not allowed".to_owned());
        }
        let words: Vec<&str> = line.split([' ', '\t']).filter(|it| !it.is_empty()).collect();
        match words.as_slice() {
            [] => Ok(()),
            [comment, ..] if comment.starts_with('#') => Ok(()),
            ["log", key] | ["log", key, _] => self.add_log(key),
            ["witness", name, key] => self.add_witness(name, key, None),
            ["witness", name, key, url] => self.add_witness(name, key, Some((*url).to_owned())),
            ["group", name, threshold, members @ ..] => self.add_group(name, threshold, members),
            ["quorum", name] => self.set_quorum(name),
            _ => {
                Err("expected `log <key> [<url>]`, `witness <name> <key> [<url>]`, `group <name> \
                      all|any|<number> <name>…` or `quorum <name>`"
                    .to_owned())
            }
        }
    }

    fn add_log(&mut self, key: &str) -> Result<(), String> {
        let key = VerifierKey::parse(key).map_err(|it| it.to_string())?;
        if self.logs.iter().any(|it| it.public == key.public) {
            return Err("another line has the same key".to_owned());
        }
        self.logs.push(key);
        Ok(())
    }

    fn add_witness(
        &mut self,
        name: &str,
        verifier_key: &str,
        url: Option<String>,
    ) -> Result<(), String> {
        let key = WitnessKey::parse(verifier_key).map_err(|it| it.to_string())?;
        if self.witnesses.iter().any(|it| it.key.0.public == key.0.public) {
            return Err("another line has the same key".to_owned());
        }
        self.define(name, Quorum::Witness(self.witnesses.len()))?;
        self.witnesses.push(Witness { verifier_key: verifier_key.to_owned(), key, url });
        Ok(())
    }

    fn add_group(&mut self, name: &str, threshold: &str, members: &[&str]) -> Result<(), String> {
        let threshold = match threshold {
            "all" => members.len(),
            "any" => 1,
            number => number.parse().map_err(|_| format!("{number} is not a number"))?,
        };
        if !(1..=members.len()).contains(&threshold) {
            let count = members.len();
            return Err(format!("{threshold} of {count} members is not possible"));
        }
        let mut quorums = vec![];
        for member in members {
            let defined = self.names.get_mut(*member).ok_or_else(|| undefined(member))?;
            let quorum = defined.take();
            quorums.push(quorum.ok_or_else(|| format!("{member} is already in a group"))?);
        }
        self.define(name, Quorum::Group { threshold, members: quorums })
    }

    fn define(&mut self, name: &str, quorum: Quorum) -> Result<(), String> {
        if name == NONE || self.names.contains_key(name) {
            return Err(format!("the name {name} is already in use"));
        }
        self.names.insert(name.to_owned(), Some(quorum));
        Ok(())
    }

    fn set_quorum(&mut self, name: &str) -> Result<(), String> {
        if self.quorum.is_some() {
            return Err("there is a second quorum".to_owned());
        }
        let quorum = match name {
            NONE => Quorum::Group { threshold: 0, members: vec![] },
            name => {
                let defined = self.names.get(name).ok_or_else(|| undefined(name))?;
                defined.clone().ok_or_else(|| format!("{name} is already in a group"))?
            }
        };
        self.quorum = Some(quorum);
        Ok(())
    }
}

fn undefined(name: &str) -> String {
    format!("{name} is not defined by a line before")
}
