//! The sections of the file in their order. Every struct is taken apart whole: a key that is added to the model and
//! forgotten here does not compile.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use super::Page;
use super::blocks;
use super::origin::Scopes;
use super::spell::{duration, or_off, path, share, size, word};
use crate::words::{AlwaysErrors, PostQuantum};
use pillion_model::dns::{Dns, NameServers};
use pillion_model::identity::{Crl, Source, TlsPolicy};
use pillion_model::listener::{DownstreamLimits, Drain, Inbound, Outbound, PortPolicy, Probe, Question};
use pillion_model::telemetry::{AccessLog, Admin, LogPath, Metrics};
use pillion_model::{Config, Workload};

pub(super) fn tell(config: &Config, root: &Scopes<'_>, page: &mut Page<'_>) {
    let Config {
        workload: Workload { name, namespace, zone },
        identity,
        tls: TlsPolicy { min_version, post_quantum },
        inbound,
        outbound,
        clusters,
        routes,
        dns,
        admin: Admin { listen },
        metrics,
        access_log,
        drain: Drain { delay, timeout },
        limits,
        workers,
    } = config;
    page.tell(&root.key("version"), 1);
    let workload = root.key("workload");
    page.tell(&workload.key("name"), name.clone());
    page.tell(&workload.key("namespace"), namespace.clone());
    page.tell(&workload.key("zone"), zone.clone());
    tell_identity(identity.as_ref(), &root.key("identity"), page);
    let tls = root.key("tls");
    page.tell(&tls.key("min_version"), word(min_version));
    page.tell(&tls.key("post_quantum"), word(&PostQuantum(*post_quantum)));
    tell_inbound(inbound.as_ref(), &root.key("inbound"), page);
    tell_outbound(outbound.as_ref(), &root.key("outbound"), page);
    clusters.iter().for_each(|cluster| blocks::cluster(cluster, &root.service(&cluster.name), page));
    for (nth, route) in routes.iter().enumerate() {
        super::blocks::route(route, root, &root.key("routes").index(nth), page);
    }
    tell_dns(dns.as_ref(), &root.key("dns"), page);
    tell_listen(listen, &root.key("admin"), page);
    tell_metrics(metrics.as_ref(), &root.key("metrics"), page);
    tell_access_log(access_log.as_ref(), &root.key("access_log"), page);
    let drain = root.key("drain");
    page.tell(&drain.key("delay"), duration(*delay));
    page.tell(&drain.key("timeout"), duration(*timeout));
    tell_limits(limits, &root.key("limits"), page);
    page.tell(&root.key("workers"), workers.map_or_else(|| "auto".into(), |count| Value::from(count.get())));
}

fn tell_identity(identity: Option<&Source>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(Source { certificate, key, trust_bundle, crl, trust_domain }) = identity else {
        return page.tell(at, Value::Null);
    };
    let directory = at.key("directory");
    for (name, file) in [("certificate", certificate), ("key", key), ("trust_bundle", trust_bundle)] {
        page.tell_or(&at.key(name), &directory, path(file));
    }
    match crl {
        Crl::None => page.tell(&at.key("crl"), Value::Null),
        Crl::IfPresent(file) => {
            page.tell_or(&at.key("crl"), &directory, format!("{} (where it exists)", file.display()));
        }
        Crl::Required(file) => page.tell_or(&at.key("crl"), &directory, path(file)),
    }
    page.tell(&at.key("trust_domain"), trust_domain.clone());
}

fn tell_inbound(inbound: Option<&Inbound>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(inbound) = inbound else { return page.tell(at, "off") };
    let Inbound {
        listen,
        app,
        redirect_to,
        protocol,
        mtls,
        timeout,
        max_connections,
        max_requests,
        max_body,
        probes,
        ports,
    } = inbound;
    tell_listen(listen, at, page);
    page.tell(&at.key("app"), app.map(|app| app.to_string()));
    page.tell(&at.key("redirect_to"), word(redirect_to));
    page.tell(&at.key("protocol"), word(protocol));
    page.tell(&at.key("mtls"), word(mtls));
    page.tell(&at.key("timeout"), or_off(*timeout, duration));
    page.tell(&at.key("max_connections"), max_connections.map_or_else(|| "auto".into(), Value::from));
    page.tell(&at.key("max_requests"), or_off(*max_requests, Value::from));
    page.tell(&at.key("max_body"), or_off(*max_body, size));
    tell_probes(probes, &at.key("probes"), page);
    tell_ports(ports, &at.key("ports"), page);
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

/// A single port tells what is special about it alone.
fn tell_ports(ports: &BTreeMap<u16, PortPolicy>, at: &Scopes<'_>, page: &mut Page<'_>) {
    for (port, PortPolicy { protocol, mtls, listen }) in ports {
        let at = at.key(&port.to_string());
        if let Some(protocol) = protocol {
            page.tell(&at.key("protocol"), word(protocol));
        }
        if let Some(mtls) = mtls {
            page.tell(&at.key("mtls"), word(mtls));
        }
        tell_listen(listen, &at, page);
    }
}

fn tell_outbound(outbound: Option<&Outbound>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(Outbound { listen, unknown }) = outbound else { return page.tell(at, "off") };
    tell_listen(listen, at, page);
    page.tell(&at.key("unknown"), word(unknown));
}

pub(super) fn tell_listen(listen: &[SocketAddr], at: &Scopes<'_>, page: &mut Page<'_>) {
    let at = at.whole("listen");
    for (nth, address) in listen.iter().enumerate() {
        page.tell(&at.index(nth), address.to_string());
    }
}

fn tell_dns(dns: Option<&Dns>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(Dns { listen, upstream, virtual_addresses }) = dns else { return page.tell(at, "off") };
    tell_listen(listen, at, page);
    match upstream {
        NameServers::File(file) => page.tell(&at.key("upstream"), path(file)),
        NameServers::List(servers) => {
            let at = at.whole("upstream");
            for (nth, server) in servers.iter().enumerate() {
                page.tell(&at.index(nth), server.to_string());
            }
        }
    }
    page.tell(&at.key("virtual_addresses"), if *virtual_addresses { "on" } else { "off" });
}

fn tell_metrics(metrics: Option<&Metrics>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(Metrics { listen, max_series }) = metrics else { return page.tell(at, "off") };
    tell_listen(listen, at, page);
    page.tell(&at.key("max_series"), *max_series);
}

fn tell_access_log(access_log: Option<&AccessLog>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(AccessLog { path: to, sample, always_errors }) = access_log else {
        return page.tell(at, "off");
    };
    let to = match to {
        LogPath::Stdout => "stdout".into(),
        LogPath::Stderr => "stderr".into(),
        LogPath::File(file) => path(file),
    };
    page.tell(&at.key("path"), to);
    page.tell(&at.key("format"), "json");
    page.tell(&at.key("sample"), share(*sample));
    page.tell(&at.key("always"), word(&AlwaysErrors(*always_errors)));
}

fn tell_limits(limits: &DownstreamLimits, at: &Scopes<'_>, page: &mut Page<'_>) {
    let DownstreamLimits { header_bytes, header_count, header_timeout, idle_timeout, via_passes } = limits;
    page.tell(&at.key("header_bytes"), size(u64::from(*header_bytes)));
    page.tell(&at.key("header_count"), *header_count);
    page.tell(&at.key("header_timeout"), duration(*header_timeout));
    page.tell(&at.key("idle_timeout"), duration(*idle_timeout));
    page.tell(&at.key("via_passes"), *via_passes);
}
