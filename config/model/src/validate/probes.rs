//! `inbound.probes`: names that occur twice, and probes that would ask the sidecar itself.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::Config;
use crate::fault::Faults;
use crate::listener::{Inbound, Probe};
use crate::path::Trail;

/// Probes must ask the application, and the metrics port, which passes them on, must be on.
pub(super) fn validate(config: &Config, faults: &mut Faults) {
    let Some(inbound) = config.inbound.as_ref().filter(|inbound| !inbound.probes.is_empty()) else { return };
    let root = Trail::root();
    let side = root.key("inbound");
    let at = side.key("probes");
    refuse_shared_names(&inbound.probes, &at, faults);
    if config.metrics.is_none() {
        faults
            .warn(&at, "are asked for on the metrics port, and metrics is off")
            .help("leave `metrics` out, or the probes");
    }
    let own = own(config);
    for (nth, probe) in inbound.probes.iter().enumerate().filter(|(_, probe)| is_anywhere(probe, inbound)) {
        if let Some((key, address)) = own.iter().find(|(_, own)| own.port() == probe.port) {
            faults
                .error(
                    &at.index(nth).key("port"),
                    format!("is {}, where the sidecar itself listens ({key}: {address})", probe.port),
                )
                .help("write the port of the application; /ready and /live report the sidecar's own health")
                // if some probes could not be read, the list does not show which probe this is
                .depends_on(&at);
        }
    }
}

fn refuse_shared_names(probes: &[Probe], at: &Trail<'_>, faults: &mut Faults) {
    let mut seen: HashSet<&str> = HashSet::new();
    for (nth, Probe { name, .. }) in probes.iter().enumerate() {
        if !seen.insert(name) {
            faults
                .error(&at.index(nth).key("name"), format!("is `{name}`, as an earlier probe is called"))
                .help("a client asks for a probe by its name, as /probe/NAME");
        }
    }
}

/// Whether the probe goes to the pod's address, because no address of the application is configured for this port.
fn is_anywhere(probe: &Probe, inbound: &Inbound) -> bool {
    let has_own_listener =
        |port: u16| inbound.ports.get(&port).is_some_and(|policy| !policy.listen.is_empty());
    inbound.app.is_none_or(|app| app.port() != probe.port) && !has_own_listener(probe.port)
}

/// The sidecar's listeners.
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
