//! A record: what a line says, and where it comes from.
//!
//! Pure. [`parse`] finds time, level, message and fields in a text; [`Record::write_json`] writes the record that sinks get.

use std::borrow::Cow;

use pillion_model::Workload;
use pillion_model::logs::{LineFormat, Source};

use crate::group::Text;
use crate::json::{self, Member};
use crate::{level, logfmt, moment};

/// The names under which applications write these, the usual ones first.
const TIMES: [&str; 4] = ["@timestamp", "time", "timestamp", "ts"];
const LEVELS: [&str; 5] = ["level", "severity", "lvl", "loglevel", "log.level"];
const MESSAGES: [&str; 3] = ["message", "msg", "log"];
/// The fields that a record has by itself. A line's own field of such a name gets [`OF_LINE`] before it.
const OWN: [&str; 9] =
    ["@timestamp", "message", "level", "source", "file", "workload", "namespace", "stream", "truncated"];
const OF_LINE: &str = "line_";
/// The fields in which Elasticsearch and MongoDB keep what is theirs: they refuse documents that bring them.
const OF_SINK: [&str; 14] = [
    "_id",
    "_index",
    "_source",
    "_type",
    "_routing",
    "_ignored",
    "_field_names",
    "_size",
    "_doc_count",
    "_tier",
    "_seq_no",
    "_version",
    "_nested_path",
    "_feature",
];
/// The most fields that are taken from one line. Elasticsearch takes a thousand in a whole index by default. A record that lacks
/// some is marked as cut.
const MOST_FIELDS: usize = 256;

/// A value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value<'t> {
    /// As JSON writes it.
    Json(&'t str),
    Text(Cow<'t, str>),
}

impl<'t> Value<'t> {
    /// The text of a string, or the JSON of another value.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Json(value) => json::string(value).unwrap_or(Cow::Borrowed(value)),
            Self::Text(text) => Cow::Borrowed(text),
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Json(value) => to.extend_from_slice(value.as_bytes()),
            Self::Text(text) => json::write_string(text, to),
        }
    }
}

/// A field of a line. The key has JSON's escapes.
pub(crate) type Field<'t> = (Cow<'t, str>, Value<'t>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record<'t> {
    /// In nanoseconds since 1970.
    pub(crate) time: i64,
    pub(crate) message: Value<'t>,
    pub(crate) level: Option<Cow<'t, str>>,
    pub(crate) fields: Vec<Field<'t>>,
    pub(crate) stream: Option<&'static str>,
    pub(crate) is_cut: bool,
    /// The text itself.
    pub(crate) line: &'t str,
}

/// What all records of a file have.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The place of the source in the configuration.
    pub(crate) source: usize,
    /// `source`, `file`, `workload`, `namespace` and the operator's fields, by name.
    pub(crate) fields: Vec<(String, String)>,
    /// The same as JSON, with a comma before each.
    json: Vec<u8>,
}

impl Origin {
    pub(crate) fn new((place, source): (usize, &Source), file: &str, workload: &Workload) -> Self {
        let mut fields =
            vec![("source".to_owned(), source.name.clone()), ("file".to_owned(), file.to_owned())];
        let named = [("workload", &workload.name), ("namespace", &workload.namespace)];
        let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        fields.extend(named);
        fields.extend(source.fields.iter().cloned());
        let mut json = Vec::new();
        for (name, value) in &fields {
            json.push(b',');
            json::write_string(name, &mut json);
            json.push(b':');
            json::write_string(value, &mut json);
        }
        Self { source: place, fields, json }
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a record has a field of this name that the line does not give.
    fn has(&self, name: &str) -> bool {
        OWN.contains(&name)
            || OF_SINK.contains(&name)
            || self.fields.iter().skip(2).any(|(known, _)| known == name)
    }
}

/// Makes a record of a text. `now`: its time, if neither it nor the container's runtime has one.
pub(crate) fn parse<'t>(
    text: &'t Text<'_>,
    line: &'t str,
    format: LineFormat,
    origin: &Origin,
    now: i64,
) -> Record<'t> {
    let (time, stream) = (text.time.unwrap_or(now), text.stream.map(crate::cri::Stream::as_str));
    let mut record = Record {
        time,
        message: Value::Text(Cow::Borrowed(line)),
        level: None,
        fields: Vec::new(),
        stream,
        is_cut: text.is_cut,
        line,
    };
    let is_found = match format {
        LineFormat::Text => false,
        LineFormat::Logfmt => of_logfmt(&mut record, line, origin),
        LineFormat::Auto | LineFormat::Json | LineFormat::Cri => of_json(&mut record, line, origin),
    };
    if !is_found {
        of_text(&mut record, line, text.time.is_none());
    }
    record
}

fn of_text(record: &mut Record<'_>, line: &str, needs_time: bool) {
    let begins = line.trim_start_matches(['[', ' ']);
    if let Some((time, _)) = moment::leading(begins).filter(|_| needs_time) {
        record.time = time;
    }
    record.level = level::of_line(line).map(Cow::Borrowed);
}

fn of_json<'t>(record: &mut Record<'t>, line: &'t str, origin: &Origin) -> bool {
    if !line.starts_with('{') {
        return false;
    }
    let mut members = Vec::with_capacity(16);
    if !json::members(line, &mut members) {
        return false;
    }
    let fields = members.into_iter().map(|Member { key, value }| (key, Value::Json(value)));
    take(fields.collect(), record, origin);
    true
}

fn of_logfmt<'t>(record: &mut Record<'t>, line: &'t str, origin: &Origin) -> bool {
    let Some(fields) = logfmt::fields(line) else { return false };
    // a key of logfmt may have characters that JSON escapes
    let is_sound = |key: &str| key.bytes().all(|byte| byte > b' ' && byte != b'\\');
    let fields = fields.into_iter().filter(|(key, _)| is_sound(key)).map(|(key, value)| (key, typed(value)));
    take(fields.collect(), record, origin);
    true
}

/// Makes the record's own of the fields that mean them, and keeps the others.
fn take<'t>(fields: Vec<(&'t str, Value<'t>)>, record: &mut Record<'t>, origin: &Origin) {
    let taken = Taken::of(&fields, record);
    record.is_cut |= fields.len() > MOST_FIELDS;
    record.fields.reserve(fields.len().min(MOST_FIELDS));
    for (key, value) in fields.into_iter().take(MOST_FIELDS).filter(|(key, _)| !taken.has(key)) {
        let key = renamed(key, origin);
        match record.fields.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value, // sinks refuse documents that have a name twice; the last one counts
            None => record.fields.push((key, value)),
        }
    }
}

/// Numbers and truth values stay such.
fn typed(value: Cow<'_, str>) -> Value<'_> {
    match value {
        Cow::Borrowed(text) if json::is_number(text) || matches!(text, "true" | "false") => Value::Json(text),
        text => Value::Text(text),
    }
}

fn renamed<'t>(key: &'t str, origin: &Origin) -> Cow<'t, str> {
    let is_taken = if key.contains('\\') { origin.has(&json::unescaped(key)) } else { origin.has(key) };
    if is_taken { Cow::Owned(format!("{OF_LINE}{key}")) } else { Cow::Borrowed(key) }
}

/// Which fields of a line have become the record's own.
#[derive(Default)]
struct Taken<'t>([Option<&'t str>; 3]);

impl<'t> Taken<'t> {
    fn of(fields: &[(&'t str, Value<'t>)], record: &mut Record<'t>) -> Self {
        let mut taken = Self::default();
        for name in TIMES {
            let found = find(fields, name).and_then(|(key, value)| Some((key, time(value)?)));
            if let Some((key, time)) = found {
                (record.time, taken.0[0]) = (time, Some(key));
                break;
            }
        }
        for name in LEVELS {
            let found =
                find(fields, name).and_then(|(key, value)| Some((key, level::of_field(&value.text())?)));
            if let Some((key, level)) = found {
                (record.level, taken.0[1]) = (Some(level), Some(key));
                break;
            }
        }
        for name in MESSAGES {
            let is_text = |value: &Value<'_>| match value {
                Value::Json(value) => value.starts_with('"'),
                Value::Text(_) => true,
            };
            if let Some((key, value)) = find(fields, name).filter(|(_, value)| is_text(value)) {
                (record.message, taken.0[2]) = (value.clone(), Some(key));
                break;
            }
        }
        taken
    }

    fn has(&self, key: &str) -> bool {
        self.0.contains(&Some(key))
    }
}

/// The last field of this name.
fn find<'f, 't>(fields: &'f [(&'t str, Value<'t>)], name: &str) -> Option<(&'t str, &'f Value<'t>)> {
    fields.iter().rev().find(|(key, _)| *key == name).map(|(key, value)| (*key, value))
}

fn time(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Json(number) if !number.starts_with('"') => moment::epoch(number),
        text => moment::whole(&text.text()),
    }
}

impl Record<'_> {
    /// Writes one JSON object in one line, without a line feed at its end.
    pub(crate) fn write_json(&self, origin: &Origin, to: &mut Vec<u8>) {
        let begin = to.len();
        to.extend_from_slice(b"{\"@timestamp\":\"");
        moment::write(self.time, to);
        to.extend_from_slice(b"\",\"message\":");
        self.message.write(to);
        if let Some(level) = &self.level {
            to.extend_from_slice(b",\"level\":");
            json::write_string(level, to);
        }
        to.extend_from_slice(&origin.json);
        if let Some(stream) = self.stream {
            to.extend_from_slice(b",\"stream\":\"");
            to.extend_from_slice(stream.as_bytes());
            to.push(b'"');
        }
        if self.is_cut {
            to.extend_from_slice(b",\"truncated\":true");
        }
        for (key, value) in &self.fields {
            to.extend_from_slice(b",\"");
            to.extend_from_slice(key.as_bytes());
            to.extend_from_slice(b"\":");
            value.write(to);
        }
        to.push(b'}');
        if self.line.contains('\n') {
            // within a value of several lines a line feed is white space, as strings have it escaped; sinks take a record as a line
            to.iter_mut().skip(begin).filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn source() -> Source {
        Source { fields: vec![("team".to_owned(), "shop".to_owned())], ..Source::new("app") }
    }

    pub(crate) fn origin() -> Origin {
        let workload = Workload { name: Some("web".to_owned()), namespace: None, zone: None };
        Origin::new((0, &source()), "/var/log/app/a.log", &workload)
    }

    pub(crate) fn text(line: &str) -> Text<'_> {
        Text { begin: 0, content: Cow::Borrowed(line.as_bytes()), time: None, stream: None, is_cut: false }
    }

    fn written(line: &str, format: LineFormat) -> serde_json::Value {
        let (text, origin, mut to) = (text(line), origin(), Vec::new());
        parse(&text, line, format, &origin, 0).write_json(&origin, &mut to);
        let mut record: serde_json::Value = serde_json::from_slice(&to).expect("JSON");
        let object = record.as_object_mut().unwrap();
        for (name, value) in
            [("source", "app"), ("file", "/var/log/app/a.log"), ("workload", "web"), ("team", "shop")]
        {
            assert_eq!(object.remove(name), Some(json!(value)), "{name}");
        }
        record
    }

    #[test]
    fn a_text_has_its_time_and_its_level() {
        assert_eq!(
            written("2026-11-28 17:40:01,5 WARN slow", LineFormat::Auto),
            json!({ "@timestamp": "2026-11-28T17:40:01.500Z", "message": "2026-11-28 17:40:01,5 WARN slow", "level": "warn" })
        );
        assert_eq!(
            written("hello \"you\"", LineFormat::Auto),
            json!({ "@timestamp": "1970-01-01T00:00:00.000Z", "message": "hello \"you\"" })
        );
    }

    #[test]
    fn a_json_line_gives_its_fields_beside_the_records_own() {
        let line = r#"{"time":"2026-11-28T17:40:01Z","severity":"ERROR","msg":"no \n","n":1.10,"source":"x.c","team":"own","o":{"a":[1]}}"#;
        assert_eq!(
            written(line, LineFormat::Auto),
            json!({
                "@timestamp": "2026-11-28T17:40:01.000Z", "message": "no \n", "level": "error",
                "n": 1.10, "line_source": "x.c", "line_team": "own", "o": { "a": [1] },
            })
        );
        let line = r#"{"ts":1764351601.5,"level":30,"n":1}"#;
        assert_eq!(
            written(line, LineFormat::Json),
            json!({ "@timestamp": "2025-11-28T17:40:01.500Z", "message": line, "level": "info", "n": 1 })
        );
    }

    #[test]
    fn the_last_of_equal_names_counts_and_names_of_sinks_get_a_prefix() {
        let record = written(r#"{"msg":"a","n":1,"msg":"b","_id":"x","n":2,"_source":{}}"#, LineFormat::Auto);
        assert_eq!(
            record,
            json!({ "@timestamp": "1970-01-01T00:00:00.000Z", "message": "b", "n": 2, "line__id": "x", "line__source": {} })
        );
        let mut to = Vec::new();
        let line = r#"{"n":1,"n":2}"#;
        let (text, origin) = (text(line), origin());
        parse(&text, line, LineFormat::Auto, &origin, 0).write_json(&origin, &mut to);
        assert_eq!(String::from_utf8(to).unwrap().matches("\"n\":").count(), 1);
    }

    #[test]
    fn an_object_that_the_application_wrote_in_several_lines_is_one_line() {
        let line = "{\n  \"msg\": \"a\",\n  \"o\": {\n    \"n\": [1,\n2]\n  }\n}";
        assert_eq!(written(line, LineFormat::Auto)["o"], json!({ "n": [1, 2] }));
        let (text, origin, mut to) = (text(line), origin(), Vec::from(*b"before\n"));
        parse(&text, line, LineFormat::Auto, &origin, 0).write_json(&origin, &mut to);
        assert!(to.starts_with(b"before\n{") && !to[7..].contains(&b'\n'));
    }

    #[test]
    fn a_record_that_lacks_fields_of_its_line_is_marked() {
        let line = |count| {
            format!("{{{}}}", (0..count).map(|nth| format!("\"f{nth}\":1")).collect::<Vec<_>>().join(","))
        };
        let record = |count| written(&line(count), LineFormat::Auto);
        assert_eq!(record(MOST_FIELDS).get("truncated"), None);
        let cut = record(MOST_FIELDS + 1);
        assert_eq!((cut.get("truncated"), cut.get("f256")), (Some(&json!(true)), None));
    }

    #[test]
    fn what_is_no_json_is_a_text_in_every_format() {
        for line in ["{not json}", "[1]", "{\"a\":1} x"] {
            assert_eq!(written(line, LineFormat::Json)["message"], line);
        }
        assert_eq!(written("{\"msg\":\"a\"}", LineFormat::Text)["message"], "{\"msg\":\"a\"}");
    }

    #[test]
    fn a_field_that_is_no_time_stays_a_field() {
        let record = written(r#"{"time":"soon","message":"a"}"#, LineFormat::Auto);
        assert_eq!((&record["time"], &record["message"]), (&json!("soon"), &json!("a")));
    }

    #[test]
    fn logfmt_gives_numbers_and_texts() {
        assert_eq!(
            written(
                "time=2026-11-28T17:40:01Z level=warn msg=\"a b\" n=7 ok=true v=1.2.3 file=x",
                LineFormat::Logfmt
            ),
            json!({
                "@timestamp": "2026-11-28T17:40:01.000Z", "message": "a b", "level": "warn", "n": 7, "ok": true, "v": "1.2.3",
                "line_file": "x",
            })
        );
        assert_eq!(written("plain words", LineFormat::Logfmt)["message"], "plain words");
    }
}
