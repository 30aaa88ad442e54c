//! The names that a configuration follows, and what they come to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pillion_model::Config;
use pillion_model::Endpoint;
use pillion_model::cluster::Discovery;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::control::Controller;
use crate::cluster::balance::Candidate as _;
use crate::cluster::endpoint::Endpoint as Served;
use crate::cluster::{Cluster, Membership as Endpoints};
use crate::discovery::{Following, Membership, Resolver};

/// Start waits this long for a name's first answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// News on its way; whoever has more waits.
const NEWS: usize = 64;

/// A service's endpoints are others now.
pub(crate) struct News {
    service: String,
    of: Discovery,
    membership: Membership,
}

/// What is known of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Learnt {
    pub(crate) addresses: Vec<SocketAddr>,
    /// Why there are none.
    pub(crate) why: Arc<str>,
}

impl Learnt {
    /// Of a name that nobody has answered for yet.
    pub(super) fn nothing() -> Self {
        Self { addresses: Vec::new(), why: "its name has not been resolved yet".into() }
    }

    /// Until somebody has answered, those go on who served before.
    pub(super) fn or_still(&self, before: &Cluster) -> Endpoints {
        let still = |known: &Arc<Served>| Endpoint { weight: known.weight(), ..Endpoint::at(known.address) };
        Endpoints {
            endpoints: before.endpoints.iter().map(still).collect(),
            unlearnt: Some(self.why.clone()),
        }
    }

    pub(super) fn membership(&self) -> Endpoints {
        Endpoints {
            endpoints: self.addresses.iter().map(|address| Endpoint::at(*address)).collect(),
            unlearnt: self.addresses.is_empty().then(|| self.why.clone()),
        }
    }
}

pub(crate) struct Names {
    resolver: Arc<Resolver>,
    followed: HashMap<String, Followed>,
    tell: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
}

struct Followed {
    of: Discovery,
    following: Following,
    forward: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.forward.abort();
    }
}

impl Names {
    pub(super) fn new() -> Self {
        Self::of(Resolver::system())
    }

    pub(crate) fn of(resolver: Resolver) -> Self {
        let (tell, news) = mpsc::channel(NEWS);
        Self { resolver: Arc::new(resolver), followed: HashMap::new(), tell, news }
    }

    /// What `config` says, from now on. Must be called on a runtime.
    pub(crate) fn follow(&mut self, config: &Config) {
        let wanted: HashMap<&str, &Discovery> = config
            .clusters
            .iter()
            .filter_map(|cluster| Some((cluster.name.as_str(), cluster.discovery.as_ref()?)))
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

    fn start(&self, service: &str, of: &Discovery, before: Option<&Followed>) -> Followed {
        let same_name = before.filter(|before| (&before.of.name, before.of.port) == (&of.name, of.port));
        let known = same_name.map(|before| before.following.membership().borrow().clone());
        let following = Following::start(self.resolver.clone(), of, known, &Handle::current());
        let mut membership = following.membership();
        let (tell, service, discovery) = (self.tell.clone(), service.to_owned(), of.clone());
        let forward = tokio::spawn(async move {
            while membership.changed().await.is_ok() {
                let membership = membership.borrow_and_update().clone();
                let news = News { service: service.clone(), of: discovery.clone(), membership };
                if tell.send(news).await.is_err() {
                    return;
                }
            }
        });
        Followed { of: of.clone(), following, forward }
    }

    /// Waits for the first answers, but not for long: a name server that is away must not keep a sidecar from
    /// starting.
    pub(crate) async fn first(&self, controller: &mut Controller) {
        let deadline = Instant::now() + PATIENCE;
        for (service, followed) in &self.followed {
            let left = deadline.saturating_duration_since(Instant::now());
            controller.learn(service, learnt(followed.following.first(left).await)); // all are asked at once
        }
    }

    pub(crate) async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }

    /// Unless the service follows another name by now.
    pub(crate) fn learn(&self, news: News, controller: &mut Controller) {
        if self.followed.get(&news.service).is_some_and(|followed| followed.of == news.of) {
            tracing::debug!(
                service = news.service,
                endpoints = news.membership.endpoints.len(),
                "endpoints learnt"
            );
            controller.learn(&news.service, learnt(news.membership));
        }
    }
}

fn learnt(membership: Membership) -> Learnt {
    let why = membership.last_error.unwrap_or_else(|| "its name has no addresses".to_owned());
    Learnt { addresses: membership.endpoints.to_vec(), why: why.into() }
}
