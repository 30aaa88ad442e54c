//! `inbound.probes`: what the application is asked, and under which name.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::{Remarks, Trail};
use crate::file;
use crate::shape::Typed;
use crate::value::Port;
use crate::words::{GrpcService, ProbeName, ProbePath};
use pillion_model::Config;
use pillion_model::listener::{Inbound, Probe, Question};

pub(super) fn probes(file: Option<file::Probes>, at: &Trail<'_>, remarks: &mut Remarks) -> Vec<Probe> {
    let list = file.map(|file::Probes(list)| list).unwrap_or_default();
    refuse_shared_names(&list, at, remarks);
    list.into_iter().enumerate().map(|(nth, file)| probe(file, &at.index(nth), remarks)).collect()
}

fn probe(file: file::Probe, at: &Trail<'_>, remarks: &mut Remarks) -> Probe {
    const HELP: &str = "{ name: app-live, port: 8080, path: /healthz }";
    if file.name.is_none() {
        remarks.error(at, "needs `name`").help(HELP);
    }
    if file.port.is_none() {
        remarks.error(at, "needs `port`").help(HELP);
    }
    Probe {
        name: file.name.map(|Typed(ProbeName(name))| name).unwrap_or_default(),
        port: file.port.map(|Typed(Port(port))| port).unwrap_or_default(),
        asks: question(file.path, file.tcp, file.grpc, at, remarks),
    }
}

fn question(
    path: Option<Typed<ProbePath>>,
    tcp: Option<Typed<bool>>,
    grpc: Option<Typed<GrpcService>>,
    at: &Trail<'_>,
    remarks: &mut Remarks,
) -> Question {
    let path = path.map(|Typed(ProbePath(path))| Question::Http { path });
    let tcp = tcp.filter(|Typed(asked)| *asked).map(|_| Question::Tcp);
    let grpc = grpc.map(|Typed(GrpcService(service))| Question::Grpc { service });
    let mut written = [path, tcp, grpc].into_iter().flatten();
    match (written.next(), written.next()) {
        (Some(one), None) => one,
        (None, _) => {
            remarks
                .error(at, "asks nothing")
                .help("write one of path: /healthz, tcp: true, grpc: shop.Orders");
            Question::Tcp
        }
        (Some(one), Some(_)) => {
            remarks
                .error(at, "has more than one of `path`, `tcp` and `grpc`")
                .help("keep one; another probe of its own name may ask the other");
            one
        }
    }
}

fn refuse_shared_names(list: &[file::Probe], at: &Trail<'_>, remarks: &mut Remarks) {
    let mut seen: HashSet<&str> = HashSet::new();
    for (nth, probe) in list.iter().enumerate() {
        let Some(Typed(ProbeName(name))) = &probe.name else { continue };
        if !seen.insert(name) {
            remarks
                .error(&at.index(nth).key("name"), format!("is `{name}`, as an earlier probe is called"))
                .help("each is asked for by its name, as /probe/NAME");
        }
    }
}

/// Probes are for the application, and somebody has to be able to ask.
pub(super) fn look(config: &Config, remarks: &mut Remarks) {
    let Some(inbound) = config.inbound.as_ref().filter(|inbound| !inbound.probes.is_empty()) else { return };
    let root = Trail::root();
    let side = root.key("inbound");
    let at = side.key("probes");
    if config.metrics.is_none() {
        remarks
            .warn(&at, "are asked for on the metrics port, and metrics is off")
            .help("leave `metrics` out, or the probes");
    }
    // of probes that were not read whole it is not known which is which
    if remarks.is_unread("inbound.probes") {
        return;
    }
    let own = own(config);
    for (nth, probe) in inbound.probes.iter().enumerate().filter(|(_, probe)| is_anywhere(probe, inbound)) {
        if let Some((key, address)) = own.iter().find(|(_, own)| own.port() == probe.port) {
            remarks
                .error(
                    &at.index(nth).key("port"),
                    format!("is {}, where the sidecar itself listens ({key}: {address})", probe.port),
                )
                .help("write the port of the application; /ready and /live tell of the sidecar");
        }
    }
}

/// Asked at the pod's address, whichever that is: no address of the application's is written for this port.
fn is_anywhere(probe: &Probe, inbound: &Inbound) -> bool {
    let has_own_listener =
        |port: u16| inbound.ports.get(&port).is_some_and(|policy| !policy.listen.is_empty());
    inbound.app.is_none_or(|app| app.port() != probe.port) && !has_own_listener(probe.port)
}

/// The sidecar's listeners that have a port already.
fn own(config: &Config) -> Vec<(&'static str, SocketAddr)> {
    let inbound = config.inbound.as_ref();
    let single = inbound.into_iter().flat_map(|inbound| inbound.ports.values().map(|policy| &policy.listen));
    let sides = [
        ("inbound.listen", inbound.map(|inbound| &inbound.listen)),
        ("outbound.listen", config.outbound.as_ref().map(|outbound| &outbound.listen)),
        ("metrics.listen", config.metrics.as_ref().map(|metrics| &metrics.listen)),
        ("admin.listen", Some(&config.admin.listen)),
        ("dns.listen", config.dns.as_ref().map(|dns| &dns.listen)),
    ];
    let listed = sides.into_iter().filter_map(|(key, listen)| Some((key, listen?)));
    listed
        .chain(single.map(|listen| ("inbound.ports", listen)))
        .flat_map(|(key, listen)| listen.iter().map(move |address| (key, *address)))
        .collect()
}
