//! Protobuf as bytes: rewriting some texts of a message and leaving every other byte as it is, also fields
//! that this version does not know.

use super::{
    Field,
    plan::{ENVELOPE, Plans, Step},
};

/// How deep messages may lie in each other.
const DEPTH_MAX: usize = 32;

/// One field: its number, all of its bytes, and its content if it has a length.
struct Piece<'l> {
    number: u32,
    whole: &'l [u8],
    content: Option<&'l [u8]>,
}

/// Takes the next field off the front; `None` if the bytes are no message.
fn next<'l>(rest: &mut &'l [u8]) -> Option<Piece<'l>> {
    let start = *rest;
    let tag = varint(rest)?;
    let number = u32::try_from(tag >> 3).ok().filter(|it| *it > 0)?;
    let mut content = None;
    match tag & 7 {
        0 => {
            varint(rest)?;
        }
        1 => *rest = rest.get(8..)?,
        5 => *rest = rest.get(4..)?,
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            let (inner, more) = rest.split_at_checked(length)?;
            (content, *rest) = (Some(inner), more);
        }
        _ => return None,
    }
    Some(Piece { number, whole: &start[..start.len() - rest.len()], content })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, more) = rest.split_first()?;
        *rest = more;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    to.push(u8::try_from(value).expect("seven bits"));
}

fn put(number: u32, content: &[u8], to: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 2, to);
    put_varint(content.len() as u64, to);
    to.extend_from_slice(content);
}

/// The text at a path of field numbers; the last one, if a field comes several times.
pub(super) fn text_at<'l>(message: &'l [u8], path: &[u32]) -> Option<&'l str> {
    let (first, more) = path.split_first()?;
    let (mut rest, mut found) = (message, None);
    while !rest.is_empty() {
        let piece = next(&mut rest)?;
        if piece.number == *first {
            found = piece.content;
        }
    }
    if more.is_empty() { str::from_utf8(found?).ok() } else { text_at(found?, more) }
}

/// An envelope in which `change` has replaced some personal texts; `None` if it is no message.
pub(super) fn rewrite(
    plans: &Plans,
    envelope: &[u8],
    change: &mut dyn FnMut(Field<'_>) -> Option<String>,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(envelope.len() + 256);
    Rewriter { plans, envelope, change }.message(envelope, ENVELOPE, 0, &mut out)?;
    Some(out)
}

struct Rewriter<'r> {
    plans: &'r Plans,
    envelope: &'r [u8],
    change: &'r mut dyn FnMut(Field<'_>) -> Option<String>,
}

impl Rewriter<'_> {
    fn message(&mut self, bytes: &[u8], name: &str, depth: usize, out: &mut Vec<u8>) -> Option<()> {
        let (plans, mut rest) = (self.plans, bytes);
        let plan = plans.of(name).filter(|_| depth < DEPTH_MAX);
        while !rest.is_empty() {
            let piece = next(&mut rest)?;
            let step = plan.and_then(|it| it.get(&piece.number));
            let (Some(step), Some(content)) = (step, piece.content) else {
                out.extend_from_slice(piece.whole);
                continue;
            };
            match step {
                Step::Personal(whose) => {
                    let subject = whose.find(bytes, self.envelope);
                    let text = str::from_utf8(content).ok()?;
                    match (self.change)(Field { subject, text }) {
                        Some(text) => put(piece.number, text.as_bytes(), out),
                        None => out.extend_from_slice(piece.whole),
                    }
                }
                Step::Message(name) => {
                    let mut inner = Vec::with_capacity(content.len() + 128);
                    self.message(content, name, depth + 1, &mut inner)?;
                    put(piece.number, &inner, out);
                }
                Step::Any => {
                    let mut inner = Vec::with_capacity(content.len() + 128);
                    self.any(content, depth + 1, &mut inner)?;
                    put(piece.number, &inner, out);
                }
            }
        }
        Some(())
    }

    /// `google.protobuf.Any`: the type's URL is field 1, its bytes are field 2.
    fn any(&mut self, bytes: &[u8], depth: usize, out: &mut Vec<u8>) -> Option<()> {
        let url = text_at(bytes, &[1]).unwrap_or("");
        let name = url.rsplit('/').next().unwrap_or("").to_owned();
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = next(&mut rest)?;
            match piece.content.filter(|_| piece.number == 2) {
                Some(content) => {
                    let mut inner = Vec::with_capacity(content.len() + 128);
                    self.message(content, &name, depth, &mut inner)?;
                    put(2, &inner, out);
                }
                None => out.extend_from_slice(piece.whole),
            }
        }
        Some(())
    }
}
