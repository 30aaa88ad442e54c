//! The sections of the file, in the order in which they are read: identity before all that may prove it, `defaults`
//! before services, services before the routes that lead to them.

use pillion_model::listener::Mtls;
use pillion_model::{Cluster, Config};

use super::service::{self, ONE_SERVICE_S_OWN, SERVICE};
use super::{Block, Static, field, identity, inbound, observe, routes};
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
                    node.remark(&format!("is {other}, which this release does not know"), reading).help("write 1");
                }
            },
            |_, at, page| page.tell(&at.key("version"), 1),
        )
        .block(
            "workload",
            field!(workload),
            &identity::WORKLOAD,
            "Named in every line of the access log. What is left out comes from the certificate's SPIFFE ID at start.",
        )
        .key(
            "identity",
            "Who this workload is. Left out: plaintext on both sides.",
            identity::schema,
            |config: &mut Config, node, reading| {
                reading.has_identity = true;
                // strict wherever it can be
                config.inbound.as_mut().into_iter().for_each(|inbound| inbound.mtls = Mtls::Strict);
                config.identity = identity::read(node, reading);
            },
            |config, at, page| identity::tell(config.identity.as_ref(), at, page),
        )
        .block("tls", field!(tls), &identity::TLS, "What TLS is spoken at least, on both sides.")
        .block_or_off(
            "inbound",
            field!(inbound),
            &inbound::INBOUND,
            "To the application. `off` leaves this side out.",
        )
        .block_or_off(
            "outbound",
            field!(outbound),
            &inbound::OUTBOUND,
            "From the application. `off` leaves this side out.",
        )
        .key(
            "defaults",
            "Any key of a service but hosts, addresses, listen and endpoints; each service's own wins, key by key.",
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
            "What the application calls, by name.",
            || schema::entries::<ServiceName>(SERVICE.schema()),
            |config: &mut Config, node, reading| service::read_services(&mut config.clusters, node, reading),
            |config, at, page| {
                let each = |cluster: &Cluster| SERVICE.tell(cluster, &at.service(&cluster.name), page);
                config.clusters.iter().for_each(each);
            },
        )
        .key(
            "routes",
            "Which of a host's requests go elsewhere, or under other rules. The first that matches wins; what none \
             matches goes to the host's own service.",
            routes::schema,
            |config: &mut Config, node, reading| config.routes = routes::read(&config.clusters, node, reading),
            |config, at, page| routes::tell(&config.routes, at, page),
        )
        .block_or_off("dns", field!(dns), &observe::DNS, "Names for the application: a DNS proxy. Left out: none.")
        .block("admin", field!(admin), &observe::ADMIN, "The port that shows and changes things.")
        .block_or_off(
            "metrics",
            field!(metrics),
            &observe::METRICS,
            "The port for scrapers and probes of the sidecar itself. `off` leaves it out.",
        )
        .later_or_off("tracing")
        .block_or_off(
            "access_log",
            field!(access_log),
            &observe::ACCESS_LOG,
            "One line for each request. Left out: none.",
        )
        .key(
            "drain",
            "What happens between SIGTERM and the end.",
            observe::drain_schema,
            |config: &mut Config, node, reading| observe::read_drain(&mut config.drain, node, reading),
            |config, at, page| observe::tell_drain(&config.drain, &at.key("drain"), page),
        )
        .block("limits", field!(limits), &observe::LIMITS, "What one connection may take, on both sides.")
        .word::<AutoOr<Threads>>(
            "workers",
            field!(workers),
            "Threads of the data path; auto: from the CPU quota of the cgroup.",
        )
});
