//! etcd v3 by its JSON gateway: the questions, what a range holds, and what a watch tells.
//!
//! A watch only tells that something has changed; the content is always that of a new range, so that many changes become
//! one version, and a watch that was lost or compacted needs no rule of its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use pillion_model::sync::Store;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::bounded::{Bounded, MOST_PAIRS, Number};
use super::version::{BadVersion, Content, Folder};

pub(crate) const RANGE: &str = "/v3/kv/range";
pub(crate) const WATCH: &str = "/v3/watch";

#[derive(Debug, thiserror::Error)]
pub(crate) enum BadAnswer {
    #[error("the answer is not the JSON of etcd's gateway (line {}, column {})", .0.line(), .0.column())]
    Json(#[source] serde_json::Error),
    #[error("the answer has no revision, so this is not etcd's gateway")]
    NoRevision,
    #[error("a key or a value is not base64")]
    Base64(#[source] base64::DecodeError),
    #[error("a key is not UTF-8")]
    NotUtf8,
    #[error("the answer has a key that was not asked for")]
    OtherKey,
    #[error("etcd refused the watch (code {0})")]
    Refused(u64),
    #[error(transparent)]
    Version(#[from] BadVersion),
}

/// What a range has at a revision. Without content there is no such key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) revision: u64,
    pub(crate) content: Option<Content>,
}

/// What one message of a watch says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// That the watch exists, or that nothing has happened.
    Nothing,
    Changed,
    /// The watch has ended, because its revision was compacted or for another reason: a new range tells what there is.
    Ended,
}

#[derive(Deserialize)]
struct RangeAnswer {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    kvs: Bounded<Pair>,
    /// Whether there are keys beyond the limit of the question.
    #[serde(default)]
    more: bool,
}

/// Only what is used has a type, so that a hostile answer makes nothing else in memory.
#[derive(Default, Deserialize)]
struct Header {
    #[serde(default)]
    revision: Option<Number>,
}

#[derive(Deserialize)]
struct Pair {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    error: Option<Refusal>,
    #[serde(default)]
    result: Option<Watched>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    grpc_code: Option<Number>,
    #[serde(default)]
    code: Option<Number>,
}

#[derive(Default, Deserialize)]
struct Watched {
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    compact_revision: Option<IgnoredAny>,
    /// An element without content takes no memory.
    #[serde(default)]
    events: Vec<IgnoredAny>,
}

/// The range of a key, or of all that begin with it.
pub(crate) fn range_question(store: &Store) -> String {
    let mut question = keys(store);
    question["limit"] = MOST_PAIRS.to_string().into();
    question.to_string()
}

/// A watch of what comes after `revision`.
pub(crate) fn watch_question(store: &Store, revision: u64) -> String {
    let mut question = keys(store);
    question["start_revision"] = revision.saturating_add(1).to_string().into();
    json!({ "create_request": question }).to_string()
}

fn keys(store: &Store) -> Value {
    let mut question = json!({ "key": STANDARD.encode(&store.key) });
    if store.is_folder {
        // the first text after all that begin with the key: a slash is at its end, and 0 is the next character
        let end = format!("{}0", store.key.strip_suffix('/').unwrap_or(&store.key));
        question["range_end"] = STANDARD.encode(end).into();
    }
    question
}

/// What the answer to a range holds.
pub(crate) fn read(store: &Store, answer: &[u8]) -> Result<Range, BadAnswer> {
    let RangeAnswer { header, kvs, more } = serde_json::from_slice(answer).map_err(BadAnswer::Json)?;
    let Number(revision) = header.revision.ok_or(BadAnswer::NoRevision)?;
    let kvs = if more { Err(BadVersion::TooMany) } else { kvs.all() }?;
    let mut files = Vec::with_capacity(kvs.len());
    for Pair { key, value } in kvs {
        let key = String::from_utf8(decoded(&key)?).map_err(|_bytes| BadAnswer::NotUtf8)?;
        let name = key.strip_prefix(&store.key).ok_or(BadAnswer::OtherKey)?;
        if name.is_empty() == store.is_folder || name.ends_with('/') {
            continue;
        }
        files.push((name.to_owned(), Bytes::from(decoded(&value)?)));
    }
    let content = match store.is_folder {
        _ if files.is_empty() => None,
        true => Some(Content::Folder(Folder::new(files)?)),
        false => files.pop().map(|(_, bytes)| Content::file(bytes)).transpose()?,
    };
    Ok(Range { revision, content })
}

/// What one line of a watch says.
pub(crate) fn heard(line: &[u8]) -> Result<Told, BadAnswer> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(Told::Nothing);
    }
    let message: Message = serde_json::from_slice(line).map_err(BadAnswer::Json)?;
    if let Some(Refusal { grpc_code, code }) = message.error {
        return Err(BadAnswer::Refused(grpc_code.or(code).map_or(0, |Number(code)| code)));
    }
    let Watched { canceled, compact_revision, events } = message.result.unwrap_or_default();
    let (is_canceled, has_events) = (canceled || compact_revision.is_some(), !events.is_empty());
    Ok(match (is_canceled, has_events) {
        (true, _) => Told::Ended,
        (false, true) => Told::Changed,
        (false, false) => Told::Nothing,
    })
}

fn decoded(text: &str) -> Result<Vec<u8>, BadAnswer> {
    STANDARD.decode(text).map_err(BadAnswer::Base64)
}

/// Bytes of a stream, given out line by line.
#[derive(Default)]
pub(crate) struct Lines {
    buffer: BytesMut,
}

/// 64 KiB: a message of a watch has the values that changed, but what they are is never read from it.
const LONGEST_LINE: usize = 64 * 1024;

impl Lines {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line.
    pub(crate) fn next(&mut self) -> Option<BytesMut> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
        Some(self.buffer.split_to(end + 1))
    }

    /// Whether a line is so long that it can only tell of a change.
    pub(crate) fn is_long(&self) -> bool {
        self.buffer.len() > LONGEST_LINE
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn store(key: &str) -> Store {
        let is_folder = key.ends_with('/');
        Store {
            is_tls: false,
            host: "e".to_owned(),
            port: 2379,
            key: key.to_owned(),
            is_folder,
            is_stale: false,
        }
    }

    #[test]
    fn the_questions_are_those_of_the_gateway() {
        let range: Value = serde_json::from_str(&range_question(&store("app/"))).unwrap();
        assert_eq!(
            (&range["key"], &range["range_end"]),
            (&"YXBwLw==".into(), &STANDARD.encode("app0").into())
        );
        let range: Value = serde_json::from_str(&range_question(&store("app//"))).unwrap();
        assert_eq!(range["range_end"], STANDARD.encode("app/0"));
        let watch: Value = serde_json::from_str(&watch_question(&store("app"), 12)).unwrap();
        assert_eq!(watch["create_request"], json!({ "key": "YXBw", "start_revision": "13" }));
    }

    #[test]
    fn a_range_has_the_content_at_its_revision() {
        let header = r#""header":{"cluster_id":"1","revision":"12"}"#;
        let none = format!("{{{header}}}");
        assert_eq!(read(&store("app"), none.as_bytes()).unwrap(), Range { revision: 12, content: None });
        let one =
            format!(r#"{{{header},"kvs":[{{"key":"YXBw","mod_revision":"3","value":"aGk="}}],"count":"1"}}"#);
        let content = read(&store("app"), one.as_bytes()).unwrap().content;
        assert_eq!(content, Some(Content::File("hi".into())));
        let folder = format!(
            r#"{{{header},"kvs":[{{"key":"YXBwLw=="}},{{"key":"YXBwL2E=","value":"aGk="}},{{"key":"YXBwL2I="}}]}}"#
        );
        let files = vec![("a".to_owned(), "hi".into()), ("b".to_owned(), Bytes::new())];
        let content = read(&store("app/"), folder.as_bytes()).unwrap().content;
        assert_eq!(content, Some(Content::Folder(Folder::new(files).unwrap())));
    }

    #[test]
    fn a_watch_tells_of_changes_of_its_end_and_of_refusals() {
        for (line, expected) in [
            (r#"{"result":{"header":{"revision":"1"},"created":true}}"#, Told::Nothing),
            (r#"{"result":{"header":{"revision":"2"}}}"#, Told::Nothing),
            (r#"{"result":{"events":[{"kv":{"key":"YQ=="}}]}}"#, Told::Changed),
            (r#"{"result":{"events":[{"type":"DELETE"}]}}"#, Told::Changed),
            (r#"{"result":{"canceled":true,"compact_revision":"5"}}"#, Told::Ended),
            ("\n", Told::Nothing),
        ] {
            assert_eq!(heard(line.as_bytes()).unwrap(), expected, "{line}");
        }
        let refused =
            br#"{"error":{"grpc_code":16,"http_code":401,"message":"etcdserver: invalid auth token"}}"#;
        assert!(matches!(heard(refused), Err(BadAnswer::Refused(16))));
    }

    #[test]
    fn lines_are_given_out_whole() {
        let mut lines = Lines::default();
        lines.add(b"{\"a\"");
        assert_eq!(lines.next(), None);
        lines.add(b":1}\n{}\n{");
        assert_eq!(
            [lines.next(), lines.next(), lines.next()],
            [Some(b"{\"a\":1}\n"[..].into()), Some(b"{}\n"[..].into()), None]
        );
        assert!(!lines.is_long());
        lines.add(&vec![b'x'; LONGEST_LINE]);
        assert!(lines.is_long());
    }

    /// It would take minutes if each line moved those behind it.
    #[test]
    fn many_lines_at_once_are_given_out_soon() {
        const MANY: usize = 4 << 20;
        let mut lines = Lines::default();
        lines.add(&vec![b'\n'; MANY]);
        assert_eq!(std::iter::from_fn(|| lines.next()).count(), MANY);
    }

    #[test]
    fn a_folder_that_etcd_has_cut_is_no_version() {
        let answer = br#"{"header":{"revision":"7"},"kvs":[{"key":"YS9i","value":"MQ=="}],"more":true,"count":"3000"}"#;
        assert!(matches!(read(&store("a/"), answer), Err(BadAnswer::Version(BadVersion::TooMany))));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_answer_makes_the_reader_panic(answer in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(read(&store("k"), &answer));
            drop(read(&store("k/"), &answer));
            drop(heard(&answer));
        }
    }
}
