//! `inbound` and `outbound`: the two sides.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Remarks, Surroundings, Trail, probes};
use crate::file;
use crate::shape::{Entries, OneOrMore, Typed};
use crate::value::{AutoOr, Count, OffOr, Port, Size};
use crate::words::Target;
use pillion_model::listener::{AppProtocol, Inbound, Mtls, Outbound, PortPolicy, RedirectTo, Unknown};

/// What was written, or the default.
pub(super) fn listen(written: Option<OneOrMore<SocketAddr>>, default: Vec<SocketAddr>) -> Vec<SocketAddr> {
    written.map_or(default, |OneOrMore(addresses)| addresses)
}

pub(super) fn inbound(
    file: Option<OffOr<file::Inbound>>,
    at: &Trail<'_>,
    around: &Surroundings<'_>,
    remarks: &mut Remarks,
) -> Option<Inbound> {
    let file = file.unwrap_or_default().set()?;
    refuse_unbuilt(&file, at, remarks);
    let mtls = if around.identity { Mtls::Strict } else { Mtls::Off };
    Some(Inbound {
        listen: listen(file.listen, Inbound::default().listen),
        app: file.app.map(|Typed(Target(app))| app),
        redirect_to: file.redirect_to.map_or(RedirectTo::Original, |Typed(to)| to),
        protocol: file.protocol.map_or(AppProtocol::Auto, |Typed(protocol)| protocol),
        mtls: file.mtls.map_or(mtls, |Typed(mtls)| mtls),
        timeout: file.timeout.and_then(|Typed(timeout)| timeout.set()),
        max_connections: file.max_connections.and_then(|Typed(AutoOr(most))| most).map(|Count(most)| most),
        max_requests: file.max_requests.and_then(|Typed(most)| most.set()).map(|Count(most)| most),
        max_body: file.max_body.and_then(|Typed(most)| most.set()).map(|Size(bytes)| bytes),
        probes: probes::probes(file.probes, &at.key("probes"), remarks),
        ports: ports(file.ports, &at.key("ports"), remarks),
    })
}

fn refuse_unbuilt(file: &file::Inbound, at: &Trail<'_>, remarks: &mut Remarks) {
    remarks.unless_off(&at.key("rate_limit"), &file.rate_limit);
    remarks.not_yet(&at.key("authorization"), &file.authorization);
}

fn ports(
    written: Option<Entries<Port, Option<file::PortBlock>>>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> BTreeMap<u16, PortPolicy> {
    let entries = written.map(|Entries(entries)| entries).unwrap_or_default();
    let each = |(Port(port), block): (_, Option<_>)| {
        let name = port.to_string();
        (port, port_policy(block.unwrap_or_default(), &at.key(&name), remarks))
    };
    entries.into_iter().map(each).collect()
}

fn port_policy(block: file::PortBlock, at: &Trail<'_>, remarks: &mut Remarks) -> PortPolicy {
    if block.listen.as_ref().is_some_and(|OneOrMore(listen)| listen.is_empty()) {
        remarks
            .error(&at.key("listen"), "is empty")
            .help("write an address, or leave it out for the default");
    }
    PortPolicy {
        protocol: block.protocol.map(|Typed(protocol)| protocol),
        mtls: block.mtls.map(|Typed(mtls)| mtls),
        listen: listen(block.listen, Vec::new()),
    }
}

pub(super) fn outbound(file: Option<OffOr<file::Outbound>>) -> Option<Outbound> {
    let file = file.unwrap_or_default().set()?;
    Some(Outbound {
        listen: listen(file.listen, Outbound::default().listen),
        unknown: file.unknown.map_or(Unknown::Passthrough, |Typed(unknown)| unknown),
    })
}
