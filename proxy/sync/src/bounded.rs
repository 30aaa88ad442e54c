//! Parts of the answers of stores, which are read without more memory than a version may take.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, SeqAccess, Visitor};

use super::version::{BadVersion, MOST_FILES};

/// The keys that are kept of an answer. Beside each file there may be the key of its folder.
pub(crate) const MOST_PAIRS: usize = 2 * MOST_FILES;

/// A list of which no more than [`MOST_PAIRS`] are kept while it is read.
pub(crate) struct Bounded<T> {
    kept: Vec<T>,
    is_cut: bool,
}

impl<T> Bounded<T> {
    pub(crate) fn all(self) -> Result<Vec<T>, BadVersion> {
        if self.is_cut { Err(BadVersion::TooMany) } else { Ok(self.kept) }
    }
}

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self { kept: Vec::new(), is_cut: false }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = Bounded<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Bounded<T>, A::Error> {
        let mut bounded = Bounded::default();
        while bounded.kept.len() < MOST_PAIRS {
            match list.next_element()? {
                Some(element) => bounded.kept.push(element),
                None => return Ok(bounded),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            bounded.is_cut = true;
        }
        Ok(bounded)
    }
}

/// A whole number. Those of 64 bits are texts in the JSON of protobuf.
pub(crate) struct Number(pub(crate) u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Number, E> {
        Ok(Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
        text.parse().map(Number).map_err(|_not_a_number| E::custom("a whole number is expected"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_to_its_end_and_kept_up_to_a_bound() {
        let list = |length: usize| -> Bounded<u8> {
            serde_json::from_str(&format!("[{}]", vec!["1"; length].join(","))).unwrap()
        };
        assert_eq!(list(MOST_PAIRS).all().unwrap().len(), MOST_PAIRS);
        let long = list(100 * MOST_PAIRS);
        assert_eq!(long.kept.len(), MOST_PAIRS);
        assert_eq!(long.all(), Err(BadVersion::TooMany));
    }

    #[test]
    fn a_number_is_read_from_a_number_and_from_a_text() {
        for text in ["7", "\"7\""] {
            assert_eq!(serde_json::from_str::<Number>(text).unwrap().0, 7);
        }
        for text in ["-1", "\"x\"", "[7]", "{}"] {
            assert!(serde_json::from_str::<Number>(text).is_err(), "{text}");
        }
    }
}
