//! `inbound` and `outbound`: the two sides.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Remarks, Surroundings, Trail, probes};
use crate::file;
use crate::shape::{Entries, OneOrMore, Typed};
use crate::value::{AutoOr, Count, OffOr, Port, Size};
use crate::words::Target;
use pillion_model::listener::{AppProtocol, Inbound, Mtls, Outbound, PortPolicy, RedirectTo, Unknown};

const INBOUND_PORT: u16 = 15006;
const OUTBOUND_PORT: u16 = 15001;
/// Where the application is, when nobody says.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// From anywhere, on both families.
pub(super) fn everywhere(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

/// What was written, or the default. An empty list listens nowhere: `off` says that better.
pub(super) fn listen(
    written: Option<OneOrMore<SocketAddr>>,
    default: Vec<SocketAddr>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Vec<SocketAddr> {
    match written {
        None => default,
        Some(OneOrMore(addresses)) => {
            if addresses.is_empty() {
                remarks
                    .error(&at.key("listen"), "is empty")
                    .help("write an address, or leave it out for the default");
            }
            addresses
        }
    }
}

pub(super) fn inbound(
    file: Option<OffOr<file::Inbound>>,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> Option<Inbound> {
    let file = file.unwrap_or_default().set()?;
    refuse_unbuilt(&file, at, remarks);
    let mtls = mtls(file.mtls, at, around, remarks);
    let inbound = Inbound {
        listen: listen(file.listen, everywhere(INBOUND_PORT), at, remarks),
        app: file.app.map(|Typed(Target(app))| app),
        redirect_to: file.redirect_to.map_or(RedirectTo::Original, |Typed(to)| to),
        protocol: file.protocol.map_or(AppProtocol::Auto, |Typed(protocol)| protocol),
        mtls,
        timeout: file.timeout.and_then(|Typed(timeout)| timeout.set()),
        max_connections: file.max_connections.and_then(|Typed(AutoOr(most))| most).map(|Count(most)| most),
        max_requests: file.max_requests.and_then(|Typed(most)| most.set()).map(|Count(most)| most),
        max_body: file.max_body.and_then(|Typed(most)| most.set()).map(|Size(bytes)| bytes),
        probes: probes::probes(file.probes, &at.key("probes"), remarks),
        ports: ports(file.ports, &at.key("ports"), around, remarks),
    };
    refuse_circles(&inbound, at, remarks);
    Some(inbound)
}

fn refuse_unbuilt(file: &file::Inbound, at: &Trail<'_>, remarks: &mut Remarks) {
    remarks.unless_off(&at.key("rate_limit"), &file.rate_limit);
    remarks.not_yet(&at.key("authorization"), &file.authorization);
}

/// Strict wherever it can be.
fn mtls(
    written: Option<Typed<Mtls>>,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> Mtls {
    let default = if around.identity { Mtls::Strict } else { Mtls::Off };
    provable(written, at, around, remarks).unwrap_or(default)
}

/// Strict and permissive mean to prove who this workload is.
fn provable(
    written: Option<Typed<Mtls>>,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> Option<Mtls> {
    let Typed(mtls) = written?;
    let word = match mtls {
        Mtls::Strict => "strict",
        Mtls::Permissive => "permissive",
        Mtls::Off => return Some(mtls),
    };
    if !around.identity {
        remarks
            .error(&at.key("mtls"), format!("is {word}, but there is no `identity` to prove"))
            .help("add identity: { directory: certs }, or write mtls: off");
    }
    Some(mtls)
}

fn ports(
    written: Option<Entries<Port, Option<file::PortBlock>>>,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> BTreeMap<u16, PortPolicy> {
    let entries = written.map(|Entries(entries)| entries).unwrap_or_default();
    let each = |(Port(port), block): (_, Option<_>)| {
        let name = port.to_string();
        (port, port_policy(block.unwrap_or_default(), &at.key(&name), around, remarks))
    };
    entries.into_iter().map(each).collect()
}

fn port_policy(
    block: file::PortBlock,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> PortPolicy {
    PortPolicy {
        protocol: block.protocol.map(|Typed(protocol)| protocol),
        mtls: provable(block.mtls, at, around, remarks),
        listen: listen(block.listen, Vec::new(), at, remarks),
    }
}

/// The application cannot be where its own sidecar listens.
fn refuse_circles(inbound: &Inbound, at: &Trail<'_>, remarks: &mut Remarks) {
    let own = OwnListeners::of(inbound);
    if let Some((app, own)) = inbound.app.and_then(|app| Some((app, own.at(app)?))) {
        remarks
            .error(&at.key("app"), format!("is {app}, where inbound itself listens ({own})"))
            .help("write the address of the application");
    }
    let ports = at.key("ports");
    for (port, _) in inbound.ports.iter().filter(|(_, policy)| !policy.listen.is_empty()) {
        let to = SocketAddr::new(inbound.app.map_or(LOOPBACK, |app| app.ip()), *port);
        // the port of `app` is told there
        if let Some(own) = own.at(to).filter(|_| inbound.app != Some(to)) {
            let what = format!("is for {to}, where inbound itself listens ({own})");
            remarks
                .error(&ports.key(&port.to_string()).key("listen"), what)
                .help("the application listens on the port of this key; the sidecar needs another");
        }
    }
}

/// By port: a file may name every port there is, each with a listener.
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

    /// The one that a connection to `to` would reach.
    fn at(&self, to: SocketAddr) -> Option<SocketAddr> {
        let anywhere = |own: &SocketAddr| own.ip().is_unspecified() && to.ip().is_loopback();
        self.0.get(&to.port())?.iter().copied().find(|own| *own == to || anywhere(own))
    }
}

/// Loopback alone: what comes from elsewhere is not this application's.
pub(super) fn outbound(
    file: Option<OffOr<file::Outbound>>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Option<Outbound> {
    let file = file.unwrap_or_default().set()?;
    let own = vec![(Ipv4Addr::LOCALHOST, OUTBOUND_PORT).into(), (Ipv6Addr::LOCALHOST, OUTBOUND_PORT).into()];
    Some(Outbound {
        listen: listen(file.listen, own, at, remarks),
        unknown: file.unknown.map_or(Unknown::Passthrough, |Typed(unknown)| unknown),
    })
}
