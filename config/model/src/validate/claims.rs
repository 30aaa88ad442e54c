//! No two services may claim the same name, host or address.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::hash::Hash;

use crate::cluster::Cluster;
use crate::fault::Faults;
use crate::path::Trail;

/// The name of unknown destinations in metrics. A service of this name could not be distinguished from them there.
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
            faults.error(&services.key(name), "is a reserved name: metrics use it for unknown destinations");
        }
        if !seen.insert(name) {
            faults.error(&services.key(name), "occurs twice");
        }
    }
}

/// Reports values that two services claim, or that one service has twice. `claims` are pairs of a service's name and a
/// value under its key `key`.
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
