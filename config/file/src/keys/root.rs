//! The sections of the file in the order in which they are read: identity before the sections that need one, `defaults`
//! before services, services before the routes that lead to them.

use pillion_model::listener::Mtls;
use pillion_model::{Cluster, Config};

use super::service::{self, ONE_SERVICE_S_OWN, SERVICE};
use super::{Block, Static, field, identity, inbound, logs, observe, routes, sync, tracing};
use crate::schema;
use crate::value::{AutoOr, Count, Threads};
use crate::words::ServiceName;

pub(crate) static FILE: Static<Config> = Static::new(|| {
    Block::new(Config::default)
        .key(
            "version",
            "The version of this format: 1, the default.",
            schema::word::<Count<0, { u32::MAX }>>,
            |_, node, reading| match node.word::<Count<0, { u32::MAX }>>(reading) {
                None | Some(Count(1)) => {}
                Some(Count(other)) => {
                    node.remark(&format!("is {other}, which this release does not support"), reading).help("write 1");
                }
            },
            |_, at, page| page.tell(&at.key("version"), 1),
        )
        .takes("1")
        .block(
            "workload",
            field!(workload),
            &identity::WORKLOAD,
            "The workload as the access log names it. Absent keys come from the certificate's SPIFFE ID at start.",
        )
        .takes_restart()
        .key(
            "identity",
            "The certificates of this workload. Absent: plaintext on both sides.",
            identity::schema,
            |config: &mut Config, node, reading| {
                reading.has_identity = true;
                // with an identity, strict is the default
                config.inbound.as_mut().into_iter().for_each(|inbound| inbound.mtls = Mtls::Strict);
                config.identity = identity::read(node, reading);
            },
            |config, at, page| identity::tell(config.identity.as_ref(), at, page),
        )
        .block("tls", field!(tls), &identity::TLS, "TLS settings of both sides.")
        .block_or_off(
            "inbound",
            field!(inbound),
            &inbound::INBOUND,
            "Traffic to the application. `off` turns this side off.",
        )
        .block_or_off(
            "outbound",
            field!(outbound),
            &inbound::OUTBOUND,
            "Traffic from the application. `off` turns this side off.",
        )
        .key(
            "defaults",
            "Keys of services, without hosts, addresses, listen and endpoints. A service's own key replaces them.",
            || SERVICE.schema_but(&ONE_SERVICE_S_OWN),
            |_, node, reading| {
                let mut defaults = service::unwritten(reading);
                SERVICE.read_but(&ONE_SERVICE_S_OWN, &mut defaults, node, reading);
                reading.defaults = Some(defaults);
            },
            |_, _, _| {},
        )
        .key(
            "services",
            "The services that the application calls, by name.",
            || schema::entries::<ServiceName>(SERVICE.schema()),
            |config: &mut Config, node, reading| service::read_services(&mut config.clusters, node, reading),
            |config, at, page| {
                let each = |cluster: &Cluster| SERVICE.tell(cluster, &at.service(&cluster.name), page);
                config.clusters.iter().for_each(each);
            },
        )
        .key(
            "routes",
            "Requests to a host that go to another service, or under other policies. The first match wins; a request \
             that no route matches goes to the host's own service.",
            routes::schema,
            |config: &mut Config, node, reading| config.routes = routes::read(&config.clusters, node, reading),
            |config, at, page| routes::tell(&config.routes, at, page),
        )
        .block_or_off("dns", field!(dns), &observe::DNS, "A DNS proxy for the application. Absent: none.")
        .block("admin", field!(admin), &observe::ADMIN, "The port that shows and changes the state of the sidecar.")
        .takes_restart()
        .block_or_off(
            "metrics",
            field!(metrics),
            &observe::METRICS,
            "The port for scrapers and for probes. `off` turns it off.",
        )
        .takes_restart()
        .key(
            "tracing",
            "Spans of requests, for a collector of the OpenTelemetry protocol. Absent: none, and headers of traces pass as \
             they are.",
            tracing::schema,
            |config: &mut Config, node, reading| tracing::read(&mut config.tracing, node, reading),
            |config, at, page| tracing::tell(config.tracing.as_ref(), &at.key("tracing"), page),
        )
        .key(
            "sync",
            "Files beside the application that are kept as a source has them, by name. Default: none.",
            sync::schema,
            |config: &mut Config, node, reading| config.sync = sync::read(node, reading),
            |config, at, page| sync::tell(&config.sync, &at.key("sync"), page),
        )
        .key(
            "logs",
            "Ships log files of the application. Absent: none.",
            logs::schema,
            |config: &mut Config, node, reading| logs::read(&mut config.logs, node, reading),
            |config, at, page| logs::tell(config.logs.as_ref(), &at.key("logs"), page),
        )
        .block_or_off(
            "explain",
            field!(explain),
            &observe::EXPLAIN,
            "Which requests and connections are kept with their timelines, besides every failed one. `off` keeps none.",
        )
        .takes_restart()
        .block_or_off(
            "access_log",
            field!(access_log),
            &observe::ACCESS_LOG,
            "One line for each request. Absent: none.",
        )
        .takes_restart()
        .key(
            "drain",
            "The times of the shutdown after SIGTERM.",
            observe::drain_schema,
            |config: &mut Config, node, reading| observe::read_drain(&mut config.drain, node, reading),
            |config, at, page| observe::tell_drain(&config.drain, &at.key("drain"), page),
        )
        .block("limits", field!(limits), &observe::LIMITS, "The limits of one client connection, on both sides.")
        .word::<AutoOr<Threads>>(
            "workers",
            field!(workers),
            "The threads of the data path; auto: by the CPU quota of the cgroup.",
        )
        .takes_restart()
});
