//! What a route does with its requests besides sending them to a service.

use super::routes::Directory;
use crate::fault::Faults;
use crate::path::Trail;
use crate::route::{Actions, Answer, HeaderChanges, Redirect, Respond};

pub(super) fn validate(
    actions: &Actions,
    at: &Trail<'_>,
    directory: &mut Directory<'_>,
    faults: &mut Faults,
) {
    match &actions.answer {
        Some(Answer::Redirect(redirect)) => self::redirect(redirect, &at.key("redirect"), faults),
        Some(Answer::Respond(respond)) => self::respond(respond, &at.key("respond"), faults),
        None => {}
    }
    changes(&actions.request_headers, Side::Request, &at.key("request_headers"), faults);
    changes(&actions.response_headers, Side::Answer, &at.key("response_headers"), faults);
    if let Some(mirror) = &actions.mirror {
        directory.look_up(&mirror.service, &at.key("mirror").key("service"), faults);
    }
}

fn redirect(redirect: &Redirect, at: &Trail<'_>, faults: &mut Faults) {
    if redirect.path.is_none() && redirect.host.is_none() && redirect.scheme.is_none() {
        faults
            .error(at, "leads to where the request was")
            .help("write one of path: /v2, host: …, scheme: https");
    }
    if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
        faults
            .error(&at.key("status"), format!("is {}, which is not a redirect", redirect.status))
            .help("301, 302, 303, 307 or 308; the last two keep the method");
    }
}

fn respond(respond: &Respond, at: &Trail<'_>, faults: &mut Faults) {
    let Respond { status, body } = respond;
    if !(200..=599).contains(status) {
        faults
            .error(&at.key("status"), format!("is {status}, which ends no request"))
            .help("from 200 to 599");
    }
    if matches!(status, 204 | 205 | 304) && !body.is_empty() {
        faults.error(&at.key("body"), format!("stands there, and an answer of {status} has none"));
    }
    if body.len() > Respond::LONGEST {
        let bytes = body.len();
        faults
            .error(&at.key("body"), format!("has {bytes} bytes, more than 64 KiB"))
            .help("a service of its own can answer with more");
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Request,
    Answer,
}

fn changes(changes: &HeaderChanges, side: Side, at: &Trail<'_>, faults: &mut Faults) {
    for (key, names) in [("set", &changes.set), ("add", &changes.add)] {
        for (name, _) in names {
            refuse(name, side, &at.key(key).key(name), faults);
        }
    }
    for (nth, name) in changes.remove.iter().enumerate() {
        refuse(name, side, &at.key("remove").index(nth), faults);
    }
}

fn refuse(name: &str, side: Side, at: &Trail<'_>, faults: &mut Faults) {
    if let Some((why, help)) = reserved(name, side) {
        faults.error(at, format!("is {name}, {why}")).help(help);
    }
}

/// For a header that no route may change: why, and what to write instead. Names in upper case, or with another sign in place
/// of `-` (`_`, `.`), are refused too, because some applications do not distinguish them.
pub fn reserved(name: &str, side: Side) -> Option<(&'static str, &'static str)> {
    const SIDECARS: &str = "which only sidecars may send";
    const CONNECTIONS: &str = "which concerns a single connection";
    const OWN: &str = "leave it out: applications and other sidecars rely on it";
    let name = name.to_ascii_lowercase().replace(|sign: char| !sign.is_ascii_alphanumeric(), "-");
    Some(match name.as_str() {
        "host" if side == Side::Request => {
            ("which names the destination of the request", "write rewrite: { host: … }")
        }
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding"
        | "upgrade" => (CONNECTIONS, "leave it out: the sidecar has connections of its own"),
        "content-length" => ("which frames the body", "leave it out: it follows the body"),
        "expect" => ("which the sidecar answers", "leave it out"),
        "x-request-id" | "x-forwarded-client-cert" | "client-cert" | "client-cert-chain" => (SIDECARS, OWN),
        "grpc-timeout" if side == Side::Request => ("which is the caller's deadline", "write `timeout`"),
        "proxy-status" if side == Side::Answer => (SIDECARS, OWN),
        name if name.starts_with("x-pillion-") => (SIDECARS, OWN),
        _ => return None,
    })
}
