//! `inbound` and `outbound`: the two sides.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Remarks, Surroundings, Trail};
use crate::file;
use crate::listener::{AppProtocol, Inbound, Mtls, Outbound, PortPolicy, RedirectTo, Unknown};
use crate::shape::{Entries, OneOrMore, Typed};
use crate::value::{AutoOr, Count, OffOr, Port, Size};
use crate::words::Target;

const INBOUND_PORT: u16 = 15006;
const OUTBOUND_PORT: u16 = 15001;

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
    let listen = listen(file.listen, everywhere(INBOUND_PORT), at, remarks);
    Some(Inbound {
        app: app(file.app, &listen, at, remarks),
        redirect_to: RedirectTo::Original,
        listen,
        protocol: file.protocol.map_or(AppProtocol::Auto, |Typed(protocol)| protocol),
        mtls,
        timeout: file.timeout.and_then(|Typed(timeout)| timeout.set()),
        max_connections: file.max_connections.and_then(|Typed(AutoOr(most))| most).map(|Count(most)| most),
        max_requests: file.max_requests.and_then(|Typed(most)| most.set()).map(|Count(most)| most),
        max_body: file.max_body.and_then(|Typed(most)| most.set()).map(|Size(bytes)| bytes),
        ports: ports(file.ports, at, remarks),
    })
}

fn refuse_unbuilt(file: &file::Inbound, at: &Trail<'_>, remarks: &mut Remarks) {
    remarks.not_yet(&at.key("redirect_to"), &file.redirect_to);
    remarks.unless_off(&at.key("rate_limit"), &file.rate_limit);
    remarks.unless_off(&at.key("probes"), &file.probes);
    remarks.not_yet(&at.key("authorization"), &file.authorization);
}

/// Strict wherever it can be.
fn mtls(
    written: Option<Typed<Mtls>>,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> Mtls {
    match (written, around.identity) {
        (Some(Typed(Mtls::Strict)), false) => {
            remarks
                .error(&at.key("mtls"), "is strict, but there is no `identity` to prove")
                .help("add identity: { directory: certs }, or write mtls: off");
            Mtls::Strict
        }
        (Some(Typed(mtls)), _) => mtls,
        (None, true) => Mtls::Strict,
        (None, false) => Mtls::Off,
    }
}

fn app(
    written: Option<Typed<Target>>,
    listen: &[SocketAddr],
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Option<SocketAddr> {
    let Typed(Target(app)) = written?;
    let to_itself = |own: &&SocketAddr| {
        **own == app || (own.port() == app.port() && own.ip().is_unspecified() && app.ip().is_loopback())
    };
    if let Some(own) = listen.iter().find(to_itself) {
        remarks
            .error(&at.key("app"), format!("is {app}, where inbound itself listens ({own})"))
            .help("write the address of the application");
    }
    Some(app)
}

fn ports(
    written: Option<Entries<Port, Option<file::PortBlock>>>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> BTreeMap<u16, PortPolicy> {
    let at = at.key("ports");
    let mut ports = BTreeMap::new();
    for (Port(port), block) in written.map(|Entries(entries)| entries).unwrap_or_default() {
        let (block, name) = (block.unwrap_or_default(), port.to_string());
        let at = at.key(&name);
        remarks.not_yet(&at.key("mtls"), &block.mtls);
        remarks.not_yet(&at.key("listen"), &block.listen);
        ports.insert(
            port,
            PortPolicy { protocol: block.protocol.map(|Typed(protocol)| protocol), ..PortPolicy::default() },
        );
    }
    ports
}

/// Loopback alone: what comes from elsewhere is not this application's.
pub(super) fn outbound(
    file: Option<OffOr<file::Outbound>>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Option<Outbound> {
    let file = file.unwrap_or_default().set()?;
    remarks.not_yet(&at.key("unknown"), &file.unknown);
    let own = vec![(Ipv4Addr::LOCALHOST, OUTBOUND_PORT).into(), (Ipv6Addr::LOCALHOST, OUTBOUND_PORT).into()];
    Some(Outbound { listen: listen(file.listen, own, at, remarks), unknown: Unknown::Passthrough })
}
