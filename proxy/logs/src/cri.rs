//! Lines of the container runtime interface of Kubernetes: `TIME STREAM P|F CONTENT`.

use crate::moment;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parsed<'l> {
    pub(crate) time: Option<i64>,
    pub(crate) stream: Stream,
    /// Whether the next line of the stream goes on with this one.
    pub(crate) is_partial: bool,
    pub(crate) content: &'l [u8],
}

/// `None`: it is no line of CRI.
pub(crate) fn parse(line: &[u8]) -> Option<Parsed<'_>> {
    let (time, rest) = word(line)?;
    let (stream, rest) = word(rest)?;
    // containerd leaves out the space after the tag of an empty line
    let (tags, content) = word(rest).unwrap_or((rest, b""));
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // further tags may stand behind the first, after colons
    let is_partial = match tags.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    let time = Some(moment::whole(std::str::from_utf8(time).ok()?)?);
    Some(Parsed { time, stream, is_partial, content })
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b' ', text)?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_time_a_stream_a_tag_and_the_content() {
        let parsed = parse(b"2026-11-28T17:40:01.123456789Z stderr P  two  words ").unwrap();
        assert_eq!(
            (parsed.stream, parsed.is_partial, parsed.content),
            (Stream::Stderr, true, &b" two  words "[..])
        );
        assert_eq!(parsed.time, moment::whole("2026-11-28T17:40:01.123456789Z"));
        assert!(parse(b"2026-11-28T17:40:01Z stdout F").is_some_and(|parsed| parsed.content.is_empty()));
        for other in
            ["", "x", "2026-11-28T17:40:01Z stdin F x", "2026-11-28T17:40:01Z stdout X x", "now stdout F x"]
        {
            assert_eq!(parse(other.as_bytes()), None, "{other}");
        }
    }
}
