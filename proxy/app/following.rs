//! The names that a configuration looks up by DNS, and their endpoints.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pillion_model::cluster::{Discovery, DnsDiscovery};
use pillion_model::endpoint::Problem;
use pillion_model::{Config, EndpointUpdate};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::control::Controller;
use pillion_upstream::cluster::update::EndpointSource;
use pillion_upstream::discovery::{Following, Membership, Resolver};

/// How long the start waits for the first answer for a name.
const PATIENCE: Duration = Duration::from_secs(5);
/// The capacity of the queue of news. A source that has more waits.
const NEWS: usize = 64;

/// News of a name.
struct NameUpdate {
    service: Arc<str>,
    of: DnsDiscovery,
    membership: Membership,
}

/// The source of endpoints from DNS.
pub(crate) struct DnsSource {
    resolver: Arc<Resolver>,
    followed: HashMap<String, Followed>,
    tell: mpsc::Sender<NameUpdate>,
    heard: mpsc::Receiver<NameUpdate>,
}

struct Followed {
    of: DnsDiscovery,
    following: Following,
    forward: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.forward.abort();
    }
}

impl DnsSource {
    pub(super) fn new() -> Self {
        Self::of(Resolver::system())
    }

    pub(crate) fn of(resolver: Resolver) -> Self {
        let (tell, heard) = mpsc::channel(NEWS);
        Self { resolver: Arc::new(resolver), followed: HashMap::new(), tell, heard }
    }

    fn start(&self, service: &str, of: &DnsDiscovery, before: Option<&Followed>) -> Followed {
        let same_name = before.filter(|before| before.of.records == of.records);
        let known = same_name.map(|before| before.following.membership().borrow().clone());
        let following = Following::start(self.resolver.clone(), of, known, &Handle::current());
        let mut membership = following.membership();
        let (tell, service, discovery) = (self.tell.clone(), Arc::from(service), of.clone());
        let forward = tokio::spawn(async move {
            while membership.changed().await.is_ok() {
                let membership = membership.borrow_and_update().clone();
                let heard = NameUpdate { service: Arc::clone(&service), of: discovery.clone(), membership };
                if tell.send(heard).await.is_err() {
                    return;
                }
            }
        });
        Followed { of: of.clone(), following, forward }
    }

    /// Waits for the first answers for a bounded time, because a name server that does not answer must not keep a
    /// sidecar from starting.
    pub(crate) async fn first(&self, controller: &Controller) {
        let deadline = Instant::now() + PATIENCE;
        for (service, followed) in &self.followed {
            let left = deadline.saturating_duration_since(Instant::now());
            let first = followed.following.first(left).await; // all names are looked up at the same time
            controller.learn(update(service.as_str(), &first));
        }
    }
}

impl EndpointSource for DnsSource {
    /// Must be called on a runtime.
    fn follow(&mut self, config: &Config) {
        let wanted: HashMap<&str, &DnsDiscovery> = config
            .clusters
            .iter()
            .filter_map(|cluster| {
                Some((cluster.name.as_str(), cluster.discovery.as_ref().and_then(Discovery::dns)?))
            })
            .collect();
        let mut before: HashMap<String, Followed> = self.followed.drain().collect();
        for (service, of) in wanted {
            let known = before.remove(service);
            let followed = match known {
                Some(same) if same.of == *of => same,
                other => self.start(service, of, other.as_ref()),
            };
            self.followed.insert(service.to_owned(), followed);
        }
    }

    async fn next(&mut self) -> Option<EndpointUpdate> {
        loop {
            let NameUpdate { service, of, membership } = self.heard.recv().await?;
            // the service may have another name by now
            if self.followed.get(&*service).is_some_and(|followed| followed.of == of) {
                tracing::debug!(
                    service = &*service,
                    endpoints = membership.endpoints.len(),
                    "endpoints learnt"
                );
                return Some(update(service, &membership));
            }
        }
    }
}

fn update(service: impl Into<Arc<str>>, membership: &Membership) -> EndpointUpdate {
    if membership.endpoints.is_empty() {
        let why = membership.last_error.as_deref().unwrap_or("its name has no addresses");
        return EndpointUpdate::none(service, Problem::Dns(why.into()));
    }
    EndpointUpdate::known(service, membership.endpoints.iter().cloned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use pillion_model::Endpoint;
    use pillion_model::cluster::DnsRecords;
    use pillion_upstream::discovery::Files;

    #[tokio::test(start_paused = true)]
    async fn news_of_a_name_that_is_no_longer_followed_is_ignored() {
        let none = Path::new("/nowhere/none").to_owned();
        let mut names =
            DnsSource::of(Resolver::of(Files { resolv_conf: none.clone(), hosts: none, port: 53 }));
        let text = "inbound: off\nservices:\n  orders: { endpoints: { dns: \"new:80\" } }\n";
        let (config, _) = pillion_config::parse(text, Path::new("")).expect("a good file");
        names.follow(&config);
        for (name, address) in [("old", "10.0.0.9:80"), ("new", "10.0.0.1:80")] {
            let records = DnsRecords::Addresses { name: name.into(), port: 80 };
            let of = DnsDiscovery { records, refresh: Duration::from_secs(5) };
            let endpoints = [Endpoint::at(address.parse().expect("an address"))].into();
            let mut membership = Membership::unknown();
            membership.endpoints = endpoints;
            let heard = NameUpdate { service: "orders".into(), of, membership };
            names.tell.send(heard).await.expect("a receiver");
        }
        // the resolver itself finds no endpoints
        let update = loop {
            let update = names.next().await.expect("news");
            assert_eq!(&*update.cluster, "orders");
            if !update.endpoints.is_empty() {
                break update;
            }
        };
        let known = Endpoint::at("10.0.0.1:80".parse().expect("an address"));
        assert_eq!(update, EndpointUpdate::known("orders", [known]));
    }
}
