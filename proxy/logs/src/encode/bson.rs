//! MongoDB's messages (OP_MSG) and the types of BSON that records need.
//!
//! They are written here because the crate `bson` takes 130 KB in a small program that is built for size: it makes a tree of
//! each document, and has types and conversions that records do not need.

use super::{Batch, Id};
use crate::json::{self, Member};
use crate::record::{Origin, Record, Value};

const OP_MSG: i32 = 2013;
/// 48 MB: the longest message of the protocol.
const LONGEST: usize = 48_000_000;
/// The deepest nesting that is written. MongoDB takes 100; what is deeper becomes its JSON.
const DEEPEST: usize = 32;

/// The most elements of an answer, and of what it says of one document. MongoDB has some ten.
const MOST_ELEMENTS: usize = 64;

const DOUBLE: u8 = 1;
const STRING: u8 = 2;
const DOCUMENT: u8 = 3;
const ARRAY: u8 = 4;
const BOOLEAN: u8 = 8;
const DATE: u8 = 9;
const NULL: u8 = 10;
const INT_32: u8 = 16;
const INT_64: u8 = 18;

/// Writes the document of a record.
pub(super) fn write(record: &Record<'_>, origin: &Origin, id: Id, to: &mut Vec<u8>) {
    document(to, |to| {
        text("_id", &id.to_string(), to);
        key(DATE, "@timestamp", to);
        to.extend_from_slice(&record.time.div_euclid(1_000_000).to_le_bytes());
        text("message", &record.message.text(), to);
        if let Some(level) = &record.level {
            text("level", level, to);
        }
        for (name, value) in &origin.fields {
            text(name, value, to);
        }
        if let Some(stream) = record.stream {
            text("stream", stream, to);
        }
        if record.is_cut {
            key(BOOLEAN, "truncated", to);
            to.push(1);
        }
        for (name, value) in &record.fields {
            let name = json::unescaped(name);
            match value {
                Value::Json(value) => of_json(&name, value, 1, to),
                Value::Text(value) => text(&name, value, to),
            }
        }
    });
}

/// The length of a document stands before it.
fn document(to: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = to.len();
    to.extend_from_slice(&[0; 4]);
    write(to);
    to.push(0);
    set_length(begin, to);
}

fn set_length(begin: usize, to: &mut [u8]) {
    let length = i32::try_from(to.len() - begin).unwrap_or(i32::MAX);
    if let Some(place) = to.get_mut(begin..begin + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

/// The type and the name of an element. A name ends with a NUL, so that it cannot have one.
fn key(kind: u8, name: &str, to: &mut Vec<u8>) {
    to.push(kind);
    to.extend(name.bytes().filter(|byte| *byte != 0));
    to.push(0);
}

fn text(name: &str, value: &str, to: &mut Vec<u8>) {
    key(STRING, name, to);
    to.extend_from_slice(&i32::try_from(value.len() + 1).unwrap_or(i32::MAX).to_le_bytes());
    to.extend_from_slice(value.as_bytes());
    to.push(0);
}

fn of_json(name: &str, value: &str, depth: usize, to: &mut Vec<u8>) {
    match value.as_bytes().first() {
        Some(b'"') => text(name, &json::string(value).unwrap_or_default(), to),
        Some(b'{' | b'[') if depth < DEEPEST => nested(name, value, depth, to),
        Some(b't' | b'f') => {
            key(BOOLEAN, name, to);
            to.push(u8::from(value == "true"));
        }
        Some(b'n') => key(NULL, name, to),
        Some(b'-' | b'0'..=b'9') => number(name, value, to),
        _ => text(name, value, to),
    }
}

fn nested(name: &str, value: &str, depth: usize, to: &mut Vec<u8>) {
    if let Some(items) = json::items(value) {
        key(ARRAY, name, to);
        return document(to, |to| {
            for (nth, item) in items.into_iter().enumerate() {
                of_json(&nth.to_string(), item, depth + 1, to);
            }
        });
    }
    let mut members = Vec::new();
    json::members(value, &mut members);
    key(DOCUMENT, name, to);
    document(to, |to| {
        for Member { key, value } in members {
            of_json(&json::unescaped(key), value, depth + 1, to);
        }
    });
}

fn number(name: &str, value: &str, to: &mut Vec<u8>) {
    match (value.parse::<i32>(), value.parse::<i64>(), value.parse::<f64>()) {
        (Ok(small), ..) => {
            key(INT_32, name, to);
            to.extend_from_slice(&small.to_le_bytes());
        }
        (_, Ok(large), _) => {
            key(INT_64, name, to);
            to.extend_from_slice(&large.to_le_bytes());
        }
        (.., Ok(double)) => {
            key(DOUBLE, name, to);
            to.extend_from_slice(&double.to_le_bytes());
        }
        _ => text(name, value, to),
    }
}

/// The command that inserts a batch. It is not ordered: a document that is refused does not stop the others.
pub(super) fn insert(batch: &Batch, database: &str, collection: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(batch.bytes().len() + 256);
    message.extend_from_slice(&[0; 4]); // its length
    for number in [1_i32, 0, OP_MSG] {
        message.extend_from_slice(&number.to_le_bytes());
    }
    message.extend_from_slice(&[0; 4]); // flags
    message.push(0); // a section with one document
    document(&mut message, |to| {
        text("insert", collection, to);
        key(BOOLEAN, "ordered", to);
        to.push(0);
        text("$db", database, to);
    });
    message.push(1); // a section with a sequence of documents
    let begin = message.len();
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(b"documents\0");
    message.extend_from_slice(batch.bytes());
    set_length(begin, &mut message);
    set_length(0, &mut message);
    message
}

/// What a server answered to an insert.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) is_ok: bool,
    /// Why the whole command failed.
    pub(crate) code: i32,
    pub(crate) message: String,
    /// Why it is not sure that what was inserted stays.
    pub(crate) doubt: Option<String>,
    pub(crate) refused: Vec<WriteError>,
}

/// A document that was not inserted.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct WriteError {
    /// The place of the document in the command.
    pub(crate) place: usize,
    pub(crate) code: i32,
    pub(crate) why: String,
    /// Whether another field than `_id` has the value of another document.
    pub(crate) is_of_other_field: bool,
}

/// How many bytes a message has, of which this is the beginning: its length, two numbers, and its kind. `None`: it is no OP_MSG, or
/// longer than one may be.
pub(crate) fn length(header: &[u8; 16]) -> Option<usize> {
    let [a, b, c, d, .., e, f, g, h] = *header;
    let length = usize::try_from(i32::from_le_bytes([a, b, c, d])).ok()?;
    (i32::from_le_bytes([e, f, g, h]) == OP_MSG && (16..=LONGEST).contains(&length)).then_some(length)
}

/// Reads an answer: four numbers, of which the last is the kind of message, flags, and a section with one document. `None`: it
/// is another message.
pub(crate) fn answer(message: &[u8], documents: usize) -> Option<Answer> {
    let of = |from: usize| Some(i32::from_le_bytes(message.get(from..from + 4)?.try_into().ok()?));
    (of(12)? == OP_MSG && message.get(20) == Some(&0)).then_some(())?;
    let mut answer = Answer::default();
    for (kind, name, value) in elements(message.get(21..)?, MOST_ELEMENTS)? {
        match name {
            "ok" => answer.is_ok = numeric(kind, value)? == 1.0,
            "code" => answer.code = whole(kind, value)?,
            "errmsg" => answer.message = string(value)?,
            "writeConcernError" => answer.doubt = Some(write_error(value)?.1.why),
            "writeErrors" => {
                for (_, _, error) in elements(value, documents)? {
                    let (place, error) = write_error(error)?;
                    answer.refused.push(WriteError { place: place?, ..error });
                }
            }
            _ => {}
        }
    }
    Some(answer)
}

fn write_error(of: &[u8]) -> Option<(Option<usize>, WriteError)> {
    let (mut place, mut error, mut is_of_id) = (None, WriteError::default(), None);
    for (kind, name, value) in elements(of, MOST_ELEMENTS)? {
        match name {
            "index" => place = usize::try_from(whole(kind, value)?).ok(),
            "code" => error.code = whole(kind, value)?,
            "errmsg" => error.why = string(value)?,
            "keyPattern" => {
                let fields = elements(value, MOST_ELEMENTS)?;
                is_of_id = Some(matches!(fields.as_slice(), [(_, "_id", _)]));
            }
            _ => {}
        }
    }
    // servers before 4.2 name the index in the text alone, and others do not name it: they have that of _id
    let named = error.why.split_once("index: ").map(|(_, name)| name.starts_with("_id_"));
    error.is_of_other_field = !is_of_id.or(named).unwrap_or(true);
    Some((place, error))
}

/// The elements of a document that has at most so many: type, name, and the bytes of the value.
fn elements(document: &[u8], most: usize) -> Option<Vec<(u8, &str, &[u8])>> {
    let length = usize::try_from(i32::from_le_bytes(document.get(..4)?.try_into().ok()?)).ok()?;
    let mut rest = document.get(4..length.checked_sub(1)?)?;
    let mut all = Vec::new();
    while let Some((kind, after)) = rest.split_first() {
        let end = memchr::memchr(0, after)?;
        let name = std::str::from_utf8(after.get(..end)?).ok()?;
        let value = after.get(end + 1..)?;
        let size = size(*kind, value)?;
        (all.len() < most).then_some(())?;
        all.push((*kind, name, value.get(..size)?));
        rest = value.get(size..)?;
    }
    Some(all)
}

/// How many bytes a value takes.
fn size(kind: u8, value: &[u8]) -> Option<usize> {
    let length = || usize::try_from(i32::from_le_bytes(value.get(..4)?.try_into().ok()?)).ok();
    Some(match kind {
        DOUBLE | DATE | INT_64 | 17 => 8,
        STRING => length()?.checked_add(4)?,
        DOCUMENT | ARRAY => length()?,
        5 => length()?.checked_add(5)?, // bytes
        7 => 12,                        // an object id
        BOOLEAN => 1,
        NULL => 0,
        INT_32 => 4,
        _ => return None,
    })
}

fn numeric(kind: u8, value: &[u8]) -> Option<f64> {
    match kind {
        DOUBLE => Some(f64::from_le_bytes(value.try_into().ok()?)),
        BOOLEAN => Some(f64::from(*value.first()?)),
        _ => whole(kind, value).map(f64::from),
    }
}

fn whole(kind: u8, value: &[u8]) -> Option<i32> {
    match kind {
        INT_32 => Some(i32::from_le_bytes(value.try_into().ok()?)),
        INT_64 => i32::try_from(i64::from_le_bytes(value.try_into().ok()?)).ok(),
        _ => None,
    }
}

fn string(value: &[u8]) -> Option<String> {
    let text = value.get(4..value.len().checked_sub(1)?)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use pillion_model::Workload;
    use proptest::prelude::*;

    use super::super::Encoder;
    use super::super::tests::batch;
    use super::*;

    fn encoder() -> Encoder {
        Encoder::Bson { database: "logs".to_owned(), collection: "app".to_owned() }
    }

    #[test]
    fn a_record_is_a_document_with_the_types_of_its_fields() {
        let batch = batch(
            &encoder(),
            &[r#"{"msg":"a","n":7,"big":4294967296,"x":1.5,"ok":false,"no":null,"o":{"a":[1,"b"]}}"#],
        );
        let document = batch.texts().next().unwrap();
        let elements = elements(document, MOST_ELEMENTS).unwrap();
        assert_eq!(i32::from_le_bytes(document[..4].try_into().unwrap()) as usize, document.len());
        let kinds: Vec<(u8, &str)> = elements.iter().map(|(kind, name, _)| (*kind, *name)).collect();
        assert_eq!(
            kinds,
            [
                (STRING, "_id"),
                (DATE, "@timestamp"),
                (STRING, "message"),
                (STRING, "source"),
                (STRING, "file"),
                (STRING, "workload"),
                (STRING, "team"),
                (INT_32, "n"),
                (INT_64, "big"),
                (DOUBLE, "x"),
                (BOOLEAN, "ok"),
                (NULL, "no"),
                (DOCUMENT, "o"),
            ]
        );
        assert_eq!(string(elements[2].2).as_deref(), Some("a"));
        let inner = super::elements(elements[12].2, MOST_ELEMENTS).unwrap();
        assert_eq!(
            super::elements(inner[0].2, MOST_ELEMENTS)
                .unwrap()
                .iter()
                .map(|(kind, name, _)| (*kind, *name))
                .collect::<Vec<_>>(),
            [(INT_32, "0"), (STRING, "1")]
        );
    }

    #[test]
    fn a_command_has_all_documents_in_a_sequence() {
        let batch = batch(&encoder(), &["a", "b"]);
        let message = encoder().body(&batch, &Workload::default());
        assert_eq!(i32::from_le_bytes(message[..4].try_into().unwrap()) as usize, message.len());
        let command = elements(&message[21..], MOST_ELEMENTS).unwrap();
        assert_eq!(
            command.iter().map(|(_, name, _)| *name).collect::<Vec<_>>(),
            ["insert", "ordered", "$db"]
        );
        assert!(message.ends_with(batch.bytes()));
    }

    /// An answer, as a server writes it.
    fn answered(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut message = Vec::new();
        for number in [7_i32, 1, 1, OP_MSG, 0] {
            message.extend_from_slice(&number.to_le_bytes());
        }
        message.push(0);
        document(&mut message, write);
        set_length(0, &mut message);
        message
    }

    #[test]
    fn an_answer_names_the_documents_that_were_refused() {
        let message = answered(|to| {
            number("n", "1", to);
            of_json("writeErrors", r#"[{"index":1,"code":11000,"errmsg":"duplicate"}]"#, 1, to);
            of_json("ok", "1.0", 1, to);
        });
        let error =
            WriteError { place: 1, code: 11000, why: "duplicate".to_owned(), is_of_other_field: false };
        assert_eq!(
            answer(&message, 2),
            Some(Answer { is_ok: true, refused: vec![error], ..Answer::default() })
        );
        let errors = format!("[{}]", [r#"{"index":1,"code":1}"#; 3].join(","));
        let message = answered(|to| of_json("writeErrors", &errors, 1, to));
        assert_eq!(answer(&message, 2), None, "it names more documents than were sent");
        let message = answered(|to| {
            of_json("writeConcernError", r#"{"code":189,"errmsg":"stepped down"}"#, 1, to);
            of_json("ok", "1.0", 1, to);
        });
        assert_eq!(answer(&message, 2).and_then(|answer| answer.doubt).as_deref(), Some("stepped down"));
        let message = answered(|to| of_json("ok", "0.0", 1, to));
        assert_eq!(answer(&message, 2).map(|answer| answer.is_ok), Some(false));
        assert_eq!(length(message.first_chunk().unwrap()), Some(message.len()));
        assert_eq!(length(b"HTTP/1.0 200 OK\r"), None);
        assert_eq!(answer(b"HTTP/1.0 200 OK\r\n\r\nIt looks like", 2), None);
    }

    #[test]
    fn a_duplicate_of_another_field_is_not_the_same_document() {
        for (error, is_other) in [
            (r#""keyPattern":{"_id":1}"#, false),
            (r#""keyPattern":{"order":1}"#, true),
            (r#""keyPattern":{"_id":1,"order":1}"#, true),
            (r#""errmsg":"E11000 duplicate key error collection: a.b index: _id_ dup key: { : 1 }""#, false),
            (
                r#""errmsg":"E11000 duplicate key error collection: a.b index: order_1 dup key: { : 1 }""#,
                true,
            ),
            (r#""errmsg":"index: _id_","keyPattern":{"order":1}"#, true),
            (r#""errmsg":"E11000 duplicate key error""#, false),
        ] {
            let errors = format!(r#"[{{"index":0,"code":11000,{error}}}]"#);
            let message = answered(|to| of_json("writeErrors", &errors, 1, to));
            let refused = answer(&message, 1).unwrap().refused;
            assert_eq!(refused[0].is_of_other_field, is_other, "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_answer_makes_it_panic(mut message in prop::collection::vec(any::<u8>(), 0..80)) {
            for (place, byte) in [(12, 0xdd), (13, 7), (14, 0), (15, 0), (20, 0)] {
                if let Some(at) = message.get_mut(place) {
                    *at = byte;
                }
            }
            answer(&message, 2);
        }
    }
}
