//! `/policy/record`: what came to the application since a client began to record it. [`crate::cli::policy`] asks for it.

use std::time::Instant;

use http::StatusCode;
use pillion_model::authorization::EncodedSlash;
use pillion_model::identity::{Files, Identity, WorkloadApi};
use pillion_sidecar::state::observed::{FromPeer, LeftOut, Observation, Traffic};
use serde_json::{Value, json};

use super::answer::{Answer, answer as answer_with, json as page, text};
use super::console::Console;

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Begin,
    /// To go on with the recording of this number, and what it has found.
    GoOn(u64),
    /// What the recording of this number has found, and its end.
    End(u64),
}

impl Asked {
    /// Parses a query: nothing, `id=1` or `id=1&end=on`.
    ///
    /// # Errors
    /// Returns a sentence that says what to ask for instead.
    pub(super) fn parse(query: &str) -> Result<Self, &'static str> {
        let (id, ends) = match query.strip_suffix("&end=on") {
            Some(id) => (id, true),
            None => (query, false),
        };
        match (id.strip_prefix("id=").and_then(|id| id.parse().ok()), ends) {
            (Some(id), false) => Ok(Self::GoOn(id)),
            (Some(id), true) => Ok(Self::End(id)),
            (None, false) if id.is_empty() => Ok(Self::Begin),
            (None, _) => Err("the parameters are id=NUMBER and end=on; without any, a recording begins"),
        }
    }
}

pub(super) fn answer(console: &Console, asked: Asked, now: Instant) -> Answer {
    let observation = &console.store.observation;
    match asked {
        Asked::Begin => match observation.begin(now) {
            Ok(id) => page(&json!({ "id": id })),
            Err(why) => text(StatusCode::CONFLICT, format!("{why}\n")),
        },
        Asked::GoOn(id) => found(console, observation, id, now),
        Asked::End(id) => {
            let found = found(console, observation, id, now);
            observation.end(id);
            found
        }
    }
}

fn found(console: &Console, observation: &Observation, id: u64, now: Instant) -> Answer {
    match observation.read(id, now).as_ref().map(traffic) {
        Some(mut found) => {
            let config = console.published().config.clone();
            found["identity"] = config.identity.as_ref().map_or(Value::Null, identity);
            let authorization = config.inbound.as_ref().and_then(|inbound| inbound.authorization.as_ref());
            let keeps_slashes = authorization.is_some_and(|of| of.encoded_slash == EncodedSlash::Keep);
            found["keeps_encoded_slashes"] = keeps_slashes.into();
            // without spaces: MOST_BYTES is the bound of this form
            answer_with(StatusCode::OK, "application/json", format!("{found}\n").into())
        }
        None => text(StatusCode::GONE, format!("there is no recording {id}, or not any more\n")),
    }
}

/// The keys under which the file has the identity.
fn identity(of: &Identity) -> Value {
    match of {
        Identity::Files(Files { certificate, key, trust_bundle, .. }) => {
            let [certificate, key, trust_bundle] =
                [certificate, key, trust_bundle].map(|path| path.display().to_string());
            json!({ "certificate": certificate, "key": key, "trust_bundle": trust_bundle })
        }
        Identity::WorkloadApi(api @ WorkloadApi { .. }) => json!({ "workload_api": api.to_string() }),
    }
}

fn traffic(of: &Traffic) -> Value {
    let LeftOut { beyond_bound, unclear_paths, methods, strangers } = of.left_out;
    let all = of.all().map(|(peer, port, from)| {
        let peer = peer.map(pillion_model::SpiffeId::as_str);
        json!({ "peer": peer, "port": port, "connections": from.connections, "requests": requests(from) })
    });
    json!({
        "traffic": all.collect::<Vec<_>>(),
        "without_identity": of.strangers().map(|address| address.to_string()).collect::<Vec<_>>(),
        "left_out": {
            "beyond_bound": beyond_bound,
            "unclear_paths": unclear_paths,
            "methods": methods,
            "without_identity": strangers,
        },
    })
}

fn requests(of: &FromPeer) -> Vec<Value> {
    let mut all = Vec::new();
    for (name, method) in of.methods() {
        let paths = method.paths().into_iter().map(|(path, count)| (Some(path), count));
        let without = Some((None, method.without_path)).filter(|(_, count)| *count > 0);
        let each = |(path, count)| json!({ "method": name, "path": path, "count": count });
        all.extend(without.into_iter().chain(paths).map(each));
    }
    all
}

#[cfg(test)]
mod tests {
    use pillion_model::authorization::path::JudgedPath;
    use pillion_sidecar::state::observed::{MOST_BYTES, Path};

    use super::*;

    #[test]
    fn a_recording_is_begun_asked_for_and_ended() {
        for (query, expected) in [
            ("", Some(Asked::Begin)),
            ("id=7", Some(Asked::GoOn(7))),
            ("id=7&end=on", Some(Asked::End(7))),
            ("id=", None),
            ("id=-1", None),
            ("end=on", None),
            ("&end=on", None),
            ("id=7&end=off", None),
            ("service=a", None),
        ] {
            assert_eq!(Asked::parse(query).ok(), expected, "{query}");
        }
    }

    /// Long paths that differ in their last segments take little memory, because they share their first ones.
    #[test]
    fn the_page_of_a_recording_is_bounded_whatever_paths_a_peer_sends() {
        let mut traffic = Traffic::default();
        let peer = "spiffe://cluster.local/ns/shop/sa/web".parse().expect("an ID");
        let long = "/\"".to_owned() + &"x".repeat(62);
        for nth in 0..32_000 {
            let name = |level: usize| format!("/x{}", (nth >> (4 * level)) & 15);
            let path = name(3) + &long.repeat(11) + &name(2) + &name(1) + &name(0);
            let judged = JudgedPath::of(&path, EncodedSlash::Reject).expect("a clear path");
            traffic.add_request(Some(&peer), [10, 0, 0, 1].into(), 80, "GET", Path::Judged(&judged));
        }
        let page = super::traffic(&traffic).to_string();
        assert!(page.len() > MOST_BYTES / 2 && page.len() < MOST_BYTES, "{} bytes", page.len());
        assert!(traffic.left_out.beyond_bound > 0);
    }
}
