//! Cuts a stream into its JSON objects.
//!
//! The API server writes one event of a watch after the other, each followed by a line end. The ends are found by the
//! brackets and not by the lines, so that an event may be spread over lines, as `pretty` writes it.

/// Why the rest of a stream cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    #[error("an event has more than {} KiB", .0 / 1024)]
    TooLong(usize),
    #[error("the stream has something else than JSON objects")]
    NoObject,
    #[error("the stream ended within an event")]
    CutOff,
}

/// The objects of one stream.
#[derive(Debug)]
pub struct Frames {
    /// The beginning of the next object.
    partial: Vec<u8>,
    depth: usize,
    is_in_text: bool,
    is_escaped: bool,
    most: usize,
}

impl Frames {
    /// An object may have so many bytes.
    pub const fn new(most: usize) -> Self {
        Self { partial: Vec::new(), depth: 0, is_in_text: false, is_escaped: false, most }
    }

    /// Whether the stream may end here: no object has begun.
    pub const fn is_between(&self) -> bool {
        self.depth == 0
    }

    /// The objects that end in `bytes`.
    ///
    /// # Errors
    /// The stream cannot be read further. Objects that ended before in `bytes` are lost with it.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, BadFrame> {
        let mut whole = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.depth == 0 {
                rest = rest.trim_ascii_start();
                match rest.first() {
                    None => break,
                    Some(b'{') => {}
                    Some(_) => return Err(BadFrame::NoObject),
                }
            }
            let end = rest.iter().position(|byte| self.ends_at(*byte)).map(|last| last + 1);
            let (taken, left) = rest.split_at(end.unwrap_or(rest.len()));
            if self.partial.len() + taken.len() > self.most {
                return Err(BadFrame::TooLong(self.most));
            }
            self.partial.extend_from_slice(taken);
            if end.is_some() {
                whole.push(std::mem::take(&mut self.partial));
            }
            rest = left;
        }
        Ok(whole)
    }

    /// Notes a byte. Returns whether an object ends with it.
    fn ends_at(&mut self, byte: u8) -> bool {
        if self.is_in_text {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.is_in_text = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.is_in_text = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(found: Vec<Vec<u8>>) -> Vec<String> {
        found.into_iter().map(|one| String::from_utf8(one).unwrap()).collect()
    }

    #[test]
    fn brackets_and_quotes_in_texts_do_not_end_an_object() {
        let stream = "{\"a\":\"}\\\"}]\"}\n{\n  \"b\": [{}, {\"c\": \"\\\\\"}]\n}\n\n{}";
        let found = texts(Frames::new(100).take(stream.as_bytes()).unwrap());
        assert_eq!(found, ["{\"a\":\"}\\\"}]\"}", "{\n  \"b\": [{}, {\"c\": \"\\\\\"}]\n}", "{}"]);
    }

    #[test]
    fn what_is_too_long_or_no_object_is_refused() {
        let mut frames = Frames::new(8);
        assert_eq!(frames.take(b"{\"a\":1}").map(|found| found.len()), Ok(1));
        assert_eq!(frames.take(b"{\"a\":"), Ok(Vec::new()));
        assert!(!frames.is_between());
        assert_eq!(frames.take(b"1234}"), Err(BadFrame::TooLong(8)));
        assert_eq!(Frames::new(8).take(b" \n<html>"), Err(BadFrame::NoObject));
        assert_eq!(Frames::new(8).take(b"{}[]"), Err(BadFrame::NoObject));
    }

    proptest! {
        #[test]
        fn a_stream_has_the_same_objects_wherever_it_is_cut(
            texts in proptest::collection::vec("[a-z{}\"\\\\\\[\\]]{0,12}", 0..6),
            cuts in proptest::collection::vec(1..9usize, 1..9),
        ) {
            let objects: Vec<String> =
                texts.iter().map(|text| serde_json::json!({ "a": [text], "b": { "c": text } }).to_string()).collect();
            let stream = objects.join("\n").into_bytes();
            let (mut frames, mut found, mut rest) = (Frames::new(1000), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                let (part, left) = rest.split_at((*cut).min(rest.len()));
                found.extend(frames.take(part).unwrap());
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(super::tests::texts(found), objects);
            prop_assert!(frames.is_between());
        }

        #[test]
        fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Frames::new(50).take(&bytes));
        }
    }
}
