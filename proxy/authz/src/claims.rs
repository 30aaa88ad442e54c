//! What a verified token says, as far as rules ask for it.

use std::collections::BTreeSet;
use std::fmt;

use pillion_model::authorization::{ClaimMatch, Rule};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::rule::MOST_MEMBERS;

/// The claims of a verified token, each with its values as texts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claims(Box<[Claim]>);

#[derive(Debug, PartialEq, Eq)]
struct Claim {
    name: Box<str>,
    values: Box<[Box<str>]>,
}

/// A list of more than 256 members in a claim that rules name. Each is compared with every such rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its claim {0:?} has more than {MOST_MEMBERS} members")]
pub struct TooManyMembers(pub String);

impl Claims {
    /// The names of all claims that rules ask for.
    pub fn wanted(rules: &[Rule]) -> Box<[Box<str>]> {
        let names = rules.iter().flat_map(Rule::claims).map(|claim| claim.name.as_str());
        names.collect::<BTreeSet<_>>().into_iter().map(Into::into).collect()
    }

    /// Takes these claims out of those of a verified token, if it has them.
    ///
    /// # Errors
    /// One of them has too many members.
    pub fn of(all: &Value, wanted: &[Box<str>]) -> Result<Self, TooManyMembers> {
        let mut claims = Vec::with_capacity(wanted.len());
        for name in wanted {
            let value = if name.starts_with('/') { all.pointer(name) } else { all.get(&**name) };
            if let Some(value) = value {
                claims.push(Claim { name: name.clone(), values: texts(name, value)? });
            }
        }
        Ok(Self(claims.into()))
    }

    pub(crate) fn fit(&self, wanted: &ClaimMatch) -> bool {
        let claim = self.0.iter().find(|claim| *claim.name == *wanted.name);
        let fits = |value: &str| wanted.values.iter().any(|pattern| pattern.fits(value));
        claim.is_some_and(|claim| claim.values.iter().any(|value| fits(value)))
    }
}

/// The values of a claim: the members of a list, or of a text that is a list of words; null and blocks are none.
fn texts(name: &str, value: &Value) -> Result<Box<[Box<str>]>, TooManyMembers> {
    let all: Vec<Box<str>> = match value {
        Value::Array(members) => members.iter().take(MOST_MEMBERS + 1).filter_map(text).collect(),
        Value::String(words) if is_list_of_words(name) => {
            words.split(' ').filter(|word| !word.is_empty()).take(MOST_MEMBERS + 1).map(Into::into).collect()
        }
        one => text(one).into_iter().collect(),
    };
    let is_too_long =
        all.len() > MOST_MEMBERS || matches!(value, Value::Array(members) if members.len() > MOST_MEMBERS);
    if is_too_long { Err(TooManyMembers(name.to_owned())) } else { Ok(all.into()) }
}

/// Scopes are words with spaces between them (RFC 8693, 4.2; `scp` at Microsoft).
fn is_list_of_words(name: &str) -> bool {
    matches!(name.strip_prefix('/').unwrap_or(name), "scope" | "scp")
}

fn text(value: &Value) -> Option<Box<str>> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(value) => Some(if *value { "true" } else { "false" }.into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// JSON in which no object has a name twice: two readers of a token could see different values (RFC 7519, 4).
pub(crate) struct Unambiguous(pub(crate) Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Unambiguous(member)) = members.next_element()? {
            all.push(member);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((name, Unambiguous(value))) = entries.next_entry::<String, Unambiguous>()? {
            if all.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands there twice"));
            }
        }
        Ok(Value::Object(all))
    }
}
