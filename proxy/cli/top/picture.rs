//! One event of `/events`, read into what the view shows.
//!
//! The port may belong to a program that is not ours, and names, paths and sentences come from peers: every text loses
//! its control characters here, and its length has a bound.

use serde_json::Value;
use time::{Date, Month};

use super::super::timeline::{one_line, printable, said};

/// The longest text that is kept, in characters: more than a terminal has in a line.
const LONGEST: usize = 500;
/// The most rows of each kind. The sidecar sends fewer.
const MOST: usize = 1000;
/// The outcomes of retries that were made.
const MADE: [&str; 4] = ["succeeded", "failed", "replaced", "hedged"];

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Picture {
    /// By the sidecar's clock, in seconds since 1970.
    pub(super) at: i64,
    pub(super) started_ms: u64,
    pub(super) uptime_ms: u64,
    pub(super) version: String,
    /// `NAME.NAMESPACE (ZONE)`, as far as they are known.
    pub(super) workload: String,
    pub(super) generation: u64,
    pub(super) connections_open: i64,
    /// Why the last configuration or the last certificates were refused.
    pub(super) refusal: Option<String>,
    pub(super) services: Vec<Service>,
    pub(super) callers: Vec<Caller>,
    /// Endpoints that do not get all requests.
    pub(super) endpoints: Vec<Endpoint>,
    /// Limits that are full.
    pub(super) full: Vec<Full>,
    pub(super) certificates: Vec<Certificate>,
    /// `None`: the sidecar keeps no timelines.
    pub(super) failures: Option<Vec<Failure>>,
}

/// Totals since the start of the process.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) client_gone: u64,
    pub(super) latency: Latency,
    pub(super) retries: u64,
    pub(super) rejections: u64,
}

/// A histogram of seconds: upper bounds with the number of values up to each.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Latency {
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) count: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) is_inbound: bool,
    pub(super) active: i64,
    pub(super) totals: Totals,
    /// Healthy endpoints, and all of them. `None`: it has none of its own.
    pub(super) endpoints: Option<(i64, i64)>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Caller {
    /// The whole SPIFFE ID; empty for callers without one.
    pub(super) peer: String,
    pub(super) totals: Totals,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) service: String,
    pub(super) address: String,
    /// `ejected for 12 s`, `unhealthy: no answer`.
    pub(super) state: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) service: String,
    pub(super) limit: String,
    pub(super) most: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) name: String,
    pub(super) is_authority: bool,
    /// In seconds since 1970.
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    /// Tells it from all others.
    pub(super) key: (String, String),
    /// `11:02:03Z`
    pub(super) clock: String,
    /// `→ orders GET /v2 503 no_endpoints`
    pub(super) said: String,
    /// The sentence; empty where there is none.
    pub(super) detail: String,
    /// All of it, with its stages.
    pub(super) whole: Value,
}

impl Picture {
    /// # Errors
    /// The event is not one of a sidecar.
    pub(super) fn read(event: &Value) -> Result<Self, &'static str> {
        let number = |key: &str| event[key].as_u64();
        let (Some(started_ms), Some(uptime_ms)) = (number("started_ms"), number("uptime_ms")) else {
            return Err("the event has no start of the process: is the sidecar of an older version?");
        };
        let config = &event["config"];
        Ok(Self {
            at: i64::try_from(number("at_ms").unwrap_or_default() / 1000).unwrap_or_default(),
            started_ms,
            uptime_ms,
            version: text(&event["version"]),
            workload: workload(&event["workload"]),
            generation: config["generation"].as_u64().unwrap_or_default(),
            connections_open: event["connections_open"].as_i64().unwrap_or_default(),
            refusal: config["last_refusal"]["why"]
                .as_str()
                .map(|why| clean(why.lines().next().unwrap_or_default())),
            services: list(&event["services"]).map(service).collect(),
            callers: list(&event["callers"]).map(caller).collect(),
            endpoints: list(&event["clusters"]).flat_map(endpoints).take(MOST).collect(),
            full: list(&event["clusters"]).flat_map(full).take(MOST).collect(),
            certificates: certificates(&event["certificates"]),
            failures: event["failures"].as_array().map(|all| all.iter().take(MOST).map(failure).collect()),
        })
    }
}

fn list(of: &Value) -> impl Iterator<Item = &Value> {
    of.as_array().into_iter().flatten().take(MOST)
}

/// A text of the event, fit for a terminal.
fn text(of: &Value) -> String {
    clean(of.as_str().unwrap_or_default())
}

fn clean(text: &str) -> String {
    one_line(&text.chars().take(LONGEST).collect::<String>())
}

/// All texts of a value, fit for a terminal.
fn cleaned(of: &Value) -> Value {
    match of {
        Value::String(text) => printable(&text.chars().take(LONGEST).collect::<String>()).into(),
        Value::Array(all) => all.iter().take(MOST).map(cleaned).collect(),
        Value::Object(all) => {
            all.iter().take(MOST).map(|(key, value)| (clean(key), cleaned(value))).collect()
        }
        other => other.clone(),
    }
}

fn workload(of: &Value) -> String {
    let [name, namespace, zone] = ["name", "namespace", "zone"].map(|key| text(&of[key]));
    let mut told = name;
    if !namespace.is_empty() {
        told += &format!(".{namespace}");
    }
    if !zone.is_empty() {
        told += &format!(" ({zone})");
    }
    told
}

fn totals(of: &Value) -> Totals {
    let number = |key: &str| of[key].as_u64().unwrap_or_default();
    let sum = |of: &Value, takes: &dyn Fn(&str) -> bool| {
        let all = of.as_object().into_iter().flatten().take(MOST);
        all.filter(|(key, _)| takes(key)).filter_map(|(_, value)| value.as_u64()).fold(0, u64::saturating_add)
    };
    let bucket = |pair: &Value| Some((pair[0].as_f64()?, pair[1].as_u64()?));
    Totals {
        requests: number("requests"),
        failed: number("failed"),
        client_gone: number("client_gone"),
        latency: Latency {
            buckets: list(&of["latency"]["buckets"]).filter_map(bucket).collect(),
            count: of["latency"]["count"].as_u64().unwrap_or_default(),
        },
        retries: sum(&of["retries"], &|outcome| MADE.contains(&outcome)),
        rejections: sum(&of["rejections"], &|_| true),
    }
}

fn service(of: &Value) -> Service {
    let state = |key: &str| of["endpoints"][key].as_i64().unwrap_or_default();
    let has_any = of["endpoints"].as_object().is_some_and(|all| !all.is_empty());
    let all =
        ["healthy", "unhealthy", "ejected"].map(state).iter().fold(0, |sum: i64, of| sum.saturating_add(*of));
    Service {
        name: text(&of["name"]),
        is_inbound: of["direction"] == "inbound",
        active: of["active"].as_i64().unwrap_or_default(),
        totals: totals(of),
        endpoints: has_any.then(|| (state("healthy"), all)),
    }
}

fn caller(of: &Value) -> Caller {
    Caller { peer: text(&of["peer"]), totals: totals(of) }
}

/// The endpoints of a cluster that do not get all requests.
fn endpoints(cluster: &Value) -> impl Iterator<Item = Endpoint> {
    let service = text(&cluster["name"]);
    list(&cluster["endpoints"]).filter(|of| of["state"] != "healthy").map(move |of| {
        let (word, why) = (text(&of["state"]), text(&of["health_check"]["failure"]));
        let state = match of["ejected_for_ms"].as_u64() {
            Some(rest) => format!("{word} for {} s", rest.div_ceil(1000)),
            None if !why.is_empty() => format!("{word}: {why}"),
            None => word,
        };
        Endpoint { service: service.clone(), address: text(&of["address"]), state }
    })
}

/// The limits of a cluster that are full.
fn full(cluster: &Value) -> impl Iterator<Item = Full> {
    let service = text(&cluster["name"]);
    let limits = cluster["limits"].as_object().into_iter().flatten().take(MOST);
    limits.filter_map(move |(limit, of)| {
        let (used, most) = (of["used"].as_u64()?, of["max"].as_u64()?);
        (used >= most).then(|| Full { service: service.clone(), limit: clean(limit), most })
    })
}

fn certificates(of: &Value) -> Vec<Certificate> {
    let own = list(&of["identities"])
        .flat_map(|own| list(&own["certificates"]))
        .filter(|of| of["use"] != "intermediate");
    let own = own.filter_map(|of| {
        let is_authority = of["use"] != "own";
        let name = if is_authority {
            format!("authority {}", text(&of["subject"]))
        } else {
            "own certificate".to_owned()
        };
        certificate(name, is_authority, of)
    });
    let others = list(&of["others"]).flat_map(|other| {
        let name = format!("certificate of {}", text(&other["used_by"]));
        let leaf = list(&other["certificates"]).find(|of| of["use"] == "own");
        leaf.and_then(|leaf| certificate(name, false, leaf))
    });
    own.chain(others).take(MOST).collect()
}

fn certificate(name: String, is_authority: bool, of: &Value) -> Option<Certificate> {
    let at = |key: &str| seconds(of[key].as_str()?);
    Some(Certificate { name, is_authority, not_before: at("not_before")?, not_after: at("not_after")? })
}

/// Reads a time such as `2026-11-28T10:11:12Z`.
fn seconds(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u16>().ok();
    let small = |from: usize| u8::try_from(number(from, from + 2)?).ok();
    let date =
        Date::from_calendar_date(number(0, 4)?.into(), Month::try_from(small(5)?).ok()?, small(8)?).ok()?;
    let at = date.with_hms(small(11)?, small(14)?, small(17)?).ok()?;
    Some(at.assume_utc().unix_timestamp())
}

fn failure(of: &Value) -> Failure {
    let time = text(&of["time"]);
    let clock = time.split_once('T').map_or("", |(_, clock)| clock.split('.').next().unwrap_or_default());
    let (mut row, is_inbound) = (cleaned(of), of["direction"] == "inbound");
    row["direction"] = if is_inbound { "●" } else { "→" }.into();
    Failure {
        clock: format!("{}Z", clock.trim_end_matches('Z')),
        said: one_line(&said(&row)),
        detail: text(&of["detail"]),
        whole: cleaned(of),
        key: (text(&of["id"]), time),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_read_and_what_is_wrong_is_picked_out() {
        let read = Picture::read(&super::super::tests::event(7)).expect("an event");
        assert_eq!((&*read.workload, &*read.version, read.generation), ("web.shop (eu-1)", "0.1.0", 3));
        let orders = read.services.iter().find(|of| of.name == "orders").expect("a service");
        assert_eq!((orders.endpoints, orders.totals.retries, orders.totals.rejections), (Some((1, 3)), 2, 4));
        let states: Vec<_> = read.endpoints.iter().map(|of| &*of.state).collect();
        assert_eq!(states, ["ejected for 13 s", "unhealthy: no answer within 1 s"]);
        assert_eq!(read.full, [Full { service: "orders".into(), limit: "max_requests".into(), most: 10 }]);
        let names: Vec<_> = read.certificates.iter().map(|of| (&*of.name, of.not_after)).collect();
        assert_eq!(names[0], ("own certificate", 1_795_946_400));
        assert_eq!((names[1].0, names[2].0), ("authority CN=ca", "certificate of services.api.tls"));
        let failure = &read.failures.as_ref().expect("kept")[0];
        assert_eq!((&*failure.clock, &*failure.said), ("10:11:12Z", "→ orders GET /v2 503 no_endpoints"));
        assert!(Picture::read(&json!({ "version": "0.0.9" })).is_err());
    }

    #[test]
    fn no_text_of_a_peer_has_control_characters() {
        let mut event = super::super::tests::event(7);
        let evil = "\u{1b}]0;x\u{7}\u{9b}2J\r\n\u{202e}";
        event["failures"][0]["detail"] = evil.into();
        event["failures"][0]["path"] = evil.into();
        event["failures"][0]["stages"][0]["detail"] = evil.into();
        event["callers"][0]["peer"] = evil.into();
        event["services"][0]["name"] = evil.into();
        event["clusters"][0]["endpoints"][1]["health_check"]["failure"] = evil.into();
        event["workload"]["name"] = evil.into();
        event["config"]["last_refusal"] = json!({ "why": evil });
        let read = Picture::read(&event).expect("an event");
        let is_bad = |char: char| char.is_control() || char == '\u{202e}';
        let shown = format!(
            "{:?}",
            (&read.callers[0].peer, &read.services[0].name, &read.endpoints, &read.workload, &read.refusal)
        );
        let failure = &read.failures.expect("kept")[0];
        let told = super::super::super::timeline::told(&failure.whole);
        for text in
            [&read.callers[0].peer, &read.services[0].name, &read.workload, &failure.said, &failure.detail]
        {
            assert!(!text.contains(is_bad), "{text:?} of {shown}");
        }
        assert!(!told.replace('\n', "").contains(is_bad), "{told:?}");
    }

    #[test]
    fn dates_are_seconds_since_1970() {
        assert_eq!(seconds("1970-01-02T00:00:01Z"), Some(86_401));
        assert_eq!(seconds("2026-11-29T10:00:00Z"), Some(1_795_946_400));
        for text in ["", "2026-13-01T00:00:00Z", "2026-11-29", "ä026-11-29T10:00:00Z"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange_for_a_date(text in "\\PC{0,30}") {
            let _ = seconds(&text);
        }
    }
}
