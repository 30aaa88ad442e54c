//! No two listeners on one address and port.

use std::net::SocketAddr;

use super::{Remarks, Trail};
use crate::Config;
use crate::file::File;

/// Which `listen` keys the operator wrote: of two that meet, that one is to be changed.
pub(super) struct Written {
    inbound: bool,
    outbound: bool,
    admin: bool,
    metrics: bool,
}

impl Written {
    pub(super) fn of(file: &File) -> Self {
        Self {
            inbound: matches!(&file.inbound, Some(crate::value::OffOr::Set(inbound)) if inbound.listen.is_some()),
            outbound: matches!(&file.outbound, Some(crate::value::OffOr::Set(outbound)) if outbound.listen.is_some()),
            admin: file.admin.as_ref().is_some_and(|admin| admin.listen.is_some()),
            metrics: matches!(&file.metrics, Some(crate::value::OffOr::Set(metrics)) if metrics.listen.is_some()),
        }
    }
}

/// `service` is empty for the sidecar's own four.
struct Listener<'a> {
    section: &'a str,
    service: &'a str,
    address: SocketAddr,
    written: bool,
}

impl Listener<'_> {
    fn name(&self) -> String {
        match self.service {
            "" => self.section.to_owned(),
            service => format!("service {service}"),
        }
    }

    /// Whether the kernel would refuse to bind one beside the other.
    fn meets(&self, other: &Self) -> bool {
        let (one, two) = (self.address, other.address);
        let same_family = one.is_ipv4() == two.is_ipv4();
        let same_ip = one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified();
        // port 0 takes a free one
        one.port() == two.port() && one.port() != 0 && same_family && same_ip
    }
}

pub(super) fn refuse_shared(config: &Config, written: &Written, remarks: &mut Remarks) {
    let mut listeners = all(config, written);
    // stable: defaults first, then as in the file
    listeners.sort_by_key(|listener| listener.written);
    let mut by_port: std::collections::HashMap<u16, Vec<&Listener<'_>>> = std::collections::HashMap::new();
    for listener in &listeners {
        let neighbours = by_port.entry(listener.address.port()).or_default();
        if let Some(earlier) = neighbours.iter().find(|earlier| earlier.meets(listener)) {
            refuse(listener, earlier, remarks);
        }
        // of those that nothing was said about one is enough to compare with
        if neighbours.len() < 8 {
            neighbours.push(listener);
        }
    }
}

fn refuse(later: &Listener<'_>, earlier: &Listener<'_>, remarks: &mut Remarks) {
    let (root, section) = (Trail::root(), later.section);
    let section = root.key(section);
    let service = section.key(later.service);
    let owner = if later.service.is_empty() { &section } else { &service };
    let what =
        format!("has {}, where {} listens already ({})", later.address, earlier.name(), earlier.address);
    remarks
        .error(&owner.key("listen"), what)
        .help("give each listener a port of its own; 0 takes a free one");
}

fn all<'a>(config: &'a Config, written: &Written) -> Vec<Listener<'a>> {
    let mut all = Vec::new();
    let mut add = |section, service, written, addresses: &[SocketAddr]| {
        all.extend(addresses.iter().map(|address| Listener { section, service, address: *address, written }));
    };
    add("inbound", "", written.inbound, config.inbound.as_ref().map_or(&[], |inbound| &inbound.listen));
    add("outbound", "", written.outbound, config.outbound.as_ref().map_or(&[], |outbound| &outbound.listen));
    add("admin", "", written.admin, &config.admin.listen);
    add("metrics", "", written.metrics, config.metrics.as_ref().map_or(&[], |metrics| &metrics.listen));
    for cluster in &config.clusters {
        add("services", &cluster.name, true, &cluster.listen);
    }
    all
}
