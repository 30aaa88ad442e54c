//! Elasticsearch's `_bulk`: an action and a document, each in a line.

use pillion_model::logs::{IndexName, IndexPart};

use super::Id;
use crate::json;
use crate::moment;
use crate::record::{Origin, Record};

/// The action is `create`, so that it works for data streams too, and so that a document that is there already is not
/// written again. The id is that of the record's place, so that a document sent twice is one document.
pub(super) fn write(record: &Record<'_>, origin: &Origin, index: &IndexName, id: Id, to: &mut Vec<u8>) {
    to.extend_from_slice(b"{\"create\":{\"_index\":\"");
    let time = moment::calendar(record.time);
    for part in index.parts() {
        match part {
            IndexPart::Text(text) => to.extend_from_slice(text.as_bytes()),
            IndexPart::Year => moment::decimal(to, u32::try_from(time.year.clamp(0, 9999)).unwrap_or(0), 4),
            IndexPart::Month => moment::decimal(to, time.month.into(), 2),
            IndexPart::Day => moment::decimal(to, time.day.into(), 2),
            IndexPart::Hour => moment::decimal(to, time.hour.into(), 2),
        }
    }
    to.extend_from_slice(format!("\",\"_id\":\"{id}\"}}}}\n").as_bytes());
    record.write_json(origin, to);
    to.push(b'\n');
}

/// What became of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Taken,
    /// It is to be sent again, for this reason.
    Again(String),
    /// It is to be sent again, because there is too much to do or no room on a disk.
    Busy(String),
    /// It was refused for good, with the reason.
    Refused(String),
}

/// What an answer says of each document. `None`: it is not the answer of `_bulk`.
pub(crate) fn items(answer: &str, documents: usize) -> Option<Vec<Item>> {
    if json::member(answer, "errors")? == "false" {
        return Some(vec![Item::Taken; documents]);
    }
    let items = json::some_items(json::member(answer, "items")?, documents)?;
    (items.len() == documents).then(|| items.into_iter().map(item).collect())
}

fn item(of: &str) -> Item {
    let result = json::member(of, "create").unwrap_or_default();
    let status = json::member(result, "status").and_then(|status| status.parse::<u16>().ok());
    match status {
        Some(200..=299 | 409) => Item::Taken,
        // what concerns the document itself
        Some(400 | 413 | 422) if !is_of_index(result) => Item::Refused(reason(result)),
        Some(400 | 403 | 404) if is_of_one_index(result) => Item::Again(reason(result)),
        // a server that fails, is full, or gives no right to write must not cost records
        _ => Item::Busy(reason(result)),
    }
}

/// Whether a refusal has to do with one index, which it names: others may take their documents.
fn is_of_one_index(result: &str) -> bool {
    let error = json::member(result, "error").unwrap_or("null");
    let text = |key| json::member(error, key).and_then(json::string).unwrap_or_default();
    let kind = text("type");
    let is_named = !text("index").is_empty() || text("reason").contains('[');
    is_named && kind != "validation_exception" && (kind == "cluster_block_exception" || is_of_index(result))
}

/// Whether a refusal has to do with the index alone: there is no room for its shards, it is closed, or its alias leads nowhere. An
/// operator mends that, and the document is as good as any.
fn is_of_index(result: &str) -> bool {
    let error = json::member(result, "error").unwrap_or("null");
    let text = |key| json::member(error, key).and_then(json::string).unwrap_or_default();
    match &*text("type") {
        "validation_exception" => true,
        // documents are refused with it, too
        "illegal_argument_exception" => text("reason").starts_with("no write index"),
        // such as array_index_out_of_bounds_exception
        kind if kind.ends_with("out_of_bounds_exception") => false,
        kind => kind.starts_with("index_") || kind.contains("_index_") || kind.contains("alias"),
    }
}

fn reason(result: &str) -> String {
    let error = json::member(result, "error").unwrap_or("null");
    let text = |key| json::member(error, key).and_then(json::string);
    match (text("type"), text("reason")) {
        (Some(kind), Some(reason)) => match text("index") {
            // records are given up by the reason: that for one index must not be that for another, also when it is cut
            Some(index) => format!("{kind} (index {index}): {reason}"),
            None => format!("{kind}: {reason}"),
        },
        _ => error.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use pillion_model::Workload;

    use super::super::Encoder;
    use super::super::tests::batch;
    use super::*;

    #[test]
    fn a_document_has_an_index_by_its_date_and_an_id_by_its_place() {
        let encoder = Encoder::Bulk { index: IndexName::new("app-%Y.%m.%d-%H").unwrap() };
        let batch = batch(&encoder, &["one", "2026-02-03T04:05:06Z two"]);
        let body = String::from_utf8(encoder.body(&batch, &Workload::default()).to_vec()).unwrap();
        let lines: Vec<&str> = body.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"create":{"_index":"app-2025.11.28-17","_id":"00000000000000000000000000000007-0-3"}}"#
        );
        assert_eq!(
            lines[2],
            r#"{"create":{"_index":"app-2026.02.03-04","_id":"00000000000000000000000000000007-10-18"}}"#
        );
        assert!(lines[3].contains("\"message\":\"2026-02-03T04:05:06Z two\""));
    }

    #[test]
    fn an_answer_says_what_became_of_each_document() {
        assert_eq!(items(r#"{"took":1,"errors":false}"#, 2), Some(vec![Item::Taken, Item::Taken]));
        let answer = r#"{"errors":true,"items":[{"create":{"status":201}},{"create":{"status":403,"error":{"type":"cluster_block_exception","reason":"index [app-1] blocked"}}},{"create":{"status":409}},{"create":{"status":429,"error":{}}},{"create":{"status":400,"error":{"type":"mapper_parsing_exception","reason":"no \"n\""}}}]}"#;
        let refused = Item::Refused("mapper_parsing_exception: no \"n\"".to_owned());
        let again = Item::Again("cluster_block_exception: index [app-1] blocked".to_owned());
        assert_eq!(
            items(answer, 5),
            Some(vec![Item::Taken, again, Item::Taken, Item::Busy("{}".to_owned()), refused])
        );
        assert_eq!((items(answer, 3), items("<html>", 1), items("{}", 1)), (None, None, None));
    }

    #[test]
    fn a_reason_names_the_index() {
        let of = |error: &str| {
            let result = format!(r#"{{"create":{{"status":404,"error":{error}}}}}"#);
            items(&format!(r#"{{"errors":true,"items":[{result}]}}"#), 1)
        };
        let again = |reason: &str| Some(vec![Item::Again(reason.to_owned())]);
        let busy = |reason: &str| Some(vec![Item::Busy(reason.to_owned())]);
        for (error, expected) in [
            (
                r#"{"type":"index_closed_exception","reason":"closed","index":"app-1"}"#,
                again("index_closed_exception (index app-1): closed"),
            ),
            (
                r#"{"type":"index_closed_exception","reason":"closed"}"#,
                busy("index_closed_exception: closed"),
            ),
            (
                r#"{"type":"security_exception","reason":"no right on [app-1]"}"#,
                busy("security_exception: no right on [app-1]"),
            ),
            (
                r#"{"type":"validation_exception","reason":"this cluster has [1000]/[1000] shards"}"#,
                busy("validation_exception: this cluster has [1000]/[1000] shards"),
            ),
        ] {
            assert_eq!(of(error), expected);
        }
    }

    #[test]
    fn a_document_is_not_lost_because_of_its_index() {
        for (kind, reason, is_again) in [
            (
                "validation_exception",
                "this action would add [2] shards, but this cluster has [1000]/[1000]",
                true,
            ),
            ("index_closed_exception", "closed", true),
            ("invalid_index_name_exception", "must be lowercase", true),
            ("invalid_alias_name_exception", "no", true),
            ("illegal_argument_exception", "no write index is defined for alias [app]", true),
            (
                "illegal_argument_exception",
                "Document contains at least one immense term in field=\"a\"",
                false,
            ),
            ("illegal_argument_exception", "mapper [n] cannot be changed from type [long] to [text]", false),
            ("document_parsing_exception", "failed to parse field [n] of type [long]", false),
            ("strict_dynamic_mapping_exception", "introduction of [a] is not allowed", false),
            ("array_index_out_of_bounds_exception", "Index 5 out of bounds for length 3", false),
            ("string_index_out_of_bounds_exception", "begin 0, end -1, length 0", false),
            ("index_out_of_bounds_exception", "Index: 1, Size: 1", false),
        ] {
            let error = serde_json::json!({ "type": kind, "reason": reason });
            let answer = serde_json::json!({ "errors": true, "items": [{ "create": { "status": 400, "error": error } }] });
            let said = format!("{kind}: {reason}");
            let is_refused = items(&answer.to_string(), 1) == Some(vec![Item::Refused(said)]);
            assert_eq!(is_refused, !is_again, "{kind}");
        }
    }
}
