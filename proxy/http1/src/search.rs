//! Looks for the end of a head or of trailers, so that bytes that come one by one are not parsed from the start each
//! time.
//!
//! A head that is complete at the first look needs no search: the parser finds its end. Later looks search only the new
//! bytes. The parser runs again when there is an end, or twice as many bytes as it saw (so that invalid bytes without
//! an end are found, too). Each byte is parsed only a few times.

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Search {
    looked: u32,
    tried: u32,
}

impl Search {
    pub(crate) const NEW: Self = Self { looked: 0, tried: 0 };

    /// Whether the parser should run on these bytes, which are all that have come of the head.
    pub(crate) fn is_due(&mut self, bytes: &[u8]) -> bool {
        let from = (self.looked as usize).saturating_sub(3);
        self.looked = narrow(bytes.len());
        self.tried == 0
            || bytes.len() / 2 >= self.tried as usize
            || has_end(bytes.get(from..).unwrap_or_default())
    }

    /// Notes that the parser needs more than these bytes.
    pub(crate) fn missed(&mut self, bytes: &[u8]) {
        self.tried = narrow(bytes.len());
    }

    /// Whether a part of a head has come.
    pub(crate) const fn has_begun(self) -> bool {
        self.looked > 0
    }
}

fn narrow(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Whether there is an empty line, with any of the possible line ends.
fn has_end(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(place) = rest.iter().position(|byte| *byte == b'\n') {
        rest = rest.get(place + 1..).unwrap_or_default();
        if rest.starts_with(b"\n") || rest.starts_with(b"\r\n") {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_come_one_by_one_are_parsed_few_times_and_the_end_is_never_missed() {
        for end in ["\r\n\r\n", "\n\n", "\n\r\n"] {
            let head = format!("GET / HTTP/1.1\r\nx: {}{end}", "a".repeat(10_000));
            let (mut search, mut parsed) = (Search::default(), 0);
            for length in 1..=head.len() {
                if search.is_due(&head.as_bytes()[..length]) {
                    parsed += length;
                    search.missed(&head.as_bytes()[..length]);
                    assert!(length == head.len() || !head[..length].ends_with(end));
                } else {
                    assert!(length < head.len(), "the end is seen with its last byte");
                }
            }
            assert!(parsed < 4 * head.len(), "{parsed} bytes parsed of {}", head.len());
        }
    }
}
