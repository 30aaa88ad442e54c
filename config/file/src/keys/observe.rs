//! `admin`, `metrics`, `explain`, `access_log`, `dns`, `drain` and `limits`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pillion_model::access_format::LogFormat;
use pillion_model::dns::{Dns, NameServers};
use pillion_model::listener::{DownstreamLimits, Drain, MaxMemory};
use pillion_model::telemetry::{AccessLog, Admin, Compatibility, Explain, LogPath, Metrics};
use serde_json::Value;

use super::{Block, Static, field, merge, process};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading, Shape};
use crate::schema::{self, Described};
use crate::spell;
use crate::value::{BadWord, Bytes, Count, Delay, Opt, Share, Size, Text, Word, on_off};
use crate::words::{AlwaysErrors, NameServer, Token};

pub(super) static ADMIN: Static<Admin> = Static::new(|| {
    Block::new(Admin::default).list::<SocketAddr>(
        "listen",
        field!(listen),
        "The addresses of the admin port: loopback.",
    )
    .word::<Opt<Token>>(
        "token",
        field!(token),
        "What calls that change state must bear: `authorization: Bearer TOKEN`. Write `${NAME}`, a variable of the \
         environment, and not the token.",
    )
});

pub(super) static METRICS: Static<Metrics> = Static::new(|| {
    Block::new(Metrics::default)
        .list::<SocketAddr>(
            "listen",
            field!(listen),
            "The addresses of the metrics port: every address of this host.",
        )
        // a million series take some hundred MiB
        .word::<Count<100, 1_000_000>>(
            "max_series",
            field!(max_series),
            "The most series in all; beyond it, new label values count under `other`.",
        )
        .word::<bool>(
            "endpoints",
            field!(endpoints),
            "on: the tries at each endpoint of a service are counted, in series of their own; or off.",
        )
        .key(
            "merge",
            "Programs beside the sidecar whose metrics become a part of its own. Default: none.",
            merge::schema,
            |metrics: &mut Metrics, node, reading| metrics.merge = merge::read(node, reading),
            |metrics, at, page| merge::tell(&metrics.merge, &at.key("merge"), page),
        )
        .key(
            "process_metrics",
            "The application's process, whose CPU time, memory, descriptors and threads are exported. Default off.",
            process::schema,
            |metrics: &mut Metrics, node, reading| process::read(&mut metrics.process_metrics, node, reading),
            |metrics, at, page| {
                process::tell(metrics.process_metrics.as_ref(), &at.key("process_metrics"), page)
            },
        )
        .list::<Compatibility>(
            "compatibility",
            field!(compatibility),
            "istio: traffic stands under Istio's names, too (istio_requests_total, …), for its dashboards and for Kiali.",
        )
});

pub(super) static EXPLAIN: Static<Explain> = Static::new(|| {
    Block::new(Explain::default)
        .word::<Size>(
            "keep",
            field!(keep),
            "The memory for all timelines together, from 64KiB to 64MiB; the oldest are given up for new ones.",
        )
        .takes("64KiB to 64MiB")
        .word::<Share>(
            "sample",
            field!(sample),
            "The share of the exchanges that neither failed nor were slow, and are kept too.",
        )
        .word::<Duration>("slow", field!(slow), "An exchange that takes longer than this is kept.")
});

pub(super) static ACCESS_LOG: Static<AccessLog> = Static::new(|| {
    Block::new(AccessLog::default)
        .key(
            "path",
            "stdout, the default; stderr; or a file.",
            schema::word::<LogPath>,
            |log: &mut AccessLog, node, reading| match node.word(reading) {
                None => {}
                Some(LogPath::File(path)) => log.path = LogPath::File(reading.folder.join(path)),
                Some(stream) => log.path = stream,
            },
            |log, at, page| {
                let to = match &log.path {
                    LogPath::Stdout => "stdout".into(),
                    LogPath::Stderr => "stderr".into(),
                    LogPath::File(file) => spell::path(file),
                };
                page.tell(&at.key("path"), to);
            },
        )
        .word::<LogFormat>(
            "format",
            field!(format),
            "json: one object on each line; text: Apache's combined log format; or a template with operators of Envoy.",
        )
        .word::<Share>("sample", field!(sample), "The share of requests that are logged.")
        .word::<AlwaysErrors>(
            "always",
            field!(always_errors),
            "errors: every failed request is logged, whatever `sample` is; or off.",
        )
});

pub(super) static DNS: Static<Dns> = Static::new(|| {
    Block::new(Dns::default)
        .list::<SocketAddr>("listen", field!(listen), "Over UDP and TCP, on loopback.")
        .key(
            "upstream",
            "The servers for other names: a file like resolv.conf, or addresses. Default /etc/resolv.conf.",
            || {
                let servers = schema::list_of(schema::word::<NameServer>());
                schema::any_of([Text::described(), schema::left_open(), servers])
            },
            read_name_servers,
            tell_name_servers,
        )
        .word::<bool>(
            "virtual_addresses",
            field!(virtual_addresses),
            "on: a service without an address gets one of 240.240.0.0/16 and one of fd9f:240::/64; or off.",
        )
});

/// A path has no colon and does not begin like an address; any other word is read as an address.
fn read_name_servers(dns: &mut Dns, node: &Node<'_>, reading: &mut Reading<'_>) {
    const EXPECTED: &str = "a file (/etc/resolv.conf), or addresses (\"10.96.0.10:53\")";
    match node.shape(EXPECTED, reading) {
        None => {}
        Some(Shape::Word(leaf)) => {
            let text = leaf.text.as_ref();
            let is_address = text.contains(':') || text.starts_with(|c: char| c == '[' || c.is_ascii_digit());
            let servers = match text {
                _ if is_address => {
                    NameServer::parse(text).map(|NameServer(server)| NameServers::List(vec![server]))
                }
                "" => Err(BadWord::new("is empty")),
                _ if on_off(text).is_some() => Err(BadWord::not(text, EXPECTED)),
                _ => Ok(NameServers::File(reading.folder.join(PathBuf::from(text)))),
            };
            if let Some(servers) = node.parsed(&leaf, servers, reading) {
                dns.upstream = servers;
            }
        }
        Some(Shape::List) => {
            let servers = node.items(reading, |item, reading| item.word::<NameServer>(reading));
            dns.upstream = NameServers::List(servers.into_iter().map(|NameServer(server)| server).collect());
        }
        Some(Shape::Block) => node.mismatch(EXPECTED, reading),
    }
}

fn tell_name_servers(dns: &Dns, at: &Scopes<'_>, page: &mut Page<'_>) {
    match &dns.upstream {
        NameServers::File(file) => page.tell(&at.key("upstream"), spell::path(file)),
        NameServers::List(servers) => {
            let servers = servers.iter().map(|server| server.to_string().into());
            page.tell_list(servers, &at.whole("upstream"));
        }
    }
}

static DRAIN: Static<Drain> = Static::new(|| {
    Block::new(Drain::default)
        .word::<Delay>(
            "delay",
            field!(delay),
            "How long both sides still accept, and announce that connections will close; off: not at all.",
        )
        .word::<Duration>(
            "timeout",
            field!(timeout),
            "The process ends after this time, whatever is still open: below the 30s that Kubernetes waits.",
        )
});

pub(super) fn drain_schema() -> Option<Value> {
    DRAIN.schema()
}

/// If only the timeout is written and it is short, the default of the delay is reduced to it.
pub(super) fn read_drain(drain: &mut Drain, node: &Node<'_>, reading: &mut Reading<'_>) {
    DRAIN.read(drain, node, reading);
    if !node.has("delay", reading) {
        drain.delay = drain.delay.min(drain.timeout);
    }
}

pub(super) fn tell_drain(drain: &Drain, at: &Scopes<'_>, page: &mut Page<'_>) {
    DRAIN.tell(drain, at, page);
}

pub(super) static LIMITS: Static<DownstreamLimits> = Static::new(|| {
    Block::new(DownstreamLimits::default)
        .word::<MaxMemory>(
            "max_memory",
            field!(max_memory),
            "The memory of the sidecar, above which connections are closed and refused; auto: 90% of the cgroup's limit.",
        )
        .takes("16MiB or more")
        .word::<Bytes<u32>>(
            "header_bytes",
            field!(header_bytes),
            "The size of a request's head, from 8KiB to 1MiB.",
        )
        .takes("8KiB to 1MiB")
        .word::<Count<1, 1000>>("header_count", field!(header_count), "The most fields of a request's head.")
        .word::<Count<1, 1000>>(
            "response_header_count",
            field!(response_header_count),
            "The most fields of a response's head.",
        )
        .word::<Duration>(
            "header_timeout",
            field!(header_timeout),
            "The time from the first byte of a head to its last.",
        )
        .word::<Duration>(
            "idle_timeout",
            field!(idle_timeout),
            "A connection without activity is closed after this time.",
        )
        .word::<Count<1, 100>>(
            "via_passes",
            field!(via_passes),
            "How often a request may pass this instance in one direction; one more time is a loop.",
        )
});
