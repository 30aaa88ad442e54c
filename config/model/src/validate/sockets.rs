//! No two listeners may have the same address and port.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::fault::Faults;
use crate::path::Trail;
use crate::telemetry::{Admin, Metrics};
use crate::{Config, Dns, Inbound, Outbound};

/// A few listeners for each port are enough to find a collision, and the bound keeps the checks linear.
const NEIGHBOURS: usize = 8;

/// The part of the configuration to which a `listen` belongs.
#[derive(Clone, Copy)]
enum Owner<'a> {
    Section(&'a str),
    /// A single port of the application, under `inbound.ports`.
    Port(u16),
    Service(&'a str),
}

impl Owner<'_> {
    fn name(self) -> String {
        match self {
            Self::Section(section) => section.to_owned(),
            Self::Port(port) => format!("inbound.ports.{port}"),
            Self::Service(service) => format!("service {service}"),
        }
    }
}

struct Listener<'a> {
    owner: Owner<'a>,
    address: SocketAddr,
    /// Whether the operator chose the address. If a chosen listener collides with a default one, the chosen one is
    /// reported.
    chosen: bool,
}

impl Listener<'_> {
    /// Whether the kernel would refuse to bind both listeners.
    fn meets(&self, other: &Self) -> bool {
        let (one, two) = (self.address, other.address);
        let same_family = one.is_ipv4() == two.is_ipv4();
        let same_ip = one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified();
        // port 0 takes a free port, so two of them never collide
        one.port() == two.port() && one.port() != 0 && same_family && same_ip
    }
}

impl Listener<'_> {
    /// Whether a connection to `to` surely reaches this listener.
    fn is_reached_by(&self, to: SocketAddr) -> bool {
        let own = self.address;
        let same_family = own.is_ipv4() == to.is_ipv4();
        let is_local = to.ip().is_loopback() || to.ip().is_unspecified(); // the kernel dials loopback for 0.0.0.0
        let here = own.ip() == to.ip()
            || is_local && (own.ip().is_unspecified() || own.ip().is_loopback() && to.ip().is_unspecified());
        own.port() == to.port() && same_family && here
    }
}

pub(super) fn refuse_shared(config: &Config, faults: &mut Faults) {
    let mut listeners = all(config);
    // the sort is stable: defaults come first, then the order of the sections
    listeners.sort_by_key(|listener| listener.chosen);
    let mut by_port: HashMap<u16, Vec<&Listener<'_>>> = HashMap::new();
    for listener in &listeners {
        let neighbours = by_port.entry(listener.address.port()).or_default();
        if let Some(earlier) = neighbours.iter().find(|earlier| earlier.meets(listener)) {
            refuse(listener, earlier, faults);
        }
        if neighbours.len() < NEIGHBOURS {
            neighbours.push(listener);
        }
    }
}

/// Warns of endpoints that are listeners of the sidecar itself: what is sent there comes back.
pub(super) fn warn_of_own_endpoints(config: &Config, faults: &mut Faults) {
    let mut by_port: HashMap<u16, Vec<Listener<'_>>> = HashMap::new();
    for listener in all(config) {
        let neighbours = by_port.entry(listener.address.port()).or_default();
        if neighbours.len() < NEIGHBOURS {
            neighbours.push(listener);
        }
    }
    let root = Trail::root();
    let services = root.key("services");
    for cluster in &config.clusters {
        let service = services.key(&cluster.name);
        let endpoints = service.key("endpoints");
        for (nth, endpoint) in cluster.endpoints.iter().enumerate() {
            let to = endpoint.address;
            let own = by_port.get(&to.port()).and_then(|own| own.iter().find(|own| own.is_reached_by(to)));
            if let Some(own) = own {
                let what =
                    format!("is {to}, where {} of this sidecar listens ({})", own.owner.name(), own.address);
                faults
                    .warn(&endpoints.index(nth), what)
                    .help("what is sent there comes back: write the address of the server");
            }
        }
    }
}

fn refuse(later: &Listener<'_>, earlier: &Listener<'_>, faults: &mut Faults) {
    let name = earlier.owner.name();
    let what = format!("has {}, where {name} listens already ({})", later.address, earlier.address);
    at_listen(later.owner, |at| {
        faults.error(at, what).help("give each listener a port of its own; 0 takes a free one");
    });
}

/// Calls `then` with the path of the owner's `listen`. A trail lives on the stack, so it cannot be returned.
fn at_listen(owner: Owner<'_>, then: impl FnOnce(&Trail<'_>)) {
    let root = Trail::root();
    match owner {
        Owner::Section(section) => then(&root.key(section).key("listen")),
        Owner::Port(port) => then(&root.key("inbound").key("ports").key(&port.to_string()).key("listen")),
        Owner::Service(service) => then(&root.key("services").key(service).key("listen")),
    }
}

fn all(config: &Config) -> Vec<Listener<'_>> {
    let mut all = Vec::new();
    let mut add = |owner, listen: &[SocketAddr], default: &[SocketAddr]| {
        let chosen = listen != default;
        all.extend(listen.iter().map(|address| Listener { owner, address: *address, chosen }));
    };
    if let Some(inbound) = &config.inbound {
        add(Owner::Section("inbound"), &inbound.listen, &Inbound::default().listen);
        inbound.ports.iter().for_each(|(port, policy)| add(Owner::Port(*port), &policy.listen, &[]));
    }
    if let Some(outbound) = &config.outbound {
        add(Owner::Section("outbound"), &outbound.listen, &Outbound::default().listen);
    }
    if let Some(dns) = &config.dns {
        add(Owner::Section("dns"), &dns.listen, &Dns::default().listen);
    }
    add(Owner::Section("admin"), &config.admin.listen, &Admin::default().listen);
    if let Some(metrics) = &config.metrics {
        add(Owner::Section("metrics"), &metrics.listen, &Metrics::default().listen);
    }
    config.clusters.iter().for_each(|cluster| add(Owner::Service(&cluster.name), &cluster.listen, &[]));
    all
}
