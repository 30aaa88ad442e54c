//! `/requests` and `/requests/ID`: the exchanges that were kept, and the timeline of one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pillion_telemetry::Timelines;
use pillion_telemetry::timeline::{Stage, StageOutcome, Timeline};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What `/requests` shows if the request does not say how many: a screen.
const DEFAULT_SHOWN: usize = 50;
/// The most that `/requests` shows: they are written in memory.
const MOST_SHOWN: usize = 1000;

/// Which of the kept exchanges a request asks for. An absent value does not matter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    reason: Option<String>,
    service: Option<String>,
    id: Option<String>,
    status: Option<Statuses>,
    slower: Option<Duration>,
    limit: Option<usize>,
}

/// A status, or a class of them such as `5xx`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statuses {
    One(u16),
    Class(u16),
}

impl Filter {
    /// Parses a query, such as `service=orders&status=5xx&slower=200ms&limit=50`.
    ///
    /// # Errors
    /// Returns a sentence that says what to ask for instead.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            match &*name {
                "reason" => filter.reason = Some(value),
                "service" => filter.service = Some(value),
                "id" => filter.id = Some(value),
                "status" => filter.status = Some(statuses(&value)?),
                "slower" => filter.slower = Some(duration("slower", &value)?),
                "limit" => filter.limit = Some(limit(&value)?),
                _ => {
                    return Err("the parameters are reason, service, id, status, slower and limit".to_owned());
                }
            }
        }
        Ok(filter)
    }

    fn takes(&self, kept: &Timeline) -> bool {
        let is = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| *wanted == text);
        is(&self.reason, kept.code())
            && is(&self.service, &kept.service)
            && is(&self.id, &kept.id)
            && self.status.as_ref().is_none_or(|wanted| wanted.takes(kept.status))
            && self.slower.is_none_or(|slower| kept.duration > slower)
    }
}

impl Statuses {
    pub(super) const fn takes(&self, status: u16) -> bool {
        match self {
            Self::One(wanted) => status == *wanted,
            Self::Class(wanted) => status / 100 == *wanted,
        }
    }
}

pub(super) fn statuses(text: &str) -> Result<Statuses, String> {
    let class = text.strip_suffix("xx").and_then(|class| class.parse().ok()).filter(|class| *class <= 9);
    let one = text.parse().ok().filter(|status| *status <= 999);
    class
        .map(Statuses::Class)
        .or_else(|| one.map(Statuses::One))
        .ok_or_else(|| format!("status is {text}, and must be a status (503) or a class of them (5xx)"))
}

pub(super) fn duration(name: &str, text: &str) -> Result<Duration, String> {
    pillion_config::duration(text)
        .ok_or_else(|| format!("{name} is {text}, and must be a duration with its unit: 200ms, 2s"))
}

fn limit(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|limit| (1..=MOST_SHOWN).contains(limit));
    number.ok_or_else(|| format!("limit is a number from 1 to {MOST_SHOWN}"))
}

/// The list of the exchanges that `filter` takes, newest first.
pub(super) fn list(timelines: &Timelines, filter: &Filter) -> Value {
    let newest = timelines.newest();
    let taken = newest.iter().filter(|kept| filter.takes(kept));
    let shown: Vec<Value> =
        taken.take(filter.limit.unwrap_or(DEFAULT_SHOWN)).map(|kept| row(kept).into()).collect();
    json!({ "requests": shown })
}

/// The newest failed exchanges, each with its sentence and its stages.
pub(super) fn failures(timelines: &Timelines, most: usize) -> Vec<Value> {
    timelines.last_failed(most).iter().map(|kept| whole(kept).into()).collect()
}

/// The newest exchange with this ID, whole. `None`: none is kept.
pub(super) fn one(timelines: &Timelines, id: &str) -> Option<Value> {
    let mut all = timelines.newest().into_iter().filter(|kept| *kept.id == *id);
    let newest: Arc<Timeline> = all.next()?;
    let mut whole = whole(&newest);
    whole.insert("others".to_owned(), all.count().into());
    Some(whole.into())
}

/// Everything that is kept of an exchange.
fn whole(kept: &Timeline) -> Map<String, Value> {
    let mut whole = row(kept);
    let rest = [
        ("detail", text(&kept.detail)),
        ("bytes_in", kept.bytes_in.into()),
        ("bytes_out", kept.bytes_out.into()),
        ("authorization", kept.authorization.map(|decision| decision.as_str()).into()),
        ("rule", text(&kept.rule)),
        ("stages", stages(kept)),
    ];
    whole.extend(rest.map(|(key, value)| (key.to_owned(), value)));
    whole
}

/// What the list shows of an exchange.
pub(super) fn row(kept: &Timeline) -> Map<String, Value> {
    let row = [
        ("id", text(&kept.id)),
        ("trace_id", kept.trace.map(|trace| trace.to_string()).into()),
        ("time", moment(kept.time).into()),
        ("direction", kept.direction.as_str().into()),
        ("service", text(&kept.service)),
        ("route", text(&kept.route)),
        ("method", text(&kept.method)),
        ("path", text(&kept.path)),
        ("host", text(&kept.host)),
        ("protocol", kept.protocol.into()),
        ("status", kept.status.into()),
        ("grpc_status", kept.grpc_status.into()),
        ("reason", text(kept.code())),
        ("duration_ms", milliseconds(kept.duration)),
        ("attempts", kept.attempts.into()),
        ("peer", text(&kept.peer)),
        ("downstream", kept.downstream.map(|address| address.to_string()).into()),
    ];
    row.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

pub(super) fn stages(kept: &Timeline) -> Value {
    kept.stages.iter().map(stage).collect()
}

fn stage(stage: &Stage) -> Value {
    let outcome: Value = match stage.outcome {
        StageOutcome::Done => "ok".into(),
        StageOutcome::Word(word) => word.into(),
        StageOutcome::Reason(reason) => reason.code().into(),
        StageOutcome::Status(status) => status.to_string().into(),
    };
    json!({
        "stage": stage.name.as_str(),
        "at_ms": milliseconds(stage.at),
        "took_ms": milliseconds(stage.took),
        "attempt": (stage.attempt > 0).then_some(stage.attempt),
        "endpoint": stage.endpoint.map(|address| address.to_string()),
        "outcome": outcome,
        "detail": stage.detail.as_deref(),
    })
}

/// Null for an empty text, as the value does not exist.
fn text(text: &str) -> Value {
    Some(text).filter(|text| !text.is_empty()).into()
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> Value {
    let micros = u32::try_from(duration.as_micros()).map_or(f64::MAX, f64::from);
    let exact = if micros == f64::MAX { duration.as_secs_f64() * 1e6 } else { micros };
    (exact / 1e3).into()
}

/// A time such as `2026-11-21T11:00:00.123456Z`. Null if it has no date in the calendar.
pub(super) fn moment(at: SystemTime) -> Option<String> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let nanos = i128::try_from(since.as_micros()).ok()? * 1000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_understood_or_its_fault_is_named() {
        let parsed = Filter::parse("service=orders&status=5xx&slower=200ms&limit=7&reason=no_route&id=a%2Fb");
        let expected = Filter {
            reason: Some("no_route".to_owned()),
            service: Some("orders".to_owned()),
            id: Some("a/b".to_owned()),
            status: Some(Statuses::Class(5)),
            slower: Some(Duration::from_millis(200)),
            limit: Some(7),
        };
        assert_eq!(parsed, Ok(expected));
        assert_eq!(Filter::parse("status=503").unwrap().status, Some(Statuses::One(503)));
        for (query, expected) in [
            ("status=bad", "a class of them (5xx)"),
            ("status=50000", "a class of them (5xx)"),
            ("slower=200", "with its unit"),
            ("limit=0", "from 1 to 1000"),
            ("limit=1001", "from 1 to 1000"),
            ("sevice=orders", "the parameters are"),
        ] {
            let why = Filter::parse(query).unwrap_err();
            assert!(why.contains(expected), "{query}: {why}");
        }
    }

    #[test]
    fn times_are_told_to_the_microsecond() {
        assert_eq!(milliseconds(Duration::from_nanos(1_234_567)), json!(1.234));
        assert_eq!(milliseconds(Duration::from_secs(7200)), json!(7_200_000.0));
        let at = SystemTime::UNIX_EPOCH + Duration::new(0, 123_456_789);
        assert_eq!(moment(at).as_deref(), Some("1970-01-01T00:00:00.123456Z"));
    }
}
