//! What names a stored answer: the host and the target of its request. The service is named by the cache itself, and
//! the method is always GET.

use std::hash::{Hash, Hasher};

use quick_cache::Equivalent;

/// The key of an answer that is stored.
#[derive(Debug, Clone)]
pub struct Key {
    /// The host, and behind it the path with its query.
    text: Box<[u8]>,
    host: usize,
}

/// The key of a request, which borrows from its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRef<'a> {
    pub host: &'a [u8],
    /// The path with its query.
    pub target: &'a [u8],
}

/// The host as a key has it: without the port that plain HTTP has anyway (RFC 9110, 4.2.3).
pub fn host(of: &[u8]) -> &[u8] {
    of.strip_suffix(b":80").unwrap_or(of)
}

impl KeyRef<'_> {
    pub fn to_key(self) -> Key {
        let mut text = self.host.to_ascii_lowercase();
        text.extend_from_slice(self.target);
        Key { text: text.into(), host: self.host.len() }
    }
}

impl Key {
    pub fn borrowed(&self) -> KeyRef<'_> {
        let (host, target) = self.text.split_at_checked(self.host).unwrap_or_default();
        KeyRef { host, target }
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.text.len()
    }
}

/// The host without regard to its case.
impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.host.iter().any(u8::is_ascii_uppercase) {
            false => state.write(self.host), // nearly always
            true => state.write(&self.host.to_ascii_lowercase()),
        }
        state.write_u8(0);
        state.write(self.target);
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrowed().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.host == other.host && self.text == other.text
    }
}

impl Eq for Key {}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        let key = key.borrowed();
        self.host.eq_ignore_ascii_case(key.host) && self.target == key.target
    }
}

/// Which answers are to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    All,
    /// This path: with this query where it has one, else with any query.
    Path(Box<[u8]>),
    /// Every path with its query that begins so.
    Prefix(Box<[u8]>),
}

impl Pattern {
    /// A path, or the beginning of one with `*` at the end.
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.as_bytes().into()),
            None => Self::Path(text.as_bytes().into()),
        }
    }

    pub fn fits(&self, key: KeyRef<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => key.target.starts_with(prefix),
            Self::Path(path) if path.contains(&b'?') => *key.target == **path,
            Self::Path(path) => key.target.split(|byte| *byte == b'?').next() == Some(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher as _;

    use proptest::prelude::*;

    use super::*;

    fn key<'a>(host: &'a str, target: &'a str) -> KeyRef<'a> {
        KeyRef { host: host.as_bytes(), target: target.as_bytes() }
    }

    #[test]
    fn the_case_of_the_host_does_not_matter_and_that_of_the_target_does() {
        let (hasher, stored) = (RandomState::new(), key("A.example", "/x").to_key());
        assert!(key("a.EXAMPLE", "/x").equivalent(&stored));
        assert_eq!(hasher.hash_one(key("a.EXAMPLE", "/x")), hasher.hash_one(&stored));
        assert!(!key("a.example", "/X").equivalent(&stored));
        assert!(!key("a.exampl", "e/x").equivalent(&stored));
    }

    #[test]
    fn a_pattern_names_a_path_a_beginning_or_all() {
        let fits = |pattern, target| Pattern::parse(pattern).fits(key("h", target));
        assert!(fits("/x", "/x") && fits("/x", "/x?a=1") && !fits("/x", "/x/y"));
        assert!(fits("/x?a=1", "/x?a=1") && !fits("/x?a=1", "/x") && !fits("/x?a=1", "/x?a=10"));
        assert!(fits("/x*", "/x/y") && fits("/x*", "/xy?z") && fits("*", "/") && !fits("/x*", "/y"));
        assert!(Pattern::All.fits(key("h", "/")));
    }

    proptest! {
        #[test]
        fn different_requests_have_different_keys(a in "[a-c./]{0,4}", b in "[a-c./]{0,4}", c in "[a-c./]{0,4}", d in "[a-c./]{0,4}") {
            let (one, other) = (key(&a, &b), key(&c, &d));
            prop_assert_eq!(one.equivalent(&other.to_key()), one == other);
            prop_assert_eq!(one.to_key() == other.to_key(), one == other);
        }
    }
}
