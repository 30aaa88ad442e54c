//! `inbound`, `outbound`, `admin` and `metrics`: where they listen, and whether inbound has an identity for its mTLS.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{authorization, merge};
use crate::Config;
use crate::fault::Faults;
use crate::listener::{AppProtocol, Inbound, Mtls};
use crate::path::Trail;

/// The address of the application where the configuration has none.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(super) fn validate(config: &Config, faults: &mut Faults) {
    let root = Trail::root();
    if let Some(inbound) = &config.inbound {
        self::inbound(inbound, config.identity.is_some(), &root.key("inbound"), faults);
    }
    if let Some(outbound) = &config.outbound {
        refuse_no_address(&outbound.listen, &root.key("outbound"), faults);
    }
    refuse_no_address(&config.admin.listen, &root.key("admin"), faults);
    if let Some(metrics) = &config.metrics {
        refuse_no_address(&metrics.listen, &root.key("metrics"), faults);
        merge::validate(metrics, &config.admin.listen, &root.key("metrics"), faults);
    }
}

/// An empty list would listen nowhere; `off` is the clear way to write that.
pub(super) fn refuse_no_address(listen: &[SocketAddr], at: &Trail<'_>, faults: &mut Faults) {
    if listen.is_empty() {
        faults.error(&at.key("listen"), "is empty").help("write an address, or leave it out for the default");
    }
}

fn inbound(inbound: &Inbound, has_identity: bool, at: &Trail<'_>, faults: &mut Faults) {
    refuse_no_address(&inbound.listen, at, faults);
    if !has_identity {
        refuse_unprovable(inbound.mtls, at, faults);
        let ports = at.key("ports");
        for (port, policy) in &inbound.ports {
            let name = port.to_string();
            policy.mtls.into_iter().for_each(|mtls| refuse_unprovable(mtls, &ports.key(&name), faults));
        }
    }
    refuse_idle_tls(inbound, at, faults);
    refuse_circles(inbound, at, faults);
    authorization::validate(inbound, at, faults);
}

/// Strict and permissive need a certificate, which this workload has only with an identity.
fn refuse_unprovable(mtls: Mtls, at: &Trail<'_>, faults: &mut Faults) {
    let word = match mtls {
        Mtls::Strict => "strict",
        Mtls::Permissive => "permissive",
        Mtls::Off => return,
    };
    faults
        .error(&at.key("mtls"), format!("is {word}, but there is no `identity` to prove"))
        .help("add identity: { directory: certs }, or write mtls: off")
        .depends_on(&Trail::root().key("identity"));
}

/// TLS for clients outside the mesh is spoken at a port's own listeners alone, and leaves plaintext for the application.
fn refuse_idle_tls(inbound: &Inbound, at: &Trail<'_>, faults: &mut Faults) {
    let ports = at.key("ports");
    for (port, policy) in inbound.ports.iter().filter(|(_, policy)| policy.tls.is_some()) {
        let name = port.to_string();
        let tls = ports.key(&name);
        let tls = tls.key("tls");
        if policy.listen.is_empty() {
            faults
                .error(&tls, "needs a listener of its own, to which clients outside the mesh connect")
                .help("write listen: \"0.0.0.0:443\" beside it");
        }
        if policy.protocol.unwrap_or(inbound.protocol) == AppProtocol::Tls {
            faults
                .error(&tls, "is terminated here, but the application speaks TLS itself (protocol: tls)")
                .help("remove one of the two");
        }
        let is_open = policy.mtls.unwrap_or(inbound.mtls) != Mtls::Strict;
        if is_open && inbound.listen.iter().any(|address| !address.ip().is_loopback()) {
            faults
                .warn(&tls, "holds at the port's own listener alone, and `inbound.listen` takes plaintext for this port")
                .help("write inbound: { listen: 127.0.0.1:15006 }, or mtls: strict with an identity");
        }
    }
}

/// The application cannot have an address at which its own sidecar listens.
fn refuse_circles(inbound: &Inbound, at: &Trail<'_>, faults: &mut Faults) {
    let own = OwnListeners::of(inbound);
    if let Some((app, own)) = inbound.app.and_then(|app| Some((app, own.at(app)?))) {
        faults
            .error(&at.key("app"), format!("is {app}, where inbound itself listens ({own})"))
            .help("write the address of the application");
    }
    let ports = at.key("ports");
    for (port, _) in inbound.ports.iter().filter(|(_, policy)| !policy.listen.is_empty()) {
        let to = SocketAddr::new(inbound.app.map_or(LOOPBACK, |app| app.ip()), *port);
        // a fault of the port in `app` is reported at `app`
        if let Some(own) = own.at(to).filter(|_| inbound.app != Some(to)) {
            let what = format!("is for {to}, where inbound itself listens ({own})");
            faults
                .error(&ports.key(&port.to_string()).key("listen"), what)
                .help("the application listens on the port of this key; the sidecar needs another");
        }
    }
}

/// The listeners of inbound by port, so that a configuration with every port is still checked quickly.
struct OwnListeners(HashMap<u16, Vec<SocketAddr>>);

impl OwnListeners {
    fn of(inbound: &Inbound) -> Self {
        let mut by_port: HashMap<u16, Vec<SocketAddr>> = HashMap::new();
        let single = inbound.ports.values().flat_map(|policy| &policy.listen);
        for own in inbound.listen.iter().chain(single) {
            by_port.entry(own.port()).or_default().push(*own);
        }
        Self(by_port)
    }

    /// The listener that a connection to `to` would reach.
    fn at(&self, to: SocketAddr) -> Option<SocketAddr> {
        let anywhere = |own: &SocketAddr| own.ip().is_unspecified() && to.ip().is_loopback();
        self.0.get(&to.port())?.iter().copied().find(|own| *own == to || anywhere(own))
    }
}
