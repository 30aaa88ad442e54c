//! Messages of syslog (RFC 5424), over TCP and TLS with their length before each (RFC 6587, RFC 5425).

use std::borrow::Cow;

use crate::level;
use crate::moment;
use crate::record::{Origin, Record};

/// 8 KiB: what receivers take over UDP by default, rsyslog among them.
const LONGEST_DATAGRAM: usize = 8 * 1024;
/// The facility of user-level messages.
const USER: u8 = 1;
/// The number of the element with the fields: the one that is reserved for documents (RFC 5612), because Pillion has none.
const ELEMENT: &str = "pillion@32473";

pub(super) fn write(record: &Record<'_>, origin: &Origin, host: &str, is_counted: bool, to: &mut Vec<u8>) {
    let mut message = Vec::with_capacity(record.line.len() + 256);
    head(record, origin, host, &mut message);
    message.extend_from_slice(record.message.text().as_bytes());
    if is_counted {
        to.extend_from_slice(format!("{} ", message.len()).as_bytes());
    } else {
        cut(&mut message);
    }
    to.extend_from_slice(&message);
}

/// Cuts a datagram, and not within a character.
fn cut(message: &mut Vec<u8>) {
    if message.len() > LONGEST_DATAGRAM {
        let mut end = LONGEST_DATAGRAM;
        while message.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
            end -= 1;
        }
        message.truncate(end);
    }
}

fn head(record: &Record<'_>, origin: &Origin, host: &str, to: &mut Vec<u8>) {
    let priority = USER * 8 + level::syslog(record.level.as_deref());
    to.extend_from_slice(format!("<{priority}>1 ").as_bytes());
    moment::write(record.time.saturating_sub(record.time.rem_euclid(1000)), to); // at most six digits of the second
    let application = origin.field("workload").or_else(|| origin.field("source")).unwrap_or_default();
    to.push(b' ');
    to.extend_from_slice(name(host, 255).as_bytes());
    to.push(b' ');
    to.extend_from_slice(name(application, 48).as_bytes());
    to.extend_from_slice(format!(" - - [{ELEMENT}").as_bytes());
    for (key, value) in &origin.fields {
        element(key, value, to);
    }
    for (key, value) in &record.fields {
        element(&crate::json::unescaped(key), &value.text(), to);
    }
    to.extend_from_slice(b"] ");
}

/// A name as heads have it: visible ASCII.
fn name(text: &str, longest: usize) -> Cow<'_, str> {
    let is_taken = |byte: u8| byte.is_ascii_graphic();
    match text {
        "" => Cow::Borrowed("-"),
        text if text.len() <= longest && text.bytes().all(is_taken) => Cow::Borrowed(text),
        text => Cow::Owned(
            text.chars().take(longest).map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect(),
        ),
    }
}

fn element(key: &str, value: &str, to: &mut Vec<u8>) {
    to.push(b' ');
    let key = key.chars().take(32).map(|c| if c.is_ascii_graphic() && !"=]\"".contains(c) { c } else { '_' });
    to.extend_from_slice(key.collect::<String>().as_bytes());
    to.extend_from_slice(b"=\"");
    for byte in value.bytes() {
        if matches!(byte, b'"' | b'\\' | b']') {
            to.push(b'\\');
        }
        to.push(byte);
    }
    to.push(b'"');
}

#[cfg(test)]
mod tests {
    use pillion_model::Workload;

    use super::super::Encoder;
    use super::super::tests::batch;
    use super::*;

    #[test]
    fn a_message_has_its_length_its_priority_and_its_fields() {
        let encoder = Encoder::Syslog { host: "pod one".to_owned(), is_counted: true };
        let batch = batch(&encoder, &[r#"{"level":"error","msg":"no ]","q":"\"x]"}"#, "plain"]);
        let body = String::from_utf8(encoder.body(&batch, &Workload::default()).to_vec()).unwrap();
        let first = "<11>1 2025-11-28T17:40:01.000Z pod_one web - - [pillion@32473 source=\"app\" file=\"/var/log/app/a.log\" workload=\"web\" team=\"shop\" q=\"\\\"x\\]\"] no ]";
        let (length, rest) = body.split_once(' ').unwrap();
        assert_eq!((length.parse::<usize>().unwrap(), &rest[..first.len()]), (first.len(), first));
        assert!(rest[first.len()..].ends_with("] plain"));
    }

    #[test]
    fn a_datagram_is_cut_between_characters() {
        let encoder = Encoder::Syslog { host: String::new(), is_counted: false };
        let batch = batch(&encoder, &["é".repeat(9000).as_str()]);
        let datagram = batch.texts().next().unwrap();
        assert!(datagram.len() <= LONGEST_DATAGRAM && datagram.len() > LONGEST_DATAGRAM - 4);
        assert!(
            std::str::from_utf8(datagram).is_ok_and(|text| text.starts_with("<14>1 ") && text.ends_with('é'))
        );
    }
}
