//! Nothing that a request may be meant for means two services.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;

use super::{Remarks, Trail};
use pillion_model::cluster::Cluster;

pub(super) fn refuse_shared(clusters: &[Cluster], remarks: &mut Remarks) {
    let hosts = clusters.iter().flat_map(|of| of.hosts.iter().map(|host| (&*of.name, host)));
    refuse(hosts, "hosts", "a host means one service; without `hosts` it is the service's name", remarks);
    let addresses = clusters.iter().flat_map(|of| of.addresses.iter().map(|address| (&*of.name, address)));
    refuse(
        addresses,
        "addresses",
        "an address means one service; of two networks the smaller one wins",
        remarks,
    );
}

/// `claims`: the name of each service with what it has under `key`.
fn refuse<'a, T: Eq + Hash + Display + 'a>(
    claims: impl Iterator<Item = (&'a str, &'a T)>,
    key: &str,
    help: &str,
    remarks: &mut Remarks,
) {
    let mut owners: HashMap<&T, &str> = HashMap::new();
    let root = Trail::root();
    let services = root.key("services");
    for (service, claimed) in claims {
        let at = services.key(service);
        match owners.insert(claimed, service) {
            None => {}
            Some(owner) if owner == service => {
                remarks.error(&at.key(key), format!("has `{claimed}` twice"));
            }
            Some(owner) => {
                remarks
                    .error(&at.key(key), format!("has `{claimed}`, which means service {owner} already"))
                    .help(help);
            }
        }
    }
}
