//! The form in which the path of a request is judged and forwarded, where rules name paths.
//!
//! Pure. A path may be read in several ways: as text, decoded, without `;params`, and up to an encoded `?` or `#`.
//! [`JudgedPath`] has each reading. A path for which this is not enough, because programs disagree on where its segments are, is refused.

use std::borrow::Cow;

use super::EncodedSlash;

/// Why a path cannot be judged: two readers could see two different paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    #[error("the path does not begin with a slash")]
    NoSlash,
    #[error("the path has a % without two hexadecimal digits")]
    Percent,
    #[error("the path is encoded twice (%25 and two hexadecimal digits)")]
    EncodedTwice,
    #[error("the path has a backslash")]
    Backslash,
    #[error("the path has a control character")]
    Control,
    #[error("the path has an encoded slash (%2F), and `encoded_slash` is reject")]
    EncodedSlash,
    #[error("the path has an encoded slash (%2F) beside a parameter, a dot segment or another slash")]
    AmbiguousSlash,
    #[error("the path has a dot segment with a parameter, an encoded ? or #, or a space (..;)")]
    DotsWithParameter,
    #[error("the path has both ; and %3B")]
    TwoSemicolons,
    #[error("the path leads above the root (..)")]
    AboveRoot,
    #[error("the path is not valid UTF-8 when it is decoded")]
    NotUtf8,
}

/// A path with its readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedPath<'a> {
    /// Without dot segments and empty segments, and unreserved characters are not encoded (RFC 3986, 6.2.2). The
    /// application gets this path.
    pub forwarded: Cow<'a, str>,
    /// `None`: the same as `forwarded`.
    decoded: Option<Vec<u8>>,
    /// `None`: the same as `decoded`.
    plain: Option<Vec<u8>>,
    /// `None`: there is no encoded `?` or `#`.
    before_query: Option<Vec<u8>>,
}

impl<'a> JudgedPath<'a> {
    /// # Errors
    /// Two readers could see two different paths.
    pub fn of(path: &'a str, slash: EncodedSlash) -> Result<Self, BadPath> {
        if is_simple(path) {
            return Ok(Self {
                forwarded: Cow::Borrowed(path),
                decoded: None,
                plain: None,
                before_query: None,
            });
        }
        let forwarded = normalised(path, slash)?;
        let decoded = forwarded.contains('%').then(|| decoded(&forwarded));
        let bytes = decoded.as_deref().unwrap_or(forwarded.as_bytes());
        if std::str::from_utf8(bytes).is_err() {
            return Err(BadPath::NotUtf8);
        }
        if forwarded.contains(';') && forwarded.contains("%3B") {
            return Err(BadPath::TwoSemicolons);
        }
        let plain = bytes.contains(&b';').then(|| without_parameters(bytes));
        let is_query = |byte: &u8| matches!(byte, b'?' | b'#');
        let query = decoded.iter().find_map(|bytes| bytes.iter().position(is_query));
        let before_query = query.and_then(|at| bytes.get(..at)).map(without_parameters);
        let forwarded = if forwarded == path { Cow::Borrowed(path) } else { Cow::Owned(forwarded) };
        Ok(Self { forwarded, decoded, plain, before_query })
    }

    /// Without any percent-encoding.
    pub fn decoded(&self) -> &[u8] {
        self.decoded.as_deref().unwrap_or(self.forwarded.as_bytes())
    }

    /// Decoded, and without the parameters of segments.
    pub fn plain(&self) -> &[u8] {
        self.plain.as_deref().unwrap_or_else(|| self.decoded())
    }

    /// What an application sees that decodes the path before it looks for `?` and `#`, without the parameters of segments.
    pub fn before_query(&self) -> Option<&[u8]> {
        self.before_query.as_deref()
    }

    pub const fn has_parameters(&self) -> bool {
        self.plain.is_some()
    }
}

/// Whether a path has only one reading, and is normalised. Nearly every path is.
fn is_simple(path: &str) -> bool {
    let mut before = 0;
    let is_usual = |byte: u8| {
        let is_second = before == b'/' && matches!(byte, b'/' | b'.');
        before = byte;
        !is_second && byte.is_ascii_graphic() && !matches!(byte, b'%' | b';' | b'\\')
    };
    path.starts_with('/') && path.bytes().all(is_usual)
}

fn normalised(path: &str, slash: EncodedSlash) -> Result<String, BadPath> {
    let rest = path.strip_prefix('/').ok_or(BadPath::NoSlash)?;
    let mut segments: Vec<String> = Vec::new();
    let mut ends_with_slash = false;
    for raw in rest.split('/') {
        let segment = segment(raw, slash)?;
        ends_with_slash = matches!(segment.as_str(), "" | "." | "..");
        match segment.as_str() {
            "" | "." => {}
            ".." => drop(segments.pop().ok_or(BadPath::AboveRoot)?),
            _ => segments.push(segment),
        }
    }
    let mut forwarded = String::with_capacity(path.len());
    for segment in &segments {
        forwarded.push('/');
        forwarded.push_str(segment);
    }
    if ends_with_slash || segments.is_empty() {
        forwarded.push('/');
    }
    Ok(forwarded)
}

/// One segment in its normal form.
fn segment(raw: &str, slash: EncodedSlash) -> Result<String, BadPath> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        let (before, encoded) = rest.split_at(at);
        out.push_str(before);
        let byte = encoded_byte(encoded).ok_or(BadPath::Percent)?;
        match byte {
            b'/' if slash == EncodedSlash::Reject => return Err(BadPath::EncodedSlash),
            b'\\' => return Err(BadPath::Backslash),
            _ if byte.is_ascii_control() => return Err(BadPath::Control),
            _ if is_unreserved(byte) => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        rest = encoded.get(3..).unwrap_or_default();
    }
    out.push_str(rest);
    check(&out)?;
    Ok(out)
}

/// Checks a segment in its normal form.
fn check(segment: &str) -> Result<(), BadPath> {
    if segment.contains('\\') {
        return Err(BadPath::Backslash);
    }
    if segment.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return Err(BadPath::Control);
    }
    let is_encoded_twice =
        |rest: &str| rest.len() > 1 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if segment.split("%25").skip(1).any(is_encoded_twice) {
        return Err(BadPath::EncodedTwice);
    }
    let is_dots = |part: &str| {
        let ends = [";", "%3B", "%3F", "%23"].into_iter().filter_map(|end| part.find(end));
        let name = ends.min().and_then(|end| part.get(..end)).unwrap_or(part);
        let name = name.trim_start_matches("%20").trim_end_matches("%20"); // file systems of Windows ignore spaces
        matches!(name, "." | "..")
    };
    if segment.contains("%2F") {
        let is_unclear = |part: &str| part.is_empty() || is_dots(part);
        let has_parameter = segment.contains(';') || segment.contains("%3B");
        return match has_parameter || segment.split("%2F").any(is_unclear) {
            true => Err(BadPath::AmbiguousSlash),
            false => Ok(()),
        };
    }
    match is_dots(segment) && !matches!(segment, "." | "..") {
        true => Err(BadPath::DotsWithParameter),
        false => Ok(()),
    }
}

/// The byte of `%XX` at the beginning of `text`.
fn encoded_byte(text: &str) -> Option<u8> {
    let digits = text.get(1..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

/// RFC 3986, 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn decoded(path: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut parts = path.split('%');
    out.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).unwrap_or_default();
        out.extend(u8::from_str_radix(digits, 16));
        out.extend_from_slice(rest.as_bytes());
    }
    out
}

/// Removes the parameters of every segment, and segments that are empty without them.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut is_empty = true;
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        is_empty = name.is_empty();
        if !is_empty {
            out.push(b'/');
            out.extend_from_slice(name);
        }
    }
    if is_empty {
        out.push(b'/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(path: &str) -> Result<[String; 3], BadPath> {
        let judged = JudgedPath::of(path, EncodedSlash::Keep)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok([judged.forwarded.clone().into_owned(), text(judged.decoded()), text(judged.plain())])
    }

    #[test]
    fn a_path_is_forwarded_in_its_normal_form() {
        for (path, forwarded) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b//", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a//../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/./", "/"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
            ("/%61%7e%2D", "/a~-"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a%20b%c3%a4", "/a%20b%C3%A4"),
            ("/a%3ab", "/a%3Ab"),
            ("/a;x=1/b", "/a;x=1/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/100%25", "/100%25"),
            ("/100%25x", "/100%25x"),
        ] {
            let found = judged(path).map(|[forwarded, ..]| forwarded);
            assert_eq!(found.as_deref(), Ok(forwarded), "{path}");
        }
    }

    #[test]
    fn each_reading_of_a_path_is_known() {
        for (path, decoded, plain) in [
            ("/a", "/a", "/a"),
            ("/a%20b", "/a b", "/a b"),
            ("/a;x/b;y=1", "/a;x/b;y=1", "/a/b"),
            ("/a%3Bx/b", "/a;x/b", "/a/b"),
            ("/;jsessionid=1", "/;jsessionid=1", "/"),
            ("/;x/admin", "/;x/admin", "/admin"),
            ("/a/;x", "/a/;x", "/a/"),
            ("/a%2Fb", "/a/b", "/a/b"),
        ] {
            let found = judged(path).map(|[_, decoded, plain]| (decoded, plain));
            assert_eq!(found, Ok((decoded.to_owned(), plain.to_owned())), "{path}");
        }
    }

    #[test]
    fn an_encoded_question_mark_or_hash_may_end_a_path() {
        for (path, before) in [
            ("/a%2Fb", None),
            ("/a%3Fb", Some("/a")),
            ("/a/%23/b%3F", Some("/a/")),
            ("/a;x%3Fy/b", Some("/a")),
            ("/%3f", Some("/")),
        ] {
            let judged = JudgedPath::of(path, EncodedSlash::Keep).unwrap();
            assert_eq!(judged.before_query(), before.map(str::as_bytes), "{path}");
        }
    }

    #[test]
    fn a_path_that_two_readers_could_see_differently_is_refused() {
        use BadPath as Bad;
        for (path, why) in [
            ("a", Bad::NoSlash),
            ("", Bad::NoSlash),
            ("*", Bad::NoSlash),
            ("/%", Bad::Percent),
            ("/%4", Bad::Percent),
            ("/%zz", Bad::Percent),
            ("/%+1", Bad::Percent),
            ("/%u002e", Bad::Percent),
            ("/%%32e", Bad::Percent),
            ("/%ä", Bad::Percent),
            ("/%252e", Bad::EncodedTwice),
            ("/%2561", Bad::EncodedTwice),
            ("/%25%32%65", Bad::EncodedTwice),
            ("/a\\b", Bad::Backslash),
            ("/a%5cb", Bad::Backslash),
            ("/a%00", Bad::Control),
            ("/a%0d%0ab", Bad::Control),
            ("/a%7f", Bad::Control),
            ("/a\u{1}", Bad::Control),
            ("/a b", Bad::Control),
            ("/a/..;/b", Bad::DotsWithParameter),
            ("/a/..;x=1/b", Bad::DotsWithParameter),
            ("/a/.;/b", Bad::DotsWithParameter),
            ("/a/%2e%2e;/b", Bad::DotsWithParameter),
            ("/a/..%3b/b", Bad::DotsWithParameter),
            ("/a/..%3Fx", Bad::DotsWithParameter),
            ("/a/%2e%2e%23/b", Bad::DotsWithParameter),
            ("/a/..%20/b", Bad::DotsWithParameter),
            ("/a/%20../b", Bad::DotsWithParameter),
            ("/a;x/b%3By", Bad::TwoSemicolons),
            ("/..", Bad::AboveRoot),
            ("/a/../../b", Bad::AboveRoot),
            ("/%2e%2e/b", Bad::AboveRoot),
            ("/a%2F..%2Fb", Bad::AmbiguousSlash),
            ("/a/..%2fb", Bad::AmbiguousSlash),
            ("/%2fb", Bad::AmbiguousSlash),
            ("/a%2f", Bad::AmbiguousSlash),
            ("/a%2f%2fb", Bad::AmbiguousSlash),
            ("/a;x%2fb", Bad::AmbiguousSlash),
            ("/%c0%ae%c0%ae/b", Bad::NotUtf8),
            ("/%c0%af", Bad::NotUtf8),
            ("/%e0%80%af", Bad::NotUtf8),
            ("/%ff", Bad::NotUtf8),
            ("/%ed%a0%80", Bad::NotUtf8),
            ("/%c3", Bad::NotUtf8),
        ] {
            assert_eq!(judged(path), Err(why), "{path}");
        }
        let strictly = |path| JudgedPath::of(path, EncodedSlash::Reject).map(|_| ());
        assert_eq!(strictly("/a%2fb"), Err(Bad::EncodedSlash));
        assert_eq!(strictly("/a%20b"), Ok(()));
    }
}
