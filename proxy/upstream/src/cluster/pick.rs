//! Picks the endpoint of a request, and says why there is none.

use std::net::IpAddr;
use std::sync::Arc;

use pillion_model::cluster::HashKey;
use pillion_model::endpoint::Problem;
use tokio::time::Instant;

use super::Cluster;
use super::balance::Tried;
use super::endpoint::Endpoint;
use super::hashing::KeyHash;
use pillion_base::error::Error;
use pillion_model::Reason;
use pillion_tls::client::ClientTls;

impl Cluster {
    /// Picks an endpoint that was not tried yet, if there is one, and adds it to `tried`. `key` is the hash of the request
    /// or connection, where [`Self::hash_key`] names one and it has it.
    pub fn pick(
        &self,
        tried: &mut Tried,
        key: Option<KeyHash>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<Arc<Endpoint>> {
        if self.waits_for().is_some() {
            return None; // not the fault of an endpoint
        }
        let (now, endpoints) = (now.into_std(), self.endpoints.load());
        let mut avoid = *tried;
        // An endpoint whose ejection is over admits one probe at a time. A request that is not the probe picks again.
        let picked = std::iter::repeat_with(|| {
            let endpoint = endpoints.pick(&avoid, key, now, rng)?;
            avoid.insert(endpoint.id);
            Some((endpoint, endpoint.outlier.admit(now)))
        });
        let mut last = None;
        for candidate in picked.take(endpoints.all.len().clamp(1, 8)) {
            let Some((endpoint, admitted)) = candidate else { break };
            last = Some(endpoint);
            if admitted {
                break;
            }
        }
        let endpoint = last?;
        tried.insert(endpoint.id);
        Some(endpoint.clone())
    }

    /// An endpoint of the other IP family that is neither ejected nor waiting for its probe, was not tried yet, and has
    /// the zone and priority of `than`. The pick is not hashed.
    pub fn pick_of_other_family(
        &self,
        than: &Endpoint,
        tried: &Tried,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<Arc<Endpoint>> {
        self.endpoints.load().pick_of_other_family(than, tried, now.into_std(), rng).cloned()
    }

    /// What its balancer hashes requests by, if it does.
    pub const fn hash_key(&self) -> Option<&HashKey> {
        self.load_balancer.hash_key()
    }

    /// The hash of an opaque connection of this client. Headers, cookies and paths are not in it.
    pub fn hash_of_client(&self, client: IpAddr) -> Option<KeyHash> {
        let is_source = matches!(self.hash_key(), Some(HashKey::Source));
        is_source.then(|| KeyHash::of_client(client))
    }

    /// Why certificates are missing, without which no endpoint is called.
    pub(super) fn waits_for(&self) -> Option<&str> {
        self.tls.as_ref().and_then(ClientTls::waits_for)
    }

    /// The error that says why [`Self::pick`] found no endpoint.
    pub fn no_endpoint(&self) -> Error {
        let (name, endpoints) = (&self.name, self.endpoints.load());
        let known = endpoints.all.len();
        if let Some(why) = self.waits_for() {
            return Error::new(
                Reason::TlsError,
                format!("\"{name}\" needs certificates that are missing: {why}"),
            );
        }
        match (known, &endpoints.said.problem) {
            (0, Some(problem)) => Error::new(
                match problem {
                    Problem::Dns(_) => Reason::DnsError,
                    Problem::None(_) => Reason::NoEndpoints,
                },
                format!(
                    "no endpoint of \"{name}\" is known: {}; see /clusters on the admin port",
                    problem.text()
                ),
            ),
            (0, None) => Error::new(
                Reason::NoEndpoints,
                format!("\"{name}\" has no endpoints: see /clusters on the admin port"),
            ),
            _ => Error::new(
                Reason::AllUnhealthy,
                format!(
                    "all {known} endpoints of \"{name}\" {}: see /clusters on the admin port",
                    self.why_unusable()
                ),
            ),
        }
    }

    pub(super) fn why_unusable(&self) -> String {
        let endpoints = self.endpoints.load();
        match endpoints.all.iter().filter(|endpoint| endpoint.is_unhealthy()).count() {
            0 => "are ejected".to_owned(),
            all if all == endpoints.all.len() => "failed their health check".to_owned(),
            some => {
                format!("are out: {some} failed their health check, the others are ejected")
            }
        }
    }
}
