//! `inbound` and `outbound`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pillion_model::listener::{
    AppProtocol, Inbound, Mtls, Outbound, PortPolicy, Probe, Question, RedirectTo, Unknown,
};
use pillion_model::policy::IdleTimeout;

use super::authorization::AUTHORIZATION;
use super::routes::actions::{peers_limit, peers_limit_schema, tell_peers_limit};
use super::{Block, Static, field, port_tls};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading};
use crate::schema;
use crate::value::{AutoOr, OffOr, Opt, Port, Positive, Size};
use crate::words::{GrpcService, ProbeName, ProbePath, Target, chosen};

pub(crate) static INBOUND: Static<Inbound> = Static::new(|| {
    Block::new(Inbound::default)
        .list::<SocketAddr>(
            "listen",
            field!(listen),
            "The addresses on which inbound listens: every address of this host.",
        )
        .word::<Opt<Target>>("app", field!(app), "The address to which a connection goes that was not redirected.")
        .word::<RedirectTo>(
            "redirect_to",
            field!(redirect_to),
            "A redirected connection goes to its original address, or to its original port on loopback.",
        )
        .word::<Mtls>(
            "mtls",
            field!(mtls),
            "strict, the default with an identity; permissive also accepts plaintext; off, the default without.",
        )
        .says_its_default()
        .word::<AppProtocol>(
            "protocol",
            field!(protocol),
            "What the application speaks; auto: gRPC as HTTP/2, other HTTP as HTTP/1.1, the rest unchanged.",
        )
        .word::<OffOr<Duration>>(
            "timeout",
            field!(timeout),
            "The time until the response's headers; off: only the deadline of the client counts.",
        )
        .word::<IdleTimeout>(
            "stream_idle_timeout",
            field!(stream_idle),
            "The longest pause between two pieces of a body; a written value applies to bodies and tunnels.",
        )
        .word::<AutoOr<Positive>>(
            "max_connections",
            field!(max_connections),
            "Connections beyond this number are closed; auto: half of what the limit of open files leaves.",
        )
        .word::<OffOr<Positive>>(
            "max_requests",
            field!(max_requests),
            "Requests at once; a request beyond this number gets 503.",
        )
        .word::<OffOr<Size>>("max_body", field!(max_body), "The size of one request's body; a larger one gets 413.")
        .key(
            "rate_limit",
            "Requests in a time; a request beyond this number gets 429.",
            peers_limit_schema,
            |inbound: &mut Inbound, node, reading| inbound.rate_limit = peers_limit(node, reading),
            |inbound, at, page| tell_peers_limit(inbound.rate_limit, &at.key("rate_limit"), page),
        )
        .key(
            "probes",
            "Health checks of the application by GET /probe/NAME on the metrics port, for kubelets, which have no \
             certificate.",
            || schema::any_of([schema::defined("off"), schema::list_of(PROBE.schema()), schema::left_open()]),
            |inbound: &mut Inbound, node, reading| inbound.probes = probes(node, reading),
            |inbound, at, page| tell_probes(&inbound.probes, &at.key("probes"), page),
        )
        .key(
            "ports",
            "Settings for single ports of the application.",
            || schema::entries::<Port>(PORT.schema()),
            |inbound: &mut Inbound, node, reading| inbound.ports = ports(node, reading),
            |inbound, at, page| tell_ports(&inbound.ports, &at.key("ports"), page),
        )
        .block_or_off(
            "authorization",
            field!(authorization),
            &AUTHORIZATION,
            "Which peers may send what to the application. Default off: whatever a peer that `mtls` admits sends.",
        )
});

pub(super) static OUTBOUND: Static<Outbound> = Static::new(|| {
    Block::new(Outbound::default)
        .list::<SocketAddr>("listen", field!(listen), "The addresses on which outbound listens: loopback.")
        .word::<Unknown>(
            "unknown",
            field!(unknown),
            "For destinations that no service matches: passthrough to the original destination, or deny.",
        )
});

static PORT: Static<PortPolicy> = Static::new(|| {
    Block::new(PortPolicy::default)
        .word::<Opt<AppProtocol>>(
            "protocol",
            field!(protocol),
            "What the application speaks on this port. Default: that of `inbound`.",
        )
        .word::<Opt<Mtls>>("mtls", field!(mtls), "Whether a peer must use mTLS. Default: that of `inbound`.")
        .list::<SocketAddr>(
            "listen",
            field!(listen),
            "A listener for this port alone, which leads to this port at the address of `app`.",
        )
        .key(
            "tls",
            "TLS for clients outside the mesh, at the listeners of this port alone: { certificate, key }, or a list of \
             these, which is chosen from by the name that a client asks for.",
            port_tls::schema,
            |port: &mut PortPolicy, node, reading| port.tls = port_tls::read(node, reading),
            |_, _, _| {}, // told by `tell_ports`
        )
});

fn ports(node: &Node<'_>, reading: &mut Reading<'_>) -> BTreeMap<u16, PortPolicy> {
    let mut ports = BTreeMap::new();
    for (Port(port), entry) in node.map::<Port>(reading) {
        let mut policy = PortPolicy::default();
        if entry.value.is_written(reading) {
            PORT.read(&mut policy, &entry.value, reading);
        }
        if let Some(listen) = entry.value.child("listen", reading).filter(|_| policy.listen.is_empty()) {
            listen.remark("is empty", reading).help("write an address, or leave it out for the default");
        }
        ports.insert(port, policy);
    }
    ports
}

/// For a port, reports only the keys that are set there.
fn tell_ports(ports: &BTreeMap<u16, PortPolicy>, at: &Scopes<'_>, page: &mut Page<'_>) {
    for (port, PortPolicy { protocol, mtls, listen, tls }) in ports {
        let at = at.key(&port.to_string());
        if let Some(protocol) = protocol {
            page.tell(&at.key("protocol"), chosen(protocol));
        }
        if let Some(mtls) = mtls {
            page.tell(&at.key("mtls"), chosen(mtls));
        }
        page.tell_list(listen.iter().map(|address| address.to_string().into()), &at.whole("listen"));
        if let Some(tls) = tls {
            port_tls::tell(tls, &at, page);
        }
    }
}

#[derive(Default)]
struct ProbeBlock {
    name: Option<String>,
    port: Option<u16>,
    path: Option<String>,
    tcp: Option<bool>,
    grpc: Option<String>,
}

static PROBE: Static<ProbeBlock> = Static::new(|| {
    Block::new(ProbeBlock::default)
        .word::<Opt<ProbeName>>("name", field!(name), "The last part of the path /probe/NAME on the metrics port.")
        .word::<Opt<Port>>("port", field!(port), "The application's port.")
        .word::<Opt<ProbePath>>("path", field!(path), "The path of a GET request; its status is returned.")
        .word::<Opt<bool>>("tcp", field!(tcp), "200 if the port accepts a connection, else 503.")
        .word::<Opt<GrpcService>>(
            "grpc",
            field!(grpc),
            "200 if gRPC's health service says that this service is SERVING, else 503. \"\" asks about the whole server.",
        )
});

fn probes(node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<Probe> {
    node.items_or_off("a list of probes", reading, |item, reading| Some(probe(item, reading)))
}

fn probe(node: &Node<'_>, reading: &mut Reading<'_>) -> Probe {
    const HELP: &str = "{ name: app-live, port: 8080, path: /healthz }";
    let ProbeBlock { name, port, path, tcp, grpc } = PROBE.read_new(node, reading);
    if name.is_none() {
        node.lacks("name", HELP, reading);
    }
    if port.is_none() {
        node.lacks("port", HELP, reading);
    }
    let path = path.map(|path| Question::Http { path });
    let tcp = tcp.filter(|asked| *asked).map(|_| Question::Tcp);
    let grpc = grpc.map(|service| Question::Grpc { service });
    let mut written = [path, tcp, grpc].into_iter().flatten();
    let asks = match (written.next(), written.next()) {
        (Some(one), None) => one,
        (None, _) => {
            node.remark("asks nothing", reading)
                .help("write one of path: /healthz, tcp: true, grpc: shop.Orders");
            Question::Tcp
        }
        (Some(one), Some(_)) => {
            node.remark("has more than one of `path`, `tcp` and `grpc`", reading)
                .help("keep one, and write another probe with its own name for the other");
            one
        }
    };
    Probe { name: name.unwrap_or_default(), port: port.unwrap_or_default(), asks }
}

fn tell_probes(probes: &[Probe], at: &Scopes<'_>, page: &mut Page<'_>) {
    for (nth, Probe { name, port, asks }) in probes.iter().enumerate() {
        let at = at.index(nth);
        page.tell(&at.key("name"), name.as_str());
        page.tell(&at.key("port"), *port);
        match asks {
            Question::Http { path } => page.tell(&at.key("path"), path.as_str()),
            Question::Tcp => page.tell(&at.key("tcp"), "on"),
            Question::Grpc { service } => page.tell(&at.key("grpc"), service.as_str()),
        }
    }
}
