//! The part of a stored whole answer that a request asks for (RFC 9110, 14.2).

use std::ops::Range;

/// What `Range` means for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The field is ignored: it asks for another unit, for several ranges, or cannot be read.
    Whole,
    Bytes(Range<usize>),
    /// It begins behind the end of the answer: 416.
    Unsatisfiable,
}

/// The part of `length` bytes that the value of `Range` asks for.
pub fn part(value: &[u8], length: usize) -> Part {
    read(value, length).unwrap_or(Part::Whole)
}

fn read(value: &[u8], length: usize) -> Option<Part> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let (unit, ranges) = text.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = ranges.trim().split_once('-')?; // of several ranges the second number cannot be read
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        true => Some(text.parse::<usize>().unwrap_or(usize::MAX)),
        false => None,
    };
    match (first.is_empty(), last.is_empty()) {
        (true, true) => None,
        (true, false) => Some(match number(last)? {
            0 => Part::Unsatisfiable,
            _ if length == 0 => Part::Unsatisfiable,
            suffix => Part::Bytes(length.saturating_sub(suffix)..length),
        }),
        (false, _) => {
            let first = number(first)?;
            let end = if last.is_empty() { length } else { number(last)?.saturating_add(1).min(length) };
            match () {
                () if !last.is_empty() && number(last)? < first => None,
                () if first >= length => Some(Part::Unsatisfiable),
                () => Some(Part::Bytes(first..end)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_single_range_of_bytes_is_cut_out_of_the_whole() {
        for (value, expected) in [
            ("bytes=0-1", Part::Bytes(0..2)),
            ("Bytes=1-", Part::Bytes(1..10)),
            ("bytes=-1", Part::Bytes(9..10)),
            ("bytes=-99", Part::Bytes(0..10)),
            ("bytes=8-99999999999999999999999", Part::Bytes(8..10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=2-1", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("bytes", Part::Whole),
        ] {
            assert_eq!(part(value.as_bytes(), 10), expected, "{value}");
        }
        assert_eq!(part(b"bytes=0-", 0), Part::Unsatisfiable);
        assert_eq!(part(b"bytes=-5", 0), Part::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_part_is_never_outside_of_the_answer(value in "bytes=[0-9,-]{0,12}", length in 0_usize..50) {
            if let Part::Bytes(range) = part(value.as_bytes(), length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
