//! The few parts of protobuf's wire format that logs need. A message with a derive would be made for each record, and then
//! written; this writes a record at once.

/// The wire type of a field whose length stands before it.
const LENGTH: u32 = 2;
const FIXED_64: u32 = 1;

pub(super) fn varint(mut number: u64, to: &mut Vec<u8>) {
    #[allow(clippy::cast_possible_truncation, reason = "seven bits")]
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    #[allow(clippy::cast_possible_truncation, reason = "it is below 0x80")]
    to.push(number as u8);
}

pub(super) fn number(field: u32, number: u64, to: &mut Vec<u8>) {
    varint(u64::from(field << 3), to);
    varint(number, to);
}

pub(super) fn fixed(field: u32, number: u64, to: &mut Vec<u8>) {
    varint(u64::from(field << 3 | FIXED_64), to);
    to.extend_from_slice(&number.to_le_bytes());
}

pub(super) fn bytes(field: u32, bytes: &[u8], to: &mut Vec<u8>) {
    varint(u64::from(field << 3 | LENGTH), to);
    varint(bytes.len() as u64, to);
    to.extend_from_slice(bytes);
}

/// A message within a message.
pub(super) fn message(field: u32, to: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::with_capacity(64);
    write(&mut inner);
    bytes(field, &inner, to);
}

/// A field of a message that was received.
pub(super) enum Field<'m> {
    Number(u64),
    Bytes(&'m [u8]),
    Other,
}

/// The next field, with its number. `None`: the message has ended, or is not well-formed.
pub(super) fn next<'m>(message: &mut &'m [u8]) -> Option<(u64, Field<'m>)> {
    let tag = read(message)?;
    let field = match tag & 7 {
        0 => Field::Number(read(message)?),
        1 => skipped(message, 8)?,
        2 => {
            let length = usize::try_from(read(message)?).ok()?;
            let (bytes, rest) = message.split_at_checked(length)?;
            *message = rest;
            Field::Bytes(bytes)
        }
        5 => skipped(message, 4)?,
        _ => return None,
    };
    Some((tag >> 3, field))
}

fn skipped<'m>(message: &mut &'m [u8], bytes: usize) -> Option<Field<'m>> {
    *message = message.get(bytes..)?;
    Some(Field::Other)
}

fn read(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
