//! What an answer means for the records that were sent.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use pillion_model::logs::Destination;

use super::{Fate, Outcome};
use crate::encode::{Item, MongodbAnswer, WriteError, bulk_items, otlp_rejected};

/// The most that a sink may ask to be left alone: a wrong number must not stop shipping.
const LONGEST_REST: Duration = Duration::from_mins(5);
/// The code of MongoDB for a document that is there already, or of which a field that must be unique has the value of another one.
const DUPLICATE: i32 = 11000;
/// Its codes for content that it does not take: BadValue, FailedToParse, TypeMismatch, Overflow, InvalidLength, InvalidBSON,
/// DollarPrefixedFieldName, InvalidIdField, EmptyFieldName, DottedFieldName, DocumentValidationFailure,
/// CannotIndexParallelArrays, BSONObjectTooLarge, a place that is none (16755) and KeyTooLong (17280).
const NOT_TAKEN: [i32; 15] = [2, 9, 14, 15, 16, 22, 52, 53, 56, 57, 121, 171, 10334, 16755, 17280];
/// Its codes for a server that cannot be reached, has no primary, gives no right to write, or is short of time or room: that must not
/// cost records, however long it lasts.
const OF_SERVER: [i32; 19] =
    [6, 7, 13, 18, 50, 64, 89, 91, 112, 133, 189, 202, 262, 9001, 10_107, 11_600, 11_602, 13_435, 13_436];
/// Of so many bytes of an answer a reason is made.
const REASON: usize = 4096;

/// What an answer over HTTP means.
pub(super) fn judge(
    to: &Destination,
    status: StatusCode,
    headers: &HeaderMap,
    content: &[u8],
    records: usize,
    now: SystemTime,
) -> Outcome {
    if status.is_success() {
        return taken(to, content, records);
    }
    let what = format!("answered {status}{}", reason(content));
    match status.as_u16() {
        // content that it does not understand, or too much of it: the same bytes are refused again
        400 | 413 | 415 | 422 => Outcome::Refused(what),
        // no right, no such address, or busy, or a door before it: what is not taken must not be lost
        _ => Outcome::Failed(what, rest(headers, now)),
    }
}

fn taken(to: &Destination, content: &[u8], records: usize) -> Outcome {
    match to {
        Destination::Elasticsearch { .. } => {
            let items = std::str::from_utf8(content).ok().and_then(|answer| bulk_items(answer, records));
            match items {
                Some(items) if items.iter().all(|item| *item == Item::Taken) => Outcome::Taken,
                Some(items) => Outcome::Each(items.into_iter().map(fate).collect()),
                None => Outcome::failed("its answer is not the one of _bulk"),
            }
        }
        Destination::Otlp { .. } => match otlp_rejected(content) {
            (0, _) => Outcome::Taken,
            (count, why) => Outcome::TakenBut(count.min(records as u64), said(&why)),
        },
        _ => Outcome::Taken,
    }
}

fn fate(item: Item) -> Fate {
    match item {
        Item::Taken => Fate::Taken,
        Item::Again(why) => Fate::Again(said(&why)),
        Item::Busy(why) => Fate::Busy(said(&why)),
        Item::Refused(why) => Fate::Refused(said(&why)),
    }
}

/// 300 characters of what a sink says: its sentences are longer than names are.
fn said(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The beginning of what an answer says, if that is a text.
fn reason(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content.get(..REASON).unwrap_or(content));
    let text = text.trim();
    if text.is_empty() || text.starts_with('<') { String::new() } else { format!(": {}", said(text)) }
}

/// How long the sink asks to be left alone.
fn rest(headers: &HeaderMap, now: SystemTime) -> Duration {
    let value = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let asked = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value)
            .ok()
            .and_then(|at| at.duration_since(now).ok())
            .unwrap_or_default(),
    };
    asked.min(LONGEST_REST)
}

/// What an answer of MongoDB means.
pub(super) fn of_mongodb(answer: &MongodbAnswer, records: usize) -> Outcome {
    if !answer.is_ok {
        let what = format!("answered {}: {}", answer.code, said(&answer.message));
        let is_content = NOT_TAKEN.contains(&answer.code);
        return if is_content { Outcome::Refused(what) } else { Outcome::failed(what) };
    }
    if let Some(why) = &answer.doubt {
        return Outcome::failed(format!("has perhaps not kept what it took: {}", said(why)));
    }
    let mut fates = vec![Fate::Taken; records];
    for WriteError { place, code, why, is_of_other_field } in &answer.refused {
        let is_duplicate = *code == DUPLICATE;
        if let Some(fate) = fates.get_mut(*place).filter(|_| !is_duplicate || *is_of_other_field) {
            let why = format!("{code}: {}", said(why));
            *fate = match code {
                _ if is_duplicate || NOT_TAKEN.contains(code) => Fate::Refused(why),
                code if OF_SERVER.contains(code) => Fate::Busy(why),
                _ => Fate::Again(why),
            };
        }
    }
    if fates.iter().all(|fate| *fate == Fate::Taken) { Outcome::Taken } else { Outcome::Each(fates) }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use pillion_model::logs::{IndexName, SinkUrl};

    use super::*;

    fn url() -> SinkUrl {
        SinkUrl::new("http://sink").unwrap()
    }

    fn of(status: u16, content: &str) -> Outcome {
        let status = StatusCode::from_u16(status).unwrap();
        judge(
            &Destination::Http { url: url() },
            status,
            &HeaderMap::new(),
            content.as_bytes(),
            2,
            SystemTime::now(),
        )
    }

    #[test]
    fn only_what_concerns_the_content_is_refused() {
        for status in [200, 201, 204] {
            assert_eq!(of(status, "x"), Outcome::Taken);
        }
        let long = "x".repeat(1 << 20);
        assert!(matches!(of(400, &long), Outcome::Refused(why) if why.len() < 400));
        for status in [400, 413, 415, 422] {
            assert_eq!(
                of(status, "too old"),
                Outcome::Refused(format!("answered {}: too old", StatusCode::from_u16(status).unwrap()))
            );
        }
        for status in [
            301, 401, 402, 403, 404, 405, 407, 408, 409, 410, 411, 421, 425, 429, 431, 451, 499, 500, 502,
            503, 504,
        ] {
            assert!(
                matches!(of(status, "<html>"), Outcome::Failed(why, Duration::ZERO) if !why.contains("html")),
                "{status}"
            );
        }
    }

    #[test]
    fn a_sink_that_is_busy_is_left_alone_for_as_long_as_it_asks() {
        let after = |value| {
            let headers = [(RETRY_AFTER, HeaderValue::from_static(value))].into_iter().collect();
            rest(&headers, SystemTime::UNIX_EPOCH).as_secs()
        };
        assert_eq!((after("7"), after("soon"), after("86400")), (7, 0, 300));
        assert_eq!(after("Thu, 01 Jan 1970 00:00:09 GMT"), 9);
    }

    #[test]
    fn each_document_of_elasticsearch_has_its_own_fate() {
        let to = Destination::Elasticsearch { url: url(), index: IndexName::new("app").unwrap() };
        let judged = |content: &str| {
            judge(&to, StatusCode::OK, &HeaderMap::new(), content.as_bytes(), 2, SystemTime::now())
        };
        assert_eq!(judged(r#"{"errors":false}"#), Outcome::Taken);
        assert_eq!(
            judged(
                r#"{"errors":true,"items":[{"create":{"status":503}},{"create":{"status":400,"error":{"type":"a","reason":"b"}}}]}"#
            ),
            Outcome::Each(vec![Fate::Busy("null".to_owned()), Fate::Refused("a: b".to_owned())])
        );
        assert!(matches!(judged("<html>"), Outcome::Failed(..)));
    }

    #[test]
    fn a_document_that_mongodb_has_already_is_taken() {
        let refused = [
            (0, DUPLICATE, "dup"),
            (1, 121, "no"),
            (2, 13, "not allowed"),
            (3, 10107, "no primary"),
            (4, DUPLICATE, "order"),
        ];
        let error = |(place, code, why): (_, _, &str)| WriteError {
            place,
            code,
            why: why.to_owned(),
            is_of_other_field: why == "order",
        };
        let refused = refused.map(error).to_vec();
        let answer = MongodbAnswer { is_ok: true, refused, ..MongodbAnswer::default() };
        let (not_allowed, no_primary) = ("13: not allowed".to_owned(), "10107: no primary".to_owned());
        assert_eq!(
            of_mongodb(&answer, 5),
            Outcome::Each(vec![
                Fate::Taken,
                Fate::Refused("121: no".to_owned()),
                Fate::Busy(not_allowed),
                Fate::Busy(no_primary),
                Fate::Refused("11000: order".to_owned())
            ])
        );
        let failed = |code| of_mongodb(&MongodbAnswer { code, ..MongodbAnswer::default() }, 2);
        assert!(matches!(failed(10334), Outcome::Refused(_)) && matches!(failed(13), Outcome::Failed(..)));
    }

    #[test]
    fn what_mongodb_may_not_keep_is_sent_again() {
        let doubt = Some("primary stepped down".to_owned());
        let answer = MongodbAnswer { is_ok: true, doubt, ..MongodbAnswer::default() };
        assert!(matches!(of_mongodb(&answer, 1), Outcome::Failed(why, _) if why.ends_with("stepped down")));
    }
}
