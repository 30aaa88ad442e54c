//! Says what would happen to a request or a connection, and why: `pillion explain`.
//!
//! Pure: a snapshot, its configuration and a question in, the explanation out. The decisions are those of the functions
//! that route and judge requests; only the reasons of what does not fit are found here, one rule after the other.

mod inbound;
mod words;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use http::Method;
use pillion_http::message::RequestHead;
use pillion_model::listener::Unknown;
use pillion_model::{Config, SpiffeId};
use pillion_upstream::cluster::Cluster;

pub use inbound::Judged;

use super::egress;
use crate::state::{Route, Snapshot, Then, split_port};

/// A request or an opaque connection.
pub struct Question {
    /// The host that the request names, as it is written, perhaps with a port.
    pub host: String,
    /// The port of this host, or the usual one of `https`.
    pub port: Option<u16>,
    /// The address of the URL: the original destination of a redirected connection. `None`: the URL has a name.
    pub to: Option<SocketAddr>,
    /// `None`: opaque bytes.
    pub head: Option<RequestHead>,
    /// The application's port; `None`: the application beside the sidecar asks.
    pub inbound: Option<u16>,
    /// The identity of the caller.
    pub peer: Option<SpiffeId>,
    /// The address of the caller.
    pub source: Option<IpAddr>,
}

/// What would happen.
#[derive(Default)]
pub struct Explained {
    /// The number of the route in the file. `None`: no route applies.
    pub route: Option<usize>,
    /// The numbers of the routes before it, each with the first condition that does not fit.
    pub rejected: Vec<(usize, String)>,
    /// The name of the service to which the request goes. `None`: to none.
    pub service: Option<Arc<str>>,
    /// The services of the route with their weights, where there are several. The service above has the highest weight.
    pub split: Vec<(Arc<str>, u64)>,
    /// What the sidecar answers in place of the service, and why.
    pub refused: Option<String>,
    pub notes: Vec<String>,
    /// `None`: no rules apply.
    pub authorization: Option<Judged>,
    /// Each endpoint, and whether it can get a request now.
    pub endpoints: Vec<(SocketAddr, &'static str)>,
}

impl Question {
    /// The host without its port.
    fn name(&self) -> &str {
        split_port(&self.host).0
    }

    fn is_connect(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.method == Method::CONNECT)
    }
}

impl Explained {
    fn to(cluster: &Cluster, now: Instant) -> Self {
        Self::default().and_goes_to(cluster, now)
    }

    fn and_goes_to(self, cluster: &Cluster, now: Instant) -> Self {
        Self { service: Some(cluster.name.clone()), endpoints: cluster.eligibility(now), ..self }
    }
}

pub fn explain(snapshot: &Snapshot, config: &Config, of: &Question, now: Instant) -> Explained {
    match of.inbound {
        Some(port) => inbound::explain(snapshot, of, port),
        None => outbound(snapshot, config, of, now),
    }
}

fn outbound(snapshot: &Snapshot, config: &Config, of: &Question, now: Instant) -> Explained {
    if of.is_connect() {
        return connected(snapshot, of, now);
    }
    let Some(route) = destination(snapshot, of) else { return unknown(snapshot, of) };
    let Some(head) = &of.head else {
        let mut explained = Explained::to(&route.cluster, now);
        if !config.routes.is_empty() {
            explained.notes.push("opaque bytes have no routes".to_owned());
        }
        return explained;
    };
    routed(&route, config, head, of.name(), now)
}

/// What the proxy port does with a CONNECT. It has no path, so no entry of `routes` is asked.
fn connected(snapshot: &Snapshot, of: &Question, now: Instant) -> Explained {
    let Some(port) = of.port.filter(|port| *port != 0) else {
        let why = "bad_request: the target of a CONNECT needs a host and a port: CONNECT http://orders:8080";
        return Explained { refused: Some(why.to_owned()), ..Explained::default() };
    };
    let host = of.name().trim_matches(['[', ']']).to_ascii_lowercase();
    let mut explained = match egress::service_at(snapshot, &host, port) {
        Some(route) => Explained::to(&route.cluster, now),
        None => unknown(snapshot, of),
    };
    explained.notes.push("what runs inside a CONNECT is routed once more".to_owned());
    explained
}

/// The route of the service that the address or the host names. As for a redirected connection, the address decides, and
/// the host where the address belongs to no service.
fn destination(snapshot: &Snapshot, of: &Question) -> Option<Arc<Route>> {
    let by_address = of.to.and_then(|to| snapshot.addresses.find(to));
    let port = of.port.or_else(|| Some(of.to?.port()));
    by_address.or_else(|| snapshot.hosts.find_at(of.name(), port)).cloned()
}

fn unknown(snapshot: &Snapshot, of: &Question) -> Explained {
    let what = if of.to.is_some() { "address" } else { "host" };
    let mut explained = Explained::default();
    let to =
        of.to.or_else(|| Some((of.name().trim_matches(['[', ']']).parse::<IpAddr>().ok()?, of.port?).into()));
    let refused = to.and_then(|to| egress::allowed(snapshot, to).err());
    match (snapshot.policy, refused) {
        (Unknown::Passthrough, Some(error)) => {
            explained.refused = Some(format!("{}: {}", error.reason.code(), error.detail));
        }
        (Unknown::Passthrough, None) => {
            let goes = match of.is_connect() {
                true => "the sidecar connects to what the CONNECT names",
                false => "a redirected connection goes to its original destination",
            };
            let note = format!("no service has this {what}: {goes} (outbound.unknown is passthrough)");
            explained.notes.push(note);
        }
        (Unknown::Deny, _) => {
            let why = format!("egress_denied: no service has this {what}, and outbound.unknown is deny");
            explained.refused = Some(why);
        }
    }
    explained
}

/// What the routes of a host do with the request.
fn routed(route: &Route, config: &Config, head: &RequestHead, host: &str, now: Instant) -> Explained {
    let mut explained = Explained::to(&route.cluster, now);
    let found = route.rules.find(head);
    let before = found.map_or(config.routes.len(), |rule| rule.nth);
    for (nth, of) in config.routes.iter().enumerate().take(before) {
        let why = match route.rules.all().iter().find(|rule| rule.nth == nth) {
            Some(rule) => rule.misfit(head).map(|misfit| words::of_route(misfit, head)),
            None => Some(words::hosts(&of.hosts, host)),
        };
        explained.rejected.extend(why.map(|why| (nth, why)));
    }
    explained.route = found.map(|rule| rule.nth);
    match found.map(|rule| &rule.then) {
        Some(Then::To(split)) => {
            let mut all: Vec<(u64, &Arc<Route>)> = split.weighted().collect();
            all.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
            if all.len() > 1 {
                explained.split = all.iter().map(|(weight, to)| (to.cluster.name.clone(), *weight)).collect();
            }
            if let Some((_, to)) = all.first() {
                explained = explained.and_goes_to(&to.cluster, now);
            }
        }
        Some(Then::Answer(..)) => {
            explained.notes.push("the route answers itself; no service is asked".to_owned())
        }
        None if route.is_only_rules => {
            (explained.service, explained.endpoints) = (None, Vec::new());
            let why = "no_route: no route of this host matches, and no service has this host";
            explained.refused = Some(why.to_owned());
        }
        None => {}
    }
    explained
}
