//! How a key's value may look: a word, one or a list of them, a checked map, a union of these.
//!
//! serde's own untagged unions try each variant and forget why none fitted; here the value's kind
//! (text, list, block) decides, and the fault inside keeps its place.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::value::{BadWord, Word, on_off};

/// A leaf. Always read as text, so that YAML's idea of numbers and booleans does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Typed<T>(pub(crate) T);

/// serde carries one text; `salvage` takes it apart again.
pub(crate) fn carried<E: Error>(bad: BadWord) -> E {
    match bad.help {
        Some(help) => E::custom(format_args!("{}\n{help}", bad.what)),
        None => E::custom(bad.what),
    }
}

struct WordVisitor<T>(PhantomData<T>);

impl<T: Word> Visitor<'_> for WordVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).map_err(carried)
    }
}

impl<'de, T: Word> Deserialize<'de> for Typed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(WordVisitor(PhantomData)).map(Self)
    }
}

/// A value whose kind says which of several things it is.
pub(crate) trait Shape<'de>: Sized {
    const EXPECTED: &'static str;
    type List: Deserialize<'de>;
    type Block: Deserialize<'de>;

    fn word(text: &str) -> Result<Self, BadWord>;

    fn list(_: Self::List) -> Result<Self, BadWord> {
        Err(BadWord::new(format!("must be {}, not a list", Self::EXPECTED)))
    }

    fn block(_: Self::Block) -> Result<Self, BadWord> {
        Err(BadWord::new(format!("must be {}, not a block of keys", Self::EXPECTED)))
    }
}

struct ShapeVisitor<S>(PhantomData<S>);

impl<'de, S: Shape<'de>> Visitor<'de> for ShapeVisitor<S> {
    type Value = S;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(S::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<S, E> {
        S::word(text).map_err(carried)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<S, A::Error> {
        S::list(S::List::deserialize(SeqAccessDeserializer::new(list))?).map_err(carried)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<S, A::Error> {
        S::block(S::Block::deserialize(MapAccessDeserializer::new(map))?).map_err(carried)
    }
}

pub(crate) fn read<'de, S: Shape<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<S, D::Error> {
    deserializer.deserialize_any(ShapeVisitor(PhantomData))
}

/// `Deserialize` by [`Shape`]; a blanket implementation would claim every type there is.
macro_rules! shaped {
    ($($name:ty),*) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::shape::read(deserializer)
            }
        }
    )*};
}
pub(crate) use shaped;

/// One value, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OneOrMore<T>(pub(crate) Vec<T>);

impl<'de, T: Word> Shape<'de> for OneOrMore<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    type List = Vec<Typed<T>>;
    type Block = NotYet;

    fn word(text: &str) -> Result<Self, BadWord> {
        T::parse(text).map(|value| Self(vec![value]))
    }

    fn list(list: Vec<Typed<T>>) -> Result<Self, BadWord> {
        Ok(Self(list.into_iter().map(|Typed(value)| value).collect()))
    }
}

impl<'de, T: Word> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer)
    }
}

/// A map in the file's order whose keys are all different.
#[derive(Debug, Clone)]
pub(crate) struct Entries<K, V>(pub(crate) Vec<(K, V)>);

impl<'de, K: Word, V: Deserialize<'de>> Deserialize<'de> for Entries<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<K, V>(PhantomData<(K, V)>);

impl<'de, K: Word, V: Deserialize<'de>> Visitor<'de> for EntriesVisitor<K, V> {
    type Value = Entries<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a block of keys")
    }

    /// serde_yaml lets the last of two equal keys win, and says nothing.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<K, V>, A::Error> {
        let (mut entries, mut seen) = (Vec::new(), HashSet::new());
        while let Some(KeyText(text)) = map.next_key()? {
            let key = K::parse(&text).map_err(|bad| carried(about_key(&text, bad)))?;
            if !seen.insert(text.clone()) {
                return Err(A::Error::custom(format_args!("has the key `{text}` twice")));
            }
            entries.push((key, map.next_value()?));
        }
        Ok(Entries(entries))
    }
}

fn about_key(text: &str, bad: BadWord) -> BadWord {
    match text {
        "<<" => BadWord::new("has no key `<<`").help("merge keys are not YAML 1.2; write the keys out"),
        _ if text.contains("${") => BadWord::new(format!("has a key that {}", bad.what))
            .help("variables are replaced in values alone, never in keys"),
        _ => BadWord { what: format!("has a key that {}", bad.what), help: bad.help },
    }
}

struct KeyText(String);

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(WordVisitor::<Raw>(PhantomData)).map(|Raw(text)| Self(text))
    }
}

struct Raw(String);

impl Word for Raw {
    const EXPECTED: &'static str = "a key";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Ok(Self(text.to_owned()))
    }
}

/// Whatever a key holds that is not built yet: its variables are set, and no block in it has a key twice.
struct Anything;

impl<'de> Deserialize<'de> for Anything {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnythingVisitor).map(|_| Self)
    }
}

/// Gives whether there is anything but `off`, an empty list and an empty block.
struct AnythingVisitor;

impl<'de> Visitor<'de> for AnythingVisitor {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("off")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        Ok(on_off(text) != Some(false))
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        let mut any = false;
        while let Some(Anything) = list.next_element()? {
            any = true;
        }
        Ok(any)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        let Entries::<Raw, Anything>(entries) = EntriesVisitor(PhantomData).visit_map(map)?;
        Ok(!entries.is_empty())
    }
}

/// A key that is known and not built yet; whatever it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotYet;

impl<'de> Deserialize<'de> for NotYet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Anything::deserialize(deserializer).map(|Anything| Self)
    }
}

/// A key that is known and not built yet, but may say so: `off`, or nothing in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OffOnly {
    Off,
    Asked,
}

impl<'de> Deserialize<'de> for OffOnly {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let asked = deserializer.deserialize_any(AnythingVisitor)?;
        Ok(if asked { Self::Asked } else { Self::Off })
    }
}
