//! Decides once, from its fields, where a message ends.
//!
//! A head that two readers could frame in two ways is refused, or rewritten so that only one way is left (RFC 9112,
//! 11.2).

use http::{Method, StatusCode, Version};

use crate::error::Fault;
use crate::fields::Fields;
use crate::known::{Known, Names};

/// How the content of a message is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// The message ends with its head.
    Empty,
    /// This number of bytes. A zero was announced by the sender, and is written again.
    Known(u64),
    Chunked,
    /// An answer that ends with its connection.
    UntilClose,
}

impl Length {
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::Empty | Self::Known(0))
    }
}

pub(crate) const LENGTHS: Names = Names::of(&[Known::TransferEncoding, Known::ContentLength]);

/// The length of a request (RFC 9112, 6.3). At most one canonical `Content-Length` is left in its fields.
pub(crate) fn of_request(method: &Method, version: Version, fields: &mut Fields) -> Result<Length, Fault> {
    if !fields.seen().has_any(LENGTHS) {
        return Ok(Length::Empty);
    }
    let length = if fields.has(Known::TransferEncoding) {
        check_codings(version, fields)?;
        if fields.has(Known::ContentLength) {
            return Err(Fault::TwoLengths);
        }
        Length::Chunked
    } else {
        announced(fields)?
    };
    match *method == Method::CONNECT && !length.is_empty() {
        true => Err(Fault::ContentOfConnect),
        false => Ok(length),
    }
}

/// The length of an answer (RFC 9112, 6.3). `is_head`: its request was HEAD. The second value says whether the
/// connection must end after the answer, because the answer had both `Transfer-Encoding` and `Content-Length`.
pub(crate) fn of_answer(
    is_head: bool,
    status: StatusCode,
    version: Version,
    fields: &mut Fields,
) -> Result<(Length, bool), Fault> {
    let has_both = fields.has(Known::TransferEncoding) && fields.has(Known::ContentLength);
    if has_both {
        fields.remove(Known::ContentLength);
    }
    if has_no_length(status) {
        fields.remove_all(LENGTHS); // must not be there (RFC 9110, 8.6 and RFC 9112, 6.1)
    }
    if is_head || has_no_content(status) {
        announced(fields)?; // stays as the length that the content would have
        return Ok((Length::Empty, has_both));
    }
    if fields.has(Known::TransferEncoding) {
        check_codings(version, fields)?;
        return Ok((Length::Chunked, has_both));
    }
    Ok(match announced(fields)? {
        Length::Empty => (Length::UntilClose, false),
        known => (known, false),
    })
}

/// Whether the status is one of interim answers, or 204.
pub(crate) fn has_no_length(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT
}

pub(crate) fn has_no_content(status: StatusCode) -> bool {
    has_no_length(status) || status == StatusCode::NOT_MODIFIED
}

/// Checks that the only coding is a single `chunked`. RFC 9110, 5.6.1, allows empty elements in the list, but hyper and
/// others read `chunked,` as an unknown coding, so it is refused.
fn check_codings(version: Version, fields: &Fields) -> Result<(), Fault> {
    if version != Version::HTTP_11 {
        return Err(Fault::CodingNotAllowed);
    }
    let (mut chunked, mut others, mut ends_chunked) = (0, 0, false);
    for coding in fields.elements(Known::TransferEncoding) {
        if coding.is_empty() {
            return Err(Fault::MisplacedChunked);
        }
        ends_chunked = coding.eq_ignore_ascii_case(b"chunked");
        if ends_chunked { chunked += 1 } else { others += 1 }
    }
    match (chunked, others) {
        (1, 0) => Ok(()),
        (1, _) if ends_chunked => Err(Fault::UnknownCoding),
        _ => Err(Fault::MisplacedChunked),
    }
}

/// The announced length. Several equal lines become one, and `02` becomes `2`, which some readers might take for octal.
fn announced(fields: &mut Fields) -> Result<Length, Fault> {
    if !fields.has(Known::ContentLength) {
        return Ok(Length::Empty);
    }
    let is_only = !fields.has_several(Known::ContentLength);
    // Nearly always there is one line, which is canonical.
    if let Some(text @ [b'1'..=b'9', ..]) = fields.get(Known::ContentLength).filter(|_| is_only)
        && let Some(length) = digits(text)
    {
        return Ok(Length::Known(length));
    }
    let (length, is_canonical) = length_of(fields.all(Known::ContentLength)).ok_or(Fault::MalformedLength)?;
    if !is_canonical {
        let set = fields.set(Known::ContentLength, Decimal::of(length).as_bytes());
        set.or(Err(Fault::MalformedLength))?;
    }
    Ok(Length::Known(length))
}

/// The number on which all lines of a `Content-Length` agree, and whether it is canonical: one line, without a leading
/// zero. `None`: a line is not a number, or the lines differ. RFC 9110, 8.6, allows a list of equal numbers in one line
/// (`2, 2`); hyper, Node and nginx refuse it, so it is refused here too.
pub fn length_of<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Option<(u64, bool)> {
    let mut found: Option<(u64, bool)> = None;
    for text in lines {
        let this = digits(text)?;
        let is_short = text.len() == 1 || text.first() != Some(&b'0');
        if found.is_some_and(|(length, _)| length != this) {
            return None;
        }
        found = Some((this, is_short && found.is_none()));
    }
    found
}

fn digits(text: &[u8]) -> Option<u64> {
    /// The longest number that cannot overflow. Nearly all are shorter, and are read twice as fast without the check.
    const SAFE: usize = 19;
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |byte: &u8| u64::from(byte.wrapping_sub(b'0'));
    match text.len() {
        ..=SAFE => Some(text.iter().fold(0, |sum, byte| sum * 10 + digit(byte))),
        _ => text.iter().try_fold(0_u64, |sum, byte| sum.checked_mul(10)?.checked_add(digit(byte))),
    }
}

/// Whether the text is this number, without a leading zero.
pub(crate) fn is_number(text: &[u8], number: u64) -> bool {
    (text.len() == 1 || text.first() != Some(&b'0')) && digits(text) == Some(number)
}

/// A number as text, without an allocation.
pub(crate) struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    pub(crate) fn of(mut number: u64) -> Self {
        let mut decimal = Self { digits: [b'0'; 20], start: 20 };
        for digit in decimal.digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
            decimal.start -= 1;
            if number == 0 {
                break;
            }
        }
        decimal
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_as_it_is_read() {
        for number in [0, 1, 9, 10, 1024, 99_999, u64::MAX] {
            assert_eq!(Decimal::of(number).as_bytes(), number.to_string().as_bytes());
            assert_eq!(digits(Decimal::of(number).as_bytes()), Some(number));
            assert!(is_number(Decimal::of(number).as_bytes(), number));
            assert!(!is_number(format!("0{number}").as_bytes(), number));
        }
        for text in ["", "+1", "-1", " 1", "1 ", "0x1", "1_0", "18446744073709551616"] {
            assert_eq!(digits(text.as_bytes()), None, "{text:?}");
        }
    }
}
