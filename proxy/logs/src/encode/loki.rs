//! Loki's push in JSON: streams by their labels, and the lines of each with their times.
//!
//! A line goes as the application wrote it, so that Loki's own parsers of JSON and logfmt read it.

use super::Batch;
use crate::json;
use crate::record::{Origin, Record};

/// The labels of a record, as JSON. A label without a value is left out; Loki refuses a stream without any, so that the
/// source stands for all.
pub(super) fn labels(record: &Record<'_>, origin: &Origin, wanted: &[String]) -> String {
    let mut labels = Vec::from(*b"{");
    let mut add = |name: &str, value: &str| {
        if labels.len() > 1 {
            labels.push(b',');
        }
        json::write_string(name, &mut labels);
        labels.push(b':');
        json::write_string(value, &mut labels);
    };
    let mut has_any = false;
    for name in wanted {
        let value = match name.as_str() {
            "level" => record.level.as_deref(),
            "stream" => record.stream,
            name => origin.field(name),
        };
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            add(name, value);
            has_any = true;
        }
    }
    if !has_any {
        add("source", origin.field("source").unwrap_or_default());
    }
    labels.push(b'}');
    String::from_utf8(labels).unwrap_or_default()
}

/// The place of a stream among those of a batch.
pub(super) fn stream(labels: &str, streams: &mut Vec<String>) -> usize {
    match streams.iter().position(|known| known == labels) {
        Some(place) => place,
        None => {
            streams.push(labels.to_owned());
            streams.len() - 1
        }
    }
}

pub(super) fn write(record: &Record<'_>, to: &mut Vec<u8>) {
    to.extend_from_slice(format!("[\"{}\",", record.time.max(0)).as_bytes());
    json::write_string(record.line, to);
    to.push(b']');
}

pub(super) fn body(batch: &Batch) -> Vec<u8> {
    let mut body = Vec::with_capacity(batch.bytes().len() + batch.documents.len() + 64);
    body.extend_from_slice(b"{\"streams\":[");
    let mut is_first = true;
    for (place, labels) in batch.streams.iter().enumerate() {
        let mut values = batch.each().filter(|(document, _)| document.stream == place).peekable();
        if values.peek().is_none() {
            continue;
        }
        body.extend_from_slice(if is_first { b"{\"stream\":" } else { b",{\"stream\":" });
        is_first = false;
        body.extend_from_slice(labels.as_bytes());
        body.extend_from_slice(b",\"values\":[");
        for (nth, (_, value)) in values.enumerate() {
            if nth > 0 {
                body.push(b',');
            }
            body.extend_from_slice(value);
        }
        body.extend_from_slice(b"]}");
    }
    body.extend_from_slice(b"]}");
    body
}

#[cfg(test)]
mod tests {
    use pillion_model::Workload;
    use serde_json::{Value, json};

    use super::super::Encoder;
    use super::super::tests::batch;

    #[test]
    fn lines_stand_in_streams_by_their_labels_in_their_order() {
        let encoder =
            Encoder::Loki { labels: ["workload", "level", "namespace"].map(str::to_owned).to_vec() };
        let batch =
            batch(&encoder, &["INFO a", "ERROR b", "INFO \"c\"", "{\"level\":\"info\",\"msg\":\"d\"}"]);
        let body: Value = serde_json::from_slice(&encoder.body(&batch, &Workload::default())).unwrap();
        let time = "1764351601000000000";
        assert_eq!(
            body,
            json!({ "streams": [
                { "stream": { "workload": "web", "level": "info" },
                  "values": [[time, "INFO a"], [time, "INFO \"c\""], [time, "{\"level\":\"info\",\"msg\":\"d\"}"]] },
                { "stream": { "workload": "web", "level": "error" }, "values": [[time, "ERROR b"]] },
            ]})
        );
        let part: Value =
            serde_json::from_slice(&encoder.body(&batch.only(|nth| nth == 1), &Workload::default())).unwrap();
        assert_eq!(part["streams"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_stream_has_a_label_in_any_case() {
        let encoder = Encoder::Loki { labels: vec!["namespace".to_owned()] };
        let batch = batch(&encoder, &["a"]);
        let body: Value = serde_json::from_slice(&encoder.body(&batch, &Workload::default())).unwrap();
        assert_eq!(body["streams"][0]["stream"], json!({ "source": "app" }));
    }
}
