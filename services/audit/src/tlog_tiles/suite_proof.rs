//! Textual form of the proof that a checkpoint is in the tree of the suite (C2SP tlog-proof). Its extra data
//! is the checkpoint, so that both are of the same moment.

use data_encoding::BASE64;

/// First line.
const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Formats a proof. `suite_checkpoint` is the checkpoint of the suite tree, a signed note.
pub(super) fn format(
    checkpoint: &str,
    index: i64,
    hashes: &[Vec<u8>],
    suite_checkpoint: &str,
) -> String {
    let hashes: String = hashes.iter().map(|it| format!("{}\n", BASE64.encode(it))).collect();
    let extra = BASE64.encode(checkpoint.as_bytes());
    format!("{HEADER}\nextra {extra}\nindex {index}\n{hashes}\n{suite_checkpoint}")
}
