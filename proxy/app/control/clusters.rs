//! The clusters of a configuration. Those that no change concerns stay the same objects.

use std::collections::HashMap;
use std::sync::Arc;

use pillion_model::{Cluster as ClusterConfig, Config, EndpointUpdate};

use super::{Around, Controller};
use pillion_sidecar::state::Clusters;
use pillion_tls::client::ClientTls;
use pillion_tls::material::Material;
use pillion_upstream::cluster::update::written;
use pillion_upstream::cluster::{Cluster, PreviousCluster};

impl Controller {
    /// Clusters that no change concerns. They stay the same objects.
    pub(super) fn kept(&self, config: &Config, material: &Material, same_identity: bool) -> Clusters {
        if !same_identity || self.config.tls != config.tls {
            return Clusters::new();
        }
        let known = by_name(&self.config);
        let is_same = |of: &&ClusterConfig| {
            known.get(of.name.as_str()) == Some(of) && material.is_same_for(&of.tls, &self.material)
        };
        let same = config.clusters.iter().filter(is_same);
        same.filter_map(|of| Some((of.name.clone(), self.clusters.get(&of.name)?.clone()))).collect()
    }

    /// The kept clusters, and new ones for all others, which take over state from their predecessors.
    pub(super) fn clusters(
        &mut self,
        config: &Config,
        mut kept: Clusters,
        mut tls: HashMap<String, Option<ClientTls>>,
        material: &Material,
    ) -> Clusters {
        let known = by_name(&self.config);
        let (Around { common, .. }, policies) = (&self.around, &mut self.policies);
        for of in &config.clusters {
            if kept.contains_key(&of.name) {
                continue;
            }
            let before = known.get(of.name.as_str()).zip(self.clusters.get(&of.name));
            let has_other_files = !material.is_same_for(&of.tls, &self.material);
            let before = before.map(|(of, cluster)| PreviousCluster { of, cluster, has_other_files });
            let (said, tls) = (written(of), tls.remove(&of.name).flatten());
            let cluster = Cluster::service(of, said, tls, before, policies, common);
            kept.insert(of.name.clone(), cluster);
        }
        kept
    }

    /// Passes the state of these clusters to the clusters that replace them.
    pub(super) fn leave(&self, former: &Clusters) {
        for (name, cluster) in former {
            match self.clusters.get(name) {
                Some(same) if Arc::ptr_eq(same, cluster) => {}
                Some(next) => cluster.leave_for(Some(next)),
                None => {
                    cluster.leave_for(None);
                    cluster.note_removed();
                }
            }
        }
    }

    /// Applies news of a service's endpoints. Only that cluster is changed.
    pub(crate) fn learn(&self, update: EndpointUpdate) {
        if let Some(cluster) = self.clusters.get(&*update.cluster) {
            cluster.update(update);
        }
    }
}

fn by_name(config: &Config) -> HashMap<&str, &ClusterConfig> {
    config.clusters.iter().map(|of| (of.name.as_str(), of)).collect()
}
