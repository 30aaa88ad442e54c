//! Nothing that a request may be meant for means two services.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::hash::Hash;

use crate::cluster::Cluster;
use crate::fault::Faults;
use crate::path::Trail;

/// What metrics call a destination that no service matches; a service of that name could not be told from it.
const PASSTHROUGH: &str = "passthrough";

pub(super) fn refuse_shared(clusters: &[Cluster], faults: &mut Faults) {
    names(clusters, faults);
    let hosts = clusters.iter().flat_map(|of| of.hosts.iter().map(|host| (&*of.name, host)));
    refuse(hosts, "hosts", "a host means one service; without `hosts` it is the service's name", faults);
    let addresses = clusters.iter().flat_map(|of| of.addresses.iter().map(|address| (&*of.name, address)));
    refuse(
        addresses,
        "addresses",
        "an address means one service; of two networks the smaller one wins",
        faults,
    );
}

fn names(clusters: &[Cluster], faults: &mut Faults) {
    let root = Trail::root();
    let services = root.key("services");
    let mut seen: HashSet<&str> = HashSet::with_capacity(clusters.len());
    for Cluster { name, .. } in clusters {
        if name == PASSTHROUGH {
            faults.error(&services.key(name), "is taken: metrics call unknown destinations so");
        }
        if !seen.insert(name) {
            faults.error(&services.key(name), "is there twice");
        }
    }
}

/// `claims`: the name of each service with what it has under `key`.
fn refuse<'a, T: Eq + Hash + Display + 'a>(
    claims: impl Iterator<Item = (&'a str, &'a T)>,
    key: &str,
    help: &str,
    faults: &mut Faults,
) {
    let mut owners: HashMap<&T, &str> = HashMap::new();
    let root = Trail::root();
    let services = root.key("services");
    for (service, claimed) in claims {
        let at = services.key(service);
        match owners.insert(claimed, service) {
            None => {}
            Some(owner) if owner == service => {
                faults.error(&at.key(key), format!("has `{claimed}` twice"));
            }
            Some(owner) => {
                faults
                    .error(&at.key(key), format!("has `{claimed}`, which means service {owner} already"))
                    .help(help);
            }
        }
    }
}
