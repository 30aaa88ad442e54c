//! What a seed decides: the mesh, its policies, the traffic, and what happens to the network meanwhile.
//!
//! Pure: a plan is made of random numbers alone, and the same seed makes the same plan.

use fastrand::Rng;

/// After this many milliseconds no request and no event begins; requests under way may still wait.
const BUSY: u64 = 4_000;

#[derive(Debug)]
pub(super) struct Plan {
    /// Behind the caller's sidecar there is a sidecar for each replica.
    pub(super) has_pairs: bool,
    pub(super) replicas: usize,
    /// Endpoints are learnt, as from DNS, and not written in the file.
    pub(super) learns: bool,
    /// Every second replica has an address of IPv6, so that both families are dialled side by side.
    pub(super) has_both_families: bool,
    /// Where each replica is, as the caller's sidecar sees it.
    pub(super) levels: Vec<Level>,
    /// The policies of the service: the first holds from the start, and a reload brings each further one.
    pub(super) policies: Vec<Policy>,
    pub(super) callers: Vec<Caller>,
    /// The events in order of time, each with its millisecond.
    pub(super) events: Vec<(u64, Event)>,
}

/// The zone and priority of a replica. The derived order is that in which requests go to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    OwnZone,
    OtherZone,
    /// Of a higher priority number.
    Reserve,
}

/// The zone of the caller's sidecar.
pub(super) const ZONE: &str = "a";

impl Level {
    pub(super) const fn zone(self) -> &'static str {
        if matches!(self, Self::OwnZone) { ZONE } else { "b" }
    }

    pub(super) const fn priority(self) -> u32 {
        if matches!(self, Self::Reserve) { 1 } else { 0 }
    }
}

/// The keys of the service, without its endpoints.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) yaml: String,
    pub(super) health_check: &'static str,
    pub(super) attempts: usize,
    pub(super) repeats_keyed: bool,
    /// Requests with the same key go to the same replica.
    pub(super) is_hashed: bool,
    pub(super) has_slow_start: bool,
}

/// The highest `timeout` of a policy, in milliseconds.
pub(super) const TIMEOUT: u64 = 3_000;

/// A client with one connection at a time.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) is_http2: bool,
    /// What happens to its connection, at which byte.
    pub(super) cut: Option<Cut>,
    pub(super) asks: Vec<Ask>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Get,
    Put,
    Post,
    /// A POST with an `Idempotency-Key`.
    Keyed,
    /// A unary call, with its status in trailers.
    Grpc,
}

/// One request, and the answer that it asks for.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) token: usize,
    /// What the balancers that hash see of it.
    pub(super) key: usize,
    pub(super) kind: Kind,
    pub(super) size: usize,
    pub(super) is_chunked: bool,
    /// Milliseconds between two pieces of the body.
    pub(super) pace: u64,
    pub(super) answer_size: usize,
    pub(super) is_answer_chunked: bool,
    /// Milliseconds after the request before.
    pub(super) after: u64,
    /// Milliseconds after which the client goes away.
    pub(super) patience: Option<u64>,
}

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the client to the server.
    There,
    Back,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Reset,
    /// The sender ends this direction, and sends nothing more in it.
    HalfClose,
}

/// What happens to a connection after `after` more bytes in one direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) way: Way,
    pub(super) after: u64,
    pub(super) how: How,
}

/// Where an event happens: a replica, and the connections to it (0) or to the sidecar before it (1).
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) replica: usize,
    pub(super) level: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Event {
    /// The address refuses connections, and open connections are reset.
    Die(Place),
    /// Connections are not answered any more, and no byte moves.
    Vanish(Place),
    /// The faults of this place are over.
    Return(Place),
    /// Bytes in one direction are held back until `Return`.
    Hold(Place, Way),
    /// Bytes take this many milliseconds longer.
    Delay(Place, u64),
    Cut(Place, Cut),
    /// The next answers of the replica.
    Behave(usize, Manner, usize),
    /// The file has another policy.
    Reload(usize),
    /// The endpoints are those whose bit is set.
    Members(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Fail(u16),
    /// Answers before it has read the body.
    FailEarly(u16),
    /// The connection ends without an answer.
    HangUp,
    /// A pause in milliseconds, before the answer and before each piece of its body.
    Slow(u64),
    /// HTTP/2: the stream is refused before it is processed. HTTP/1: like `HangUp`, before the request is read.
    Refuse,
    /// HTTP/2: no stream after this one. HTTP/1: `connection: close`.
    Last,
    /// The answer breaks off after so many bytes of its body.
    Break(usize),
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let has_pairs = rng.u8(..4) == 0;
        let replicas = if has_pairs { rng.usize(1..=2) } else { rng.usize(1..=4) };
        let policies: Vec<_> = (0..rng.usize(1..=3)).map(|_| policy(&mut rng)).collect();
        let mut token = 0;
        let callers = (0..rng.usize(1..=4)).map(|_| caller(&mut rng, &mut token)).collect();
        let mut events: Vec<_> = (0..rng.usize(0..=12))
            .map(|_| (rng.u64(..BUSY), event(&mut rng, replicas, has_pairs, policies.len())))
            .collect();
        events.sort_by_key(|(at, _)| *at);
        let has_levels = rng.u8(..3) == 0;
        let levels =
            (0..replicas).map(|_| if has_levels { level(&mut rng) } else { Level::OwnZone }).collect();
        let (learns, has_both_families) = (rng.u8(..3) == 0, rng.u8(..3) == 0);
        Self { has_pairs, replicas, learns, has_both_families, levels, policies, callers, events }
    }

    pub(super) fn asks(&self) -> impl Iterator<Item = &Ask> {
        self.callers.iter().flat_map(|caller| &caller.asks)
    }
}

fn level(rng: &mut Rng) -> Level {
    *rng.choice(&[Level::OwnZone, Level::OwnZone, Level::OtherZone, Level::Reserve]).expect("there are some")
}

/// Balancers with which two requests of the same key go to the same replica.
const HASHED: [&str; 4] = [
    "{ ring_hash: { header: x-key } }",
    "{ maglev: { header: x-key } }",
    "{ ring_hash: { source: true } }",
    "{ maglev: { source: true } }",
];

/// Balancers for which each request is one of its own. No client keeps its cookie.
const SPREAD: [&str; 6] = [
    "peak_ewma",
    "least_request",
    "round_robin",
    "random",
    "{ ring_hash: { cookie: sid } }",
    "{ maglev: { path: true } }",
];

fn policy(rng: &mut Rng) -> Policy {
    let is_hashed = rng.u8(..4) == 0;
    let balancer = if is_hashed { pick(rng, &HASHED) } else { pick(rng, &SPREAD) };
    let protocol = pick(rng, &["auto", "auto", "http1", "http2"]);
    let attempts = rng.usize(0..=3);
    let repeats_keyed = rng.bool();
    let methods = if repeats_keyed { "idempotent_or_keyed" } else { "idempotent" };
    let conditions =
        pick(rng, &["", ", conditions: [connect_failure, refused_stream, reset, 5xx, per_try_timeout]"]);
    let per_try = pick(rng, &["off", "300ms", "1s"]);
    let kept = pick(rng, &["64KiB", "1KiB", "0B"]);
    let hedged = pick(rng, &["off", "off", "30ms", "p95"]);
    let retry = match attempts {
        0 => "off".to_owned(),
        _ => format!(
            "{{ attempts: {attempts}, methods: {methods}, per_try_timeout: {per_try}, max_body: {kept}, hedge_after: {hedged}{conditions} }}"
        ),
    };
    let most = pick(rng, &["1024", "4", "1"]);
    let connections = pick(rng, &["off", "2", "1"]);
    let requests = pick(rng, &["1024", "1024", "6"]);
    let pending = pick(rng, &["1024", "1024", "2"]);
    let outliers = pick(
        rng,
        &[
            "off",
            "{ base_ejection: 1s }",
            "{ consecutive_errors: 2, base_ejection: 500ms, max_ejected: 100% }",
        ],
    );
    let health_check = pick(
        rng,
        &[
            "off",
            "off",
            "off",
            "{ tcp: true, interval: 2s, timeout: 500ms }",
            "{ http: /healthz, interval: 2s, timeout: 500ms }",
        ],
    );
    let timeout = pick(rng, &["1s", "2s", "3s"]);
    let uses = pick(rng, &["off", "off", "3"]);
    let adaptive = pick(rng, &["off", "off", "gradient"]);
    let slow_start = pick(rng, &["off", "off", "2s"]);
    let yaml = format!(
        "load_balancer: {balancer}, protocol: {protocol}, retry: {retry}, timeout: {timeout}, connect_timeout: 500ms, \
         stream_idle_timeout: 3s, connection: {{ idle_timeout: 3s, max_requests: {uses} }}, \
         circuit_breaker: {{ max_connections: {most}, max_connections_per_endpoint: {connections}, \
         max_requests: {requests}, max_pending_requests: {pending}, adaptive: {adaptive} }}, slow_start: {slow_start}, \
         outlier_detection: {outliers}"
    );
    let has_slow_start = slow_start != "off";
    Policy { yaml, health_check, attempts, repeats_keyed, is_hashed, has_slow_start }
}

fn caller(rng: &mut Rng, token: &mut usize) -> Caller {
    let is_http2 = rng.bool();
    let cut = (rng.u8(..5) == 0).then(|| cut(rng));
    let asks = (0..rng.usize(1..=8)).map(|_| ask(rng, token, is_http2)).collect();
    Caller { is_http2, cut, asks }
}

fn ask(rng: &mut Rng, token: &mut usize, is_http2: bool) -> Ask {
    use Kind::{Get, Grpc, Keyed, Post, Put};
    let kinds = if is_http2 { [Get, Get, Put, Post, Keyed, Grpc] } else { [Get, Get, Get, Put, Post, Keyed] };
    let kind = *rng.choice(&kinds).expect("there are some");
    *token += 1;
    Ask {
        token: *token - 1,
        key: rng.usize(..3),
        kind,
        size: if kind == Get { 0 } else { size(rng) },
        is_chunked: rng.bool(),
        pace: if rng.u8(..4) == 0 { rng.u64(1..60) } else { 0 },
        answer_size: size(rng),
        is_answer_chunked: rng.bool(),
        after: if rng.bool() { 0 } else { rng.u64(..BUSY / 6) },
        patience: (rng.u8(..12) == 0).then(|| rng.u64(1..1500)),
    }
}

/// The size of a body. Most are small.
fn size(rng: &mut Rng) -> usize {
    match rng.u8(..20) {
        0..6 => 0,
        6..16 => rng.usize(1..2_000),
        16..19 => rng.usize(2_000..40_000),
        _ => rng.usize(40_000..150_000),
    }
}

fn cut(rng: &mut Rng) -> Cut {
    let way = if rng.bool() { Way::There } else { Way::Back };
    let after = if rng.u8(..3) == 0 { rng.u64(..20_000) } else { rng.u64(..700) };
    Cut { way, after, how: if rng.u8(..4) == 0 { How::HalfClose } else { How::Reset } }
}

fn event(rng: &mut Rng, replicas: usize, has_pairs: bool, policies: usize) -> Event {
    let level = usize::from(has_pairs && rng.bool());
    let place = Place { replica: rng.usize(..replicas), level };
    match rng.u8(..20) {
        0..2 => Event::Die(place),
        2 => Event::Vanish(place),
        3..6 => Event::Return(place),
        6..8 => Event::Hold(place, if rng.bool() { Way::There } else { Way::Back }),
        8 => Event::Delay(place, rng.u64(1..400)),
        9..13 => Event::Cut(place, cut(rng)),
        13..17 => Event::Behave(place.replica, manner(rng), rng.usize(1..4)),
        17..19 => Event::Reload(rng.usize(..policies)),
        _ => Event::Members(rng.u32(1..1 << replicas)),
    }
}

fn manner(rng: &mut Rng) -> Manner {
    match rng.u8(..7) {
        0 => Manner::Fail(pick_status(rng)),
        1 => Manner::FailEarly(pick_status(rng)),
        2 => Manner::HangUp,
        3 => Manner::Slow(rng.u64(1..1_200)),
        4 => Manner::Refuse,
        5 => Manner::Last,
        _ => Manner::Break(size(rng)),
    }
}

fn pick_status(rng: &mut Rng) -> u16 {
    *rng.choice(&[500, 502, 503, 504]).expect("there are some")
}

fn pick(rng: &mut Rng, all: &[&'static str]) -> &'static str {
    rng.choice(all).expect("there are some")
}
