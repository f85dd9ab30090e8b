//! The body of `add-checkpoint` (C2SP tlog-witness).

use data_encoding::BASE64;
use verifier::tree::Hash;

/// Most hashes of a consistency proof.
const PROOF_LINES_MAX: usize = 63;

/// A request for a cosignature.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AddCheckpoint<'b> {
    /// Size of the newest checkpoint that the witness has cosigned, as the client knows it.
    pub(super) old_size: u64,
    /// Consistency proof between that checkpoint and the new one.
    pub(super) proof: Vec<Hash>,
    /// The new checkpoint, a signed note.
    pub(super) checkpoint: &'b str,
}

/// A body that is not of the specified form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the body must be a line `old <size>`, at most 63 lines with a hash in base64, an empty line, and a \
     checkpoint (C2SP tlog-witness)"
)]
pub(super) struct MalformedBody;

impl<'b> AddCheckpoint<'b> {
    pub(super) fn parse(body: &'b [u8]) -> Result<Self, MalformedBody> {
        let body = str::from_utf8(body).map_err(|_| MalformedBody)?;
        let (head, checkpoint) = body.split_once("\n\n").ok_or(MalformedBody)?;
        let mut lines = head.split('\n');
        let old_size = lines.next().and_then(|it| it.strip_prefix("old ")).ok_or(MalformedBody)?;
        let canonical = |number: &u64| number.to_string() == old_size;
        let old_size = old_size.parse().ok().filter(canonical).ok_or(MalformedBody)?;
        let hash = |line: &str| BASE64.decode(line.as_bytes()).ok()?.try_into().ok();
        let proof: Option<Vec<Hash>> = lines.map(hash).collect();
        let proof = proof.filter(|it| it.len() <= PROOF_LINES_MAX).ok_or(MalformedBody)?;
        Ok(Self { old_size, proof, checkpoint })
    }
}

#[cfg(test)]
mod tests {
    use bolero::check;

    use super::*;
    use crate::fuzz_input::Input;

    mod fuzz {
        use super::*;

        /// A body is refused, or is exactly what was parsed.
        #[test]
        fn a_body_has_one_form() {
            let hash = BASE64.encode(&[7; 32]);
            let samples = [
                format!("old 12\n{hash}\n{hash}\n\nlog\n13\nroot\n\n\u{2014} log sig\n"),
                "old 0\n\nlog\n1\nroot\n\n\u{2014} log sig\n".to_owned(),
            ];
            let samples = samples.map(String::into_bytes);
            check!().with_type::<Input>().for_each(|input| {
                let body = input.bytes(&samples);
                let Ok(parsed) = AddCheckpoint::parse(&body) else { return };
                let proof: String =
                    parsed.proof.iter().map(|it| format!("{}\n", BASE64.encode(it))).collect();
                let text = format!("old {}\n{proof}\n{}", parsed.old_size, parsed.checkpoint);
                assert_eq!(body, text.as_bytes());
            });
        }
    }

    #[test]
    fn a_body_has_a_size_a_proof_and_a_checkpoint() {
        let hash = BASE64.encode(&[7; 32]);
        let checkpoint = "log\n2\nroot\n\n\u{2014} log sig\n";
        let body = format!("old 1\n{hash}\n{hash}\n\n{checkpoint}");
        let proof = vec![[7; 32]; 2];
        let parsed = AddCheckpoint { old_size: 1, proof, checkpoint };
        assert_eq!(AddCheckpoint::parse(body.as_bytes()), Ok(parsed));
        let body = format!("old 0\n\n{checkpoint}");
        let parsed = AddCheckpoint { old_size: 0, proof: vec![], checkpoint };
        assert_eq!(AddCheckpoint::parse(body.as_bytes()), Ok(parsed));
    }

    #[test]
    fn other_bodies_are_refused() {
        let hash = BASE64.encode(&[7; 32]);
        let many = format!("old 1\n{}\nlog\n", format!("{hash}\n").repeat(64));
        let short = format!("old 1\n{}\n\nlog\n", BASE64.encode(&[7; 31]));
        let bodies = [
            "",
            "old 1",
            "old 1\n",
            "old 01\n\nlog\n",
            "old +1\n\nlog\n",
            "old -1\n\nlog\n",
            "old  1\n\nlog\n",
            "new 1\n\nlog\n",
            "old 1\r\n\r\nlog\n",
            "old 1\nhash\n\nlog\n",
            "old 18446744073709551616\n\nlog\n",
            &many,
            &short,
        ];
        for body in bodies {
            assert_eq!(AddCheckpoint::parse(body.as_bytes()), Err(MalformedBody), "{body:?}");
        }
        assert_eq!(AddCheckpoint::parse(b"old 1\n\n\xff"), Err(MalformedBody));
    }
}
