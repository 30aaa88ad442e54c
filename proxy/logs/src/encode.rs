//! Writes records as each sink takes them.
//!
//! Pure. A record is written once, when it is read; what is sent again is the same bytes.

mod bson;
mod bulk;
mod loki;
mod otlp;
mod proto;
mod syslog;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use pillion_model::Workload;
use pillion_model::logs::{Destination, IndexName, SyslogOver};

use crate::record::{Origin, Record};

pub(crate) use bson::{
    Answer as MongodbAnswer, WriteError, answer as mongodb_answer, length as mongodb_length,
};
pub(crate) use bulk::{Item, items as bulk_items};
pub(crate) use otlp::rejected as otlp_rejected;

/// The most documents that MongoDB takes in one command.
const MOST_DOCUMENTS: usize = 100_000;
/// The most streams of Loki in one batch: labels come from lines, and each stream is an object of its own.
const MOST_STREAMS: usize = 64;

/// What a sink's form adds to the text of a record, as a rule, where that is written `TIMES` over: as the message with its quotes
/// escaped, and as the fields that were read out of it.
const FORM: usize = 4096;
const TIMES: usize = 3;

/// The bytes of records. Most sinks are sent them as they are, without a copy.
#[derive(Debug, Default, Clone)]
struct Written(Arc<Vec<u8>>);

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Records that are sent together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    written: Written,
    pub(crate) documents: Vec<Document>,
    /// The labels of Loki's streams.
    streams: Vec<String>,
}

/// One record of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Document {
    /// Where it ends in the bytes.
    end: usize,
    /// The place of its source in the configuration.
    pub(crate) source: usize,
    stream: usize,
}

/// Where a record stands: the id of its file, its first byte, and the bytes of its text. A record of several lines may be sent
/// again with more lines than before, and is another one then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) file: u128,
    pub(crate) offset: u64,
    pub(crate) length: usize,
}

impl fmt::Display for Id {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:032x}-{:x}-{:x}", self.file, self.offset, self.length)
    }
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.written.as_ref()
    }

    /// To be written to before the batch is sent.
    fn writing(&mut self) -> &mut Vec<u8> {
        Arc::make_mut(&mut self.written.0)
    }

    /// Makes room for a record of this text as a vector does, but not for twice the bytes that a batch may have.
    pub(crate) fn make_room(&mut self, text: &str, most: usize) {
        let bytes = self.writing();
        let needed = bytes.len() + TIMES * text.len() + FORM;
        if bytes.capacity() < needed {
            let ample = (2 * bytes.capacity()).min(most.saturating_add(FORM));
            bytes.reserve_exact(needed.max(ample) - bytes.len());
        }
    }

    fn document(&self, nth: usize) -> &[u8] {
        let begin =
            nth.checked_sub(1).and_then(|before| self.documents.get(before)).map_or(0, |before| before.end);
        let end = self.documents.get(nth).map_or(begin, |document| document.end);
        self.bytes().get(begin..end).unwrap_or_default()
    }

    fn each(&self) -> impl Iterator<Item = (&Document, &[u8])> {
        self.documents.iter().enumerate().map(|(nth, document)| (document, self.document(nth)))
    }

    fn end(&mut self, source: usize, stream: usize) {
        self.documents.push(Document { end: self.bytes().len(), source, stream });
    }

    /// A batch of some of these records.
    pub(crate) fn only(&self, is_kept: impl Fn(usize) -> bool) -> Self {
        let mut kept = Self { streams: self.streams.clone(), ..Self::default() };
        for (nth, (document, bytes)) in self.each().enumerate() {
            if is_kept(nth) {
                kept.writing().extend_from_slice(bytes);
                kept.end(document.source, document.stream);
            }
        }
        kept
    }

    /// Both halves of a batch, the second one first. `None`: it has a single record.
    pub(crate) fn halves(&self) -> Option<[Self; 2]> {
        let half = self.documents.len() / 2;
        (half > 0).then(|| [self.only(|nth| nth >= half), self.only(|nth| nth < half)])
    }

    #[cfg(test)]
    pub(crate) fn of_texts(texts: impl Iterator<Item = String>) -> Self {
        let mut batch = Self::default();
        for text in texts {
            batch.writing().extend_from_slice(text.as_bytes());
            batch.end(0, 0);
        }
        batch
    }

    /// The records as they are written, for sinks that take one by one.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.each().map(|(_, bytes)| bytes)
    }
}

/// How a sink's records are written.
#[derive(Debug, Clone)]
pub(crate) enum Encoder {
    Bulk { index: IndexName },
    Lines,
    Loki { labels: Vec<String> },
    Otlp,
    Syslog { host: String, is_counted: bool },
    Bson { database: String, collection: String },
}

impl Encoder {
    pub(crate) fn new(to: &Destination, host: &str) -> Self {
        match to {
            Destination::Elasticsearch { index, .. } => Self::Bulk { index: index.clone() },
            Destination::Loki { labels, .. } => Self::Loki { labels: labels.clone() },
            Destination::Otlp { .. } => Self::Otlp,
            Destination::Syslog { url } => {
                Self::Syslog { host: host.to_owned(), is_counted: url.over != SyslogOver::Udp }
            }
            Destination::Mongodb { database, collection, .. } => {
                Self::Bson { database: database.clone(), collection: collection.clone() }
            }
            Destination::Http { .. } => Self::Lines,
        }
    }

    /// Whether a batch has no room for further records.
    pub(crate) fn is_full(&self, batch: &Batch) -> bool {
        let has_documents = matches!(self, Self::Bson { .. }) && batch.documents.len() >= MOST_DOCUMENTS;
        batch.streams.len() >= MOST_STREAMS || has_documents
    }

    /// Adds a record.
    pub(crate) fn add(&self, record: &Record<'_>, origin: &Origin, id: Id, batch: &mut Batch) {
        let mut stream = 0;
        match self {
            Self::Bulk { index } => bulk::write(record, origin, index, id, batch.writing()),
            Self::Lines => {
                record.write_json(origin, batch.writing());
                batch.writing().push(b'\n');
            }
            Self::Loki { labels } => {
                stream = loki::stream(&loki::labels(record, origin, labels), &mut batch.streams);
                loki::write(record, batch.writing());
            }
            Self::Otlp => otlp::write(record, origin, batch.writing()),
            Self::Syslog { host, is_counted } => {
                syslog::write(record, origin, host, *is_counted, batch.writing())
            }
            Self::Bson { .. } => bson::write(record, origin, id, batch.writing()),
        }
        batch.end(origin.source, stream);
    }

    /// What is sent for a whole batch.
    pub(crate) fn body(&self, batch: &Batch, workload: &Workload) -> Bytes {
        match self {
            Self::Loki { .. } => loki::body(batch).into(),
            Self::Otlp => otlp::body(batch, workload).into(),
            Self::Bson { database, collection } => bson::insert(batch, database, collection).into(),
            Self::Bulk { .. } | Self::Lines | Self::Syslog { .. } => Bytes::from_owner(batch.written.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use pillion_model::logs::LineFormat;
    use proptest::prelude::*;

    use super::*;
    use crate::record::parse;
    use crate::record::tests::{origin, text};

    /// A batch of lines.
    pub(super) fn batch(encoder: &Encoder, lines: &[&str]) -> Batch {
        let (origin, mut batch) = (origin(), Batch::default());
        for (nth, line) in lines.iter().enumerate() {
            let text = text(line);
            let record = parse(&text, line, LineFormat::Auto, &origin, 1_764_351_601_000_000_000);
            encoder.add(
                &record,
                &origin,
                Id { file: 7, offset: nth as u64 * 16, length: line.len() },
                &mut batch,
            );
        }
        batch
    }

    #[test]
    fn a_part_of_a_batch_has_its_own_records() {
        let batch = batch(&Encoder::Lines, &["a", "b", "c"]);
        let part = batch.only(|nth| nth != 1);
        let messages: Vec<String> = part
            .texts()
            .map(|line| {
                serde_json::from_slice::<serde_json::Value>(line).unwrap()["message"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(messages, ["a", "c"]);
        assert_eq!(
            Encoder::Lines.body(&part, &Workload::default()).iter().filter(|byte| **byte == b'\n').count(),
            2
        );
    }

    #[test]
    fn a_batch_is_divided_until_it_has_one_record() {
        let (mut waiting, mut singles) =
            (vec![Batch::of_texts((0..5).map(|nth| nth.to_string()))], Vec::new());
        while let Some(batch) = waiting.pop() {
            match batch.halves() {
                Some(halves) => waiting.extend(halves),
                None => singles.push(batch.bytes().to_vec()),
            }
        }
        assert_eq!(singles, [b"0", b"1", b"2", b"3", b"4"]);
        assert!(Batch::default().halves().is_none());
    }

    #[test]
    fn a_full_batch_has_no_room_for_another_one_and_is_sent_without_a_copy() {
        let (most, mut batch) = (1 << 20, Batch::default());
        let mut add = |line: &str| {
            batch.make_room(line, most);
            let (origin, text, id) = (origin(), text(line), Id { file: 7, offset: 0, length: line.len() });
            Encoder::Lines.add(&parse(&text, line, LineFormat::Auto, &origin, 0), &origin, id, &mut batch);
            (batch.bytes().len(), batch.writing().capacity())
        };
        let long = format!(r#"{{"a":"{}"}}"#, r#"\""#.repeat(4096)); // it has no message
        while add("a line").0 < most - 1024 {}
        for line in ["a line", &*long] {
            let capacity = add(line).1;
            assert!(capacity <= most + TIMES * line.len() + FORM, "{capacity}");
        }
        assert_eq!(Encoder::Lines.body(&batch, &Workload::default()).as_ptr(), batch.bytes().as_ptr());
    }

    #[test]
    fn a_batch_of_mongodb_has_no_more_documents_than_one_command() {
        let bson = Encoder::Bson { database: "logs".to_owned(), collection: "app".to_owned() };
        let mut batch = Batch::default();
        (1..MOST_DOCUMENTS).for_each(|_| batch.end(0, 0));
        assert!(!bson.is_full(&batch));
        batch.end(0, 0);
        assert!(bson.is_full(&batch) && !Encoder::Lines.is_full(&batch));
    }

    fn encoders() -> Vec<Encoder> {
        vec![
            Encoder::Bulk { index: IndexName::new("app-%Y.%m.%d.%H").unwrap() },
            Encoder::Lines,
            Encoder::Loki { labels: vec!["level".to_owned()] },
            Encoder::Otlp,
            Encoder::Syslog { host: "pod".to_owned(), is_counted: true },
            Encoder::Syslog { host: "pod".to_owned(), is_counted: false },
            Encoder::Bson { database: "logs".to_owned(), collection: "app".to_owned() },
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_line_is_a_record_of_every_sink(
            line in prop_oneof![any::<String>(), r#"\{("[a-z@]{1,4}":("[a-z\\nu0]{0,6}"|[0-9.e-]{1,20}|\[\{\}\]),?){0,5}\}"#, r#"([a-z]{1,5}=("[^"]{0,5}"|[^ "]{0,5}) ){0,4}"#],
            format in prop::sample::select(vec![LineFormat::Auto, LineFormat::Text, LineFormat::Logfmt, LineFormat::Cri]),
            time in any::<i64>(),
        ) {
            let content = Cow::Borrowed(line.as_bytes());
            let text = crate::group::Text { begin: 0, content, time: None, stream: None, is_cut: true };
            let origin = origin();
            for encoder in encoders() {
                let mut batch = Batch::default();
                let record = parse(&text, &line, format, &origin, time);
                encoder.add(&record, &origin, Id { file: u128::MAX, offset: u64::MAX, length: usize::MAX }, &mut batch);
                let body = encoder.body(&batch, &Workload::default());
                if matches!(encoder, Encoder::Lines | Encoder::Loki { .. }) {
                    let read = serde_json::from_slice::<serde_json::Value>(&body);
                    prop_assert!(read.is_ok(), "{read:?} {}", String::from_utf8_lossy(&body));
                }
            }
        }
    }
}
