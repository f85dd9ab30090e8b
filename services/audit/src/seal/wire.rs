//! Protobuf wire format: reading and writing fields without decoding messages, so that unknown fields and the
//! order of fields are preserved.

/// One field of a message.
pub(crate) struct WireField<'l> {
    pub(crate) number: u32,
    /// All bytes of the field, with its tag.
    pub(crate) bytes: &'l [u8],
    /// The payload of a length-delimited field (texts, bytes, messages).
    pub(crate) payload: Option<&'l [u8]>,
}

/// Removes the next field from the front of `rest`; `None` if the bytes are malformed.
pub(crate) fn take_field<'l>(rest: &mut &'l [u8]) -> Option<WireField<'l>> {
    const VARINT: u64 = 0;
    const FIXED_64: u64 = 1;
    const LENGTH_DELIMITED: u64 = 2;
    const FIXED_32: u64 = 5;

    let start = *rest;
    let tag = take_varint(rest)?;
    let number = u32::try_from(tag >> 3).ok().filter(|it| *it > 0)?;
    let mut payload = None;
    match tag & 7 {
        VARINT => {
            take_varint(rest)?;
        }
        FIXED_64 => *rest = rest.get(8..)?,
        FIXED_32 => *rest = rest.get(4..)?,
        LENGTH_DELIMITED => {
            let length = usize::try_from(take_varint(rest)?).ok()?;
            let (content, remaining) = rest.split_at_checked(length)?;
            payload = Some(content);
            *rest = remaining;
        }
        _ => return None,
    }
    Some(WireField { number, bytes: &start[..start.len() - rest.len()], payload })
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, remaining) = rest.split_first()?;
        *rest = remaining;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
}

/// Writes a length-delimited field.
pub(super) fn write_field(number: u32, payload: &[u8], out: &mut Vec<u8>) {
    write_varint(u64::from(number) << 3 | 2, out);
    write_varint(payload.len() as u64, out);
    out.extend_from_slice(payload);
}

/// Returns the text at a path of field numbers. Of a repeated occurrence, the last one counts.
pub(super) fn text_at<'l>(message: &'l [u8], path: &[u32]) -> Option<&'l str> {
    let (first, remaining_path) = path.split_first()?;
    let mut rest = message;
    let mut payload = None;
    while !rest.is_empty() {
        let field = take_field(&mut rest)?;
        if field.number == *first {
            payload = field.payload;
        }
    }
    if remaining_path.is_empty() {
        str::from_utf8(payload?).ok()
    } else {
        text_at(payload?, remaining_path)
    }
}
