//! OpenTelemetry's logs (`opentelemetry.proto.collector.logs.v1`) as protobuf.

use pillion_model::Workload;

use super::Batch;
use super::proto::{self, Field, bytes, fixed, message, number};
use crate::level;
use crate::record::{Origin, Record, Value};

/// Writes a `LogRecord`, as a field of the message around it.
pub(super) fn write(record: &Record<'_>, origin: &Origin, to: &mut Vec<u8>) {
    const LOG_RECORDS: u32 = 2;
    let time = u64::try_from(record.time).unwrap_or(0);
    message(LOG_RECORDS, to, |to| {
        fixed(1, time, to);
        if let Some(severity) = level::opentelemetry(record.level.as_deref()) {
            number(2, severity.into(), to);
        }
        if let Some(level) = &record.level {
            bytes(3, level.as_bytes(), to);
        }
        message(5, to, |to| bytes(1, record.message.text().as_bytes(), to));
        for (name, value) in &origin.fields {
            match name.as_str() {
                "workload" | "namespace" => {} // of the resource
                "file" => text("log.file.path", value, to),
                name => text(name, value, to),
            }
        }
        if let Some(stream) = record.stream {
            text("log.iostream", stream, to);
        }
        if record.is_cut {
            attribute("truncated", to, |to| number(2, 1, to));
        }
        for (key, value) in &record.fields {
            attribute(&crate::json::unescaped(key), to, |to| any_value(value, to));
        }
    });
}

fn text(name: &str, value: &str, to: &mut Vec<u8>) {
    attribute(name, to, |to| bytes(1, value.as_bytes(), to));
}

fn attribute(name: &str, to: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    message(6, to, |to| {
        bytes(1, name.as_bytes(), to);
        message(2, to, value);
    });
}

/// Numbers and truth values stay such; arrays and objects become their JSON.
fn any_value(value: &Value<'_>, to: &mut Vec<u8>) {
    match value {
        Value::Json("true") => number(2, 1, to),
        Value::Json("false") => number(2, 0, to),
        Value::Json("null") => {}
        Value::Json(json) => match (json.parse::<i64>(), json.parse::<f64>()) {
            #[allow(
                clippy::cast_sign_loss,
                reason = "the wire has a negative number as its two's complement"
            )]
            (Ok(integer), _) => number(3, integer as u64, to),
            (_, Ok(double)) if double.is_finite() => fixed(4, double.to_bits(), to),
            _ => bytes(1, value.text().as_bytes(), to),
        },
        Value::Text(text) => bytes(1, text.as_bytes(), to),
    }
}

/// An `ExportLogsServiceRequest`.
pub(super) fn body(batch: &Batch, workload: &Workload) -> Vec<u8> {
    let mut body = Vec::with_capacity(batch.bytes().len() + 256);
    message(1, &mut body, |to| {
        message(1, to, |to| {
            let named = [("service.name", &workload.name), ("service.namespace", &workload.namespace)];
            for (name, value) in named.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
                message(1, to, |to| {
                    bytes(1, name.as_bytes(), to);
                    message(2, to, |to| bytes(1, value.as_bytes(), to));
                });
            }
        });
        message(2, to, |to| {
            message(1, to, |to| bytes(1, b"pillion", to));
            to.extend_from_slice(batch.bytes());
        });
    });
    body
}

/// How many records an answer refuses, and why (`ExportLogsPartialSuccess`). An answer that cannot be read refuses none.
pub(crate) fn rejected(mut answer: &[u8]) -> (u64, String) {
    let mut of = (0, String::new());
    while let Some((field, value)) = proto::next(&mut answer) {
        let (1, Field::Bytes(mut partial)) = (field, value) else { continue };
        while let Some((field, value)) = proto::next(&mut partial) {
            match (field, value) {
                (1, Field::Number(count)) => of.0 = i64::try_from(count).map_or(0, i64::unsigned_abs),
                (2, Field::Bytes(why)) => of.1 = String::from_utf8_lossy(why).into_owned(),
                _ => {}
            }
        }
    }
    of
}

#[cfg(test)]
mod tests {
    use super::super::Encoder;
    use super::super::tests::batch;
    use super::*;

    /// All fields of a message, one within the other: numbers of fields, and texts.
    fn walk(mut message: &[u8], depth: usize, seen: &mut Vec<String>) -> bool {
        while !message.is_empty() {
            let Some((field, value)) = proto::next(&mut message) else { return false };
            match value {
                Field::Number(number) => seen.push(format!("{depth}.{field}={number}")),
                Field::Other => seen.push(format!("{depth}.{field}")),
                Field::Bytes(inner) => {
                    let mut deeper = Vec::new();
                    match std::str::from_utf8(inner) {
                        Ok(text) if !text.is_empty() && text.chars().all(|c| !c.is_control()) => {
                            seen.push(format!("{depth}.{field}={text}"))
                        }
                        _ if walk(inner, depth + 1, &mut deeper) => seen.append(&mut deeper),
                        _ => seen.push(format!("{depth}.{field}=?")),
                    }
                }
            }
        }
        true
    }

    #[test]
    fn a_record_has_its_severity_its_text_and_its_fields() {
        let batch =
            batch(&Encoder::Otlp, &[r#"{"level":"warn","msg":"slow","n":-1,"x":1.5,"ok":true,"o":{"a":1}}"#]);
        let workload = Workload { name: Some("web".to_owned()), ..Workload::default() };
        let mut seen = Vec::new();
        assert!(walk(&Encoder::Otlp.body(&batch, &workload), 0, &mut seen));
        let all = seen.join(" ");
        for expected in [
            "=service.name",
            "=web",
            "=pillion",
            "3.2=13",
            "3.3=warn",
            "=slow",
            "=log.file.path",
            "=n",
            "=18446744073709551615",
            "={\"a\":1}",
            "=team",
        ] {
            assert!(all.contains(expected), "{expected} in {all}");
        }
    }

    #[test]
    fn an_answer_may_refuse_some_records() {
        let mut answer = Vec::new();
        message(1, &mut answer, |to| {
            number(1, 3, to);
            bytes(2, b"too old", to);
        });
        assert_eq!(rejected(&answer), (3, "too old".to_owned()));
        assert_eq!((rejected(b"").0, rejected(b"<html>").0, rejected(&[10, 200]).0), (0, 0, 0));
    }
}
