//! No host means two services.

use std::collections::HashMap;

use super::{Remarks, Trail};
use crate::cluster::{Cluster, HostPattern};

pub(super) fn refuse_shared(clusters: &[Cluster], remarks: &mut Remarks) {
    let mut owners: HashMap<&HostPattern, &str> = HashMap::new();
    let root = Trail::root();
    let services = root.key("services");
    for cluster in clusters {
        let at = services.key(&cluster.name);
        for host in &cluster.hosts {
            match owners.insert(host, &cluster.name) {
                None => {}
                Some(owner) if owner == cluster.name => {
                    remarks.error(&at.key("hosts"), format!("has `{host}` twice"));
                }
                Some(owner) => {
                    remarks
                        .error(&at.key("hosts"), format!("has `{host}`, which means service {owner} already"))
                        .help("a host means one service; without `hosts` it is the service's name");
                }
            }
        }
    }
}
