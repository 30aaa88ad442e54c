//! No two listeners on one address and port.

use std::net::SocketAddr;

use super::{Remarks, Trail};
use crate::file::File;
use pillion_model::Config;

/// Which `listen` keys the operator wrote: of two that meet, that one is to be changed.
pub(super) struct Written {
    inbound: bool,
    outbound: bool,
    dns: bool,
    admin: bool,
    metrics: bool,
}

impl Written {
    pub(super) fn of(file: &File) -> Self {
        Self {
            inbound: matches!(&file.inbound, Some(crate::value::OffOr::Set(inbound)) if inbound.listen.is_some()),
            outbound: matches!(&file.outbound, Some(crate::value::OffOr::Set(outbound)) if outbound.listen.is_some()),
            dns: matches!(&file.dns, Some(crate::value::OffOr::Set(dns)) if dns.listen.is_some()),
            admin: file.admin.as_ref().is_some_and(|admin| admin.listen.is_some()),
            metrics: matches!(&file.metrics, Some(crate::value::OffOr::Set(metrics)) if metrics.listen.is_some()),
        }
    }
}

/// Whose `listen` it is.
#[derive(Clone, Copy)]
enum Owner<'a> {
    Section(&'a str),
    /// A single port of the application.
    Port(u16),
    Service(&'a str),
}

impl Owner<'_> {
    fn name(self) -> String {
        match self {
            Self::Section(section) => section.to_owned(),
            Self::Port(port) => format!("inbound.ports.{port}"),
            Self::Service(service) => format!("service {service}"),
        }
    }
}

struct Listener<'a> {
    owner: Owner<'a>,
    address: SocketAddr,
    written: bool,
}

impl Listener<'_> {
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
    let name = earlier.owner.name();
    let what = format!("has {}, where {name} listens already ({})", later.address, earlier.address);
    at_listen(later.owner, |at| {
        remarks.error(at, what).help("give each listener a port of its own; 0 takes a free one");
    });
}

/// Trails live on the stack: whoever wants one that depends on the owner is called with it.
fn at_listen(owner: Owner<'_>, then: impl FnOnce(&Trail<'_>)) {
    let root = Trail::root();
    match owner {
        Owner::Section(section) => then(&root.key(section).key("listen")),
        Owner::Port(port) => then(&root.key("inbound").key("ports").key(&port.to_string()).key("listen")),
        Owner::Service(service) => then(&root.key("services").key(service).key("listen")),
    }
}

fn all<'a>(config: &'a Config, written: &Written) -> Vec<Listener<'a>> {
    let mut all = Vec::new();
    let mut add = |owner, written, addresses: &[SocketAddr]| {
        all.extend(addresses.iter().map(|address| Listener { owner, address: *address, written }));
    };
    if let Some(inbound) = &config.inbound {
        add(Owner::Section("inbound"), written.inbound, &inbound.listen);
        inbound.ports.iter().for_each(|(port, policy)| add(Owner::Port(*port), true, &policy.listen));
    }
    if let Some(outbound) = &config.outbound {
        add(Owner::Section("outbound"), written.outbound, &outbound.listen);
    }
    if let Some(dns) = &config.dns {
        add(Owner::Section("dns"), written.dns, &dns.listen);
    }
    add(Owner::Section("admin"), written.admin, &config.admin.listen);
    if let Some(metrics) = &config.metrics {
        add(Owner::Section("metrics"), written.metrics, &metrics.listen);
    }
    config.clusters.iter().for_each(|cluster| add(Owner::Service(&cluster.name), true, &cluster.listen));
    all
}
