//! What a route does with its requests besides sending them to a service.

use std::time::Duration;

use pillion_model::route::{
    AbortStatus, Actions, Answer, FaultAbort, FaultDelay, FaultInjection, HeaderChanges, Mirror, RateLimit,
    RateLimitBy, Redirect, Respond, Rewrite, Scheme,
};
use serde_json::Value;

use super::super::{Block, Static, field, headers};
use super::RouteBlock;
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading};
use crate::schema;
use crate::value::{Count, Opt, Positive, Share};
use crate::words::{
    Authority, ChangedHeader, Grpc, HeaderText, MatchPath, RedirectPath, RespondBody, ServiceName,
};

pub(super) static REWRITE: Static<Rewrite> = Static::new(|| {
    Block::new(Rewrite::default)
        .word::<Opt<MatchPath>>(
            "prefix",
            field!(prefix),
            "The path that replaces the matched prefix, by whole segments. It replaces the whole path if `exact` or `regex` matched.",
        )
        .word::<Opt<Authority>>("host", field!(host), "The host that is sent to the service.")
});

pub(super) static CHANGES: Static<HeaderChanges> = Static::new(|| {
    Block::new(HeaderChanges::default)
        .key(
            "set",
            "Headers with their new and only value.",
            headers::schema::<HeaderText>,
            |changes: &mut HeaderChanges, node, reading| {
                changes.set = headers::read::<HeaderText>(node, reading)
            },
            |changes, at, page| headers::tell::<HeaderText>(&changes.set, &at.key("set"), page),
        )
        .key(
            "add",
            "Headers that get a further value.",
            headers::schema::<HeaderText>,
            |changes: &mut HeaderChanges, node, reading| {
                changes.add = headers::read::<HeaderText>(node, reading)
            },
            |changes, at, page| headers::tell::<HeaderText>(&changes.add, &at.key("add"), page),
        )
        .list::<ChangedHeader>(
            "remove",
            field!(remove),
            "Headers that are removed, before others are set or added.",
        )
});

/// Only for what is written: what says no time or no status is refused.
#[derive(Default)]
pub(super) struct FaultBlock {
    delay: Option<DelayBlock>,
    abort: Option<AbortBlock>,
}

struct DelayBlock {
    time: Option<Duration>,
    share: f64,
}

struct AbortBlock {
    status: Option<u32>,
    grpc: Option<u8>,
    share: f64,
}

static FAULT: Static<FaultBlock> = Static::new(|| {
    Block::new(FaultBlock::default)
        .block_or_off(
            "delay",
            field!(delay),
            &DELAY,
            "A pause before a share of the requests. It counts into their timeout.",
        )
        .block_or_off(
            "abort",
            field!(abort),
            &ABORT,
            "An error that the sidecar answers to a share of the requests.",
        )
});

static DELAY: Static<DelayBlock> = Static::new(|| {
    Block::new(|| DelayBlock { time: None, share: 1.0 })
        .word::<Opt<Duration>>("time", field!(time), "The length of the pause.")
        .word::<Share>("share", field!(share), "The share of the requests.")
});

static ABORT: Static<AbortBlock> = Static::new(|| {
    Block::new(|| AbortBlock { status: None, grpc: None, share: 1.0 })
        .word::<Opt<Count<200, 599>>>(
            "status",
            field!(status),
            "The status of the answer; gRPC callers get UNAVAILABLE.",
        )
        .word::<Opt<Grpc>>(
            "grpc",
            field!(grpc),
            "The gRPC status of the answer; other callers get the matching HTTP status.",
        )
        .word::<Share>("share", field!(share), "The share of the requests.")
});

fn fault(node: &Node<'_>, reading: &mut Reading<'_>) -> FaultInjection {
    let mut block = None;
    FAULT.read_or_off(&mut block, node, reading);
    let FaultBlock { delay, abort } = block.unwrap_or_default();
    let delay = delay.and_then(|DelayBlock { time, share }| {
        if let Some(node) = node.child("delay", reading).filter(|_| time.is_none()) {
            node.lacks("time", "{ time: 2s, share: 10% }", reading);
        }
        Some(FaultDelay { time: time?, share })
    });
    let abort = abort.and_then(|AbortBlock { status, grpc, share }| {
        let with = match (status.and_then(|status| u16::try_from(status).ok()), grpc) {
            (Some(status), None) => AbortStatus::Http(status),
            (None, Some(grpc)) => AbortStatus::Grpc(grpc),
            (both, _) => {
                if let Some(node) = node.child("abort", reading) {
                    let what =
                        if both.is_some() { "has `status` and `grpc`" } else { "needs `status` or `grpc`" };
                    node.remark(what, reading).help("{ status: 503, share: 1% }");
                }
                return None;
            }
        };
        Some(FaultAbort { with, share })
    });
    FaultInjection { delay, abort }
}

fn tell_fault(fault: &FaultInjection, at: &Scopes<'_>, page: &mut Page<'_>) {
    let delay = fault.delay.map(|FaultDelay { time, share }| DelayBlock { time: Some(time), share });
    let abort = fault.abort.map(|FaultAbort { with, share }| match with {
        AbortStatus::Http(status) => AbortBlock { status: Some(status.into()), grpc: None, share },
        AbortStatus::Grpc(grpc) => AbortBlock { status: None, grpc: Some(grpc), share },
    });
    FAULT.tell(&FaultBlock { delay, abort }, at, page);
}

struct MirrorBlock {
    service: Option<String>,
    share: f64,
}

static MIRROR: Static<MirrorBlock> = Static::new(|| {
    Block::new(|| MirrorBlock { service: None, share: 1.0 })
        .word::<Opt<ServiceName>>(
            "service",
            field!(service),
            "The service that gets the copies, one of `services`.",
        )
        .word::<Share>("share", field!(share), "The share of the requests.")
});

fn mirror(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<Mirror> {
    let mut block = None;
    MIRROR.read_or_off(&mut block, node, reading);
    let MirrorBlock { service, share } = block?;
    if service.is_none() {
        node.lacks("service", "{ service: orders-shadow, share: 5% }", reading);
    }
    Some(Mirror { service: service?, share })
}

struct LimitBlock {
    requests: Option<u32>,
    per: Duration,
    burst: Option<u32>,
    by: RateLimitBy,
}

fn unlimited() -> LimitBlock {
    LimitBlock { requests: None, per: RateLimit::PER, burst: None, by: RateLimitBy::All }
}

fn limit_block() -> Block<LimitBlock> {
    Block::new(unlimited)
        .word::<Opt<Positive>>(
            "requests",
            field!(requests),
            "The number of requests in each `per`; a further request gets 429.",
        )
        .word::<Duration>("per", field!(per), "The time in which `requests` may come.")
        .word::<Opt<Positive>>(
            "burst",
            field!(burst),
            "The number of requests that may come at once after a pause. Default: the value of `requests`.",
        )
}

static LIMIT: Static<LimitBlock> = Static::new(limit_block);

static LIMIT_OF_PEERS: Static<LimitBlock> = Static::new(|| {
    limit_block().word::<RateLimitBy>(
        "by",
        field!(by),
        "Whose requests are counted together: those of all clients, or those of each peer.",
    )
});

pub(in super::super) fn peers_limit_schema() -> Option<Value> {
    schema::or_off(LIMIT_OF_PEERS.schema())
}

/// `inbound.rate_limit`.
pub(in super::super) fn peers_limit(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<RateLimit> {
    limit(&LIMIT_OF_PEERS, node, reading)
}

pub(in super::super) fn tell_peers_limit(of: Option<RateLimit>, at: &Scopes<'_>, page: &mut Page<'_>) {
    tell_limit(&LIMIT_OF_PEERS, of, at, page);
}

fn limit(keys: &Block<LimitBlock>, node: &Node<'_>, reading: &mut Reading<'_>) -> Option<RateLimit> {
    let mut block = None;
    keys.read_or_off(&mut block, node, reading);
    let LimitBlock { requests, per, burst, by } = block?;
    if requests.is_none() && !node.has("requests", reading) {
        node.lacks("requests", "{ requests: 100, per: 1s }", reading);
    }
    Some(RateLimit { requests: requests?, per, burst, by })
}

fn tell_limit(keys: &Block<LimitBlock>, of: Option<RateLimit>, at: &Scopes<'_>, page: &mut Page<'_>) {
    match of {
        None => page.tell(at, "off"),
        Some(RateLimit { requests, per, burst, by }) => {
            let burst = Some(burst.unwrap_or(requests));
            keys.tell(&LimitBlock { requests: Some(requests), per, burst, by }, at, page);
        }
    }
}

struct RedirectBlock {
    path: Option<String>,
    host: Option<String>,
    scheme: Option<Scheme>,
    status: u32,
}

static REDIRECT: Static<RedirectBlock> = Static::new(|| {
    let none = || RedirectBlock { path: None, host: None, scheme: None, status: Redirect::STATUS.into() };
    Block::new(none)
        .word::<Opt<RedirectPath>>(
            "path",
            field!(path),
            "The new path. The query of the request is kept unless this path has one. Default: the path of the request.",
        )
        .word::<Opt<Authority>>("host", field!(host), "The new host. Default: the host of the request.")
        .word::<Opt<Scheme>>(
            "scheme",
            field!(scheme),
            "The new scheme. Default: http if `host` is written, else the scheme of the request.",
        )
        .word::<Count<300, 399>>("status", field!(status), "The status: 301, 302, 303, 307 or 308.")
});

struct RespondBlock {
    status: Option<u32>,
    body: String,
}

static RESPOND: Static<RespondBlock> = Static::new(|| {
    Block::new(|| RespondBlock { status: None, body: String::new() })
        .word::<Opt<Count<200, 599>>>("status", field!(status), "The status of the answer.")
        .word::<RespondBody>(
            "body",
            field!(body),
            "The text of the answer, as text/plain unless `response_headers` sets another content-type.",
        )
});

fn redirect(node: &Node<'_>, reading: &mut Reading<'_>) -> Redirect {
    let RedirectBlock { path, host, scheme, status } = REDIRECT.read_new(node, reading);
    Redirect { path, host, scheme, status: u16::try_from(status).unwrap_or(Redirect::STATUS) }
}

fn respond(node: &Node<'_>, reading: &mut Reading<'_>) -> Respond {
    let RespondBlock { status, body } = RESPOND.read_new(node, reading);
    if status.is_none() && !node.has("status", reading) {
        node.lacks("status", "{ status: 200, body: \"hello\" }", reading);
    }
    Respond { status: status.and_then(|status| u16::try_from(status).ok()).unwrap_or(200), body }
}

/// The keys of a route that are its actions.
pub(super) fn with_actions(block: Block<RouteBlock>) -> Block<RouteBlock> {
    let untold = |_: &RouteBlock, _: &Scopes<'_>, _: &mut Page<'_>| {}; // see `tell`
    block
        .key(
            "mirror",
            "A service that gets a copy of a share of the requests. Its answers are discarded.",
            || schema::or_off(MIRROR.schema()),
            |route: &mut RouteBlock, node, reading| route.actions.mirror = mirror(node, reading),
            untold,
        )
        .key(
            "fault",
            "Faults that are injected to test how callers behave.",
            || schema::or_off(FAULT.schema()),
            |route: &mut RouteBlock, node, reading| route.actions.fault = fault(node, reading),
            untold,
        )
        .block(
            "rewrite",
            field!(actions.rewrite),
            &REWRITE,
            "Changes of the path and the host that the service gets.",
        )
        .key(
            "redirect",
            "A redirect that the sidecar answers, in place of `to`.",
            || REDIRECT.schema(),
            |route: &mut RouteBlock, node, reading| {
                route.actions.answer = Some(Answer::Redirect(redirect(node, reading)));
            },
            untold,
        )
        .key(
            "respond",
            "A fixed answer of the sidecar, in place of `to`.",
            || RESPOND.schema(),
            |route: &mut RouteBlock, node, reading| {
                route.actions.answer = Some(Answer::Respond(respond(node, reading)));
            },
            untold,
        )
        .block(
            "request_headers",
            field!(actions.request_headers),
            &CHANGES,
            "Changes of the headers that the service gets.",
        )
        .block(
            "response_headers",
            field!(actions.response_headers),
            &CHANGES,
            "Changes of the headers that the caller gets. They do not apply to errors of the sidecar itself.",
        )
        .key(
            "rate_limit",
            "The number of requests that this route may forward in a time; a further request gets 429.",
            || schema::or_off(LIMIT.schema()),
            |route: &mut RouteBlock, node, reading| route.actions.rate_limit = limit(&LIMIT, node, reading),
            untold,
        )
}

/// What makes no sense beside an answer of the route's own.
const FOR_SERVICES: [&str; 7] = ["to", "timeout", "retry", "mirror", "fault", "rewrite", "request_headers"];

/// Refuses what a route that answers by itself cannot do.
pub(super) fn refuse_beside_answer(answers: bool, node: &Node<'_>, reading: &mut Reading<'_>) {
    if answers && node.has("redirect", reading) && node.has("respond", reading) {
        node.remark("has `redirect` and `respond`", reading).help("keep one");
    }
    for key in FOR_SERVICES.into_iter().filter(|_| answers) {
        if let Some(child) = node.child(key, reading) {
            child
                .remark_on_key("makes no sense in a route that answers by itself", reading)
                .help("leave it out, or leave out `redirect` and `respond`");
        }
    }
}

pub(super) fn tell(actions: &Actions, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Actions { answer, rewrite, request_headers, response_headers, fault, mirror, rate_limit } = actions;
    if let Some(Mirror { service, share }) = mirror {
        MIRROR.tell(&MirrorBlock { service: Some(service.clone()), share: *share }, &at.key("mirror"), page);
    }
    if *fault != FaultInjection::default() {
        tell_fault(fault, &at.key("fault"), page);
    }
    match answer {
        Some(Answer::Redirect(Redirect { path, host, scheme, status })) => {
            let (path, host) = (path.clone(), host.clone());
            let block = RedirectBlock { path, host, scheme: *scheme, status: (*status).into() };
            REDIRECT.tell(&block, &at.key("redirect"), page);
        }
        Some(Answer::Respond(Respond { status, body })) => {
            let block = RespondBlock { status: Some((*status).into()), body: body.clone() };
            RESPOND.tell(&block, &at.key("respond"), page);
        }
        None => {}
    }
    if *rewrite != Rewrite::default() {
        REWRITE.tell(rewrite, &at.key("rewrite"), page);
    }
    CHANGES.tell(request_headers, &at.key("request_headers"), page);
    CHANGES.tell(response_headers, &at.key("response_headers"), page);
    if rate_limit.is_some() {
        tell_limit(&LIMIT, *rate_limit, &at.key("rate_limit"), page);
    }
}
