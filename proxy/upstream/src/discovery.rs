//! Endpoints by DNS: each name is looked up again and again, and its cluster is notified when the addresses change.
//!
//! There is one [`Following`] for each name, on a runtime beside the workers, so that a slow DNS server delays no
//! request. [`membership`] decides what an answer means, without clock or socket.
//! Deliberately absent: requests to endpoints that were removed.

mod answer;
mod membership;
pub mod names;
mod resolver;
mod search;
mod system;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pillion_model::Endpoint;
use pillion_model::cluster::{DnsDiscovery, DnsRecords};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

pub use answer::Answer;
pub use membership::Membership;
pub use resolver::Resolver;
pub use system::Files;

use membership::{Effect, NameState, News};

/// The number of addresses that a log line names. A rollout of a large service changes hundreds at once.
const MOST_NAMED: usize = 10;

/// A name that is looked up at intervals until this is dropped.
#[derive(Debug)]
pub struct Following {
    membership: watch::Receiver<Membership>,
    task: JoinHandle<()>,
}

impl Following {
    /// Starts the look-ups, the first one at once, in a task on `runtime`. `before` is what was known of these
    /// records, perhaps with another `refresh`. It is kept until an answer replaces it.
    pub fn start(
        resolver: Arc<Resolver>,
        discovery: &DnsDiscovery,
        before: Option<Membership>,
        runtime: &Handle,
    ) -> Self {
        let records = discovery.records.clone();
        Self::by(discovery, before, runtime, move || {
            let (resolver, records) = (Arc::clone(&resolver), records.clone());
            async move { resolver.ask(&records).await }
        })
    }

    /// Follows a name whose answers `ask` returns.
    pub fn by<A>(
        discovery: &DnsDiscovery,
        before: Option<Membership>,
        runtime: &Handle,
        ask: impl Fn() -> A + Send + 'static,
    ) -> Self
    where
        A: Future<Output = Answer> + Send + 'static,
    {
        let port = match &discovery.records {
            DnsRecords::Addresses { port, .. } => *port,
            DnsRecords::Services { .. } => 0, // each record has its own
        };
        let known = NameState::new(port, discovery.refresh, before);
        let (tell, membership) = watch::channel(known.membership.clone());
        let task = runtime.spawn(follow(discovery.records.name().to_owned(), known, tell, ask));
        Self { membership, task }
    }

    /// The endpoints. The receiver is notified when the endpoints changed, when the first look-up ended, and when there
    /// are no endpoints for another reason than before. Its value is always the newest, `last_error` included.
    pub fn membership(&self) -> watch::Receiver<Membership> {
        self.membership.clone()
    }

    /// Waits until the first look-up ended, with or without an answer, but at most for `patience`. Returns what is
    /// known then.
    pub async fn first(&self, patience: Duration) -> Membership {
        let mut membership = self.membership();
        let asked = timeout(patience, membership.wait_for(Membership::was_asked)).await;
        drop(asked); // on a timeout the present state is returned as well
        membership.borrow().clone()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow<A>(
    name: String,
    mut known: NameState,
    tell: watch::Sender<Membership>,
    ask: impl Fn() -> A + Send,
) where
    A: Future<Output = Answer> + Send,
{
    loop {
        let answer = ask().await;
        let before = known.membership.endpoints.clone();
        let effect = known.apply(answer, Instant::now());
        publish(&tell, &known.membership, effect.changed);
        log(&name, &before, &known.membership, &effect);
        sleep(known.pause(fastrand::f64())).await;
    }
}

/// Stores the new state. Receivers are woken for changes that requests notice: other endpoints, or another reason why
/// there are none.
fn publish(tell: &watch::Sender<Membership>, now: &Membership, changed: bool) {
    tell.send_if_modified(|before| {
        let first = !before.was_asked();
        let other_reason = now.endpoints.is_empty() && before.last_error != now.last_error;
        before.clone_from(now);
        changed || first || other_reason
    });
}

fn log(name: &str, before: &[Endpoint], now: &Membership, effect: &Effect) {
    let endpoints = now.endpoints.len();
    let (added, removed) = (missing_in(before, &now.endpoints), missing_in(&now.endpoints, before));
    let why = now.last_error.as_deref().unwrap_or_default();
    match effect.news {
        Some(News::Lost) if endpoints == 0 => tracing::warn!(name, why, "the name cannot be resolved"),
        Some(News::Lost) => {
            tracing::warn!(name, why, endpoints, "the name cannot be resolved; its endpoints are kept");
        }
        Some(News::Emptied) => tracing::warn!(name, why, removed, "the name has no endpoints any more"),
        Some(News::TooMany) => tracing::warn!(name, endpoints, "the name has more addresses than are used"),
        Some(News::Back) => tracing::info!(name, endpoints, added, removed, "the name is resolved again"),
        None if effect.changed => tracing::info!(name, endpoints, added, removed, "endpoints changed"),
        None => tracing::debug!(name, endpoints, why, "asked; nothing changed"),
    }
}

/// The addresses in `of` that `among` lacks, as text for the log.
fn missing_in(among: &[Endpoint], of: &[Endpoint]) -> String {
    let among: BTreeSet<SocketAddr> = among.iter().map(|endpoint| endpoint.address).collect();
    let mut missing = of.iter().map(|endpoint| endpoint.address).filter(|address| !among.contains(address));
    let named: Vec<_> = missing.by_ref().take(MOST_NAMED).map(|address| address.to_string()).collect();
    match missing.count() {
        0 => named.join(" "),
        more => format!("{} and {more} more", named.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use hickory_resolver::proto::op::ResponseCode;
    use hickory_resolver::proto::rr::RecordType;
    use parking_lot::Mutex;

    use super::testing::{DnsServer, Script};
    use super::*;

    fn discovery(refresh: Duration) -> DnsDiscovery {
        DnsDiscovery { records: DnsRecords::Addresses { name: "orders".into(), port: 80 }, refresh }
    }

    fn found(ip: &str) -> Answer {
        Answer::Found { addresses: vec![ip.parse().unwrap()], unanswered: None, lifetime: None }
    }

    #[test]
    fn a_log_line_names_up_to_ten_changed_endpoints() {
        let port = |port: u16| Endpoint::at(([192, 0, 2, 1], port).into());
        let some: Vec<_> = (1..=3).map(port).collect();
        assert_eq!(missing_in(&some[..1], &some), "192.0.2.1:2 192.0.2.1:3");
        assert_eq!(missing_in(&some, &some[..1]), "");
        let many: Vec<_> = (1..=13).map(port).collect();
        let text = missing_in(&[], &many);
        assert!(text.starts_with("192.0.2.1:1 ") && text.ends_with("192.0.2.1:10 and 3 more"), "{text}");
    }

    /// Follows a name with these answers in order. The last one is repeated for ever.
    fn following(refresh: u64, answers: Vec<Answer>) -> Following {
        let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
        Following::by(&discovery(Duration::from_secs(refresh)), None, &Handle::current(), move || {
            let mut answers = answers.lock();
            let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
            async move { next.unwrap() }
        })
    }

    fn endpoints(membership: &watch::Receiver<Membership>) -> Vec<String> {
        membership.borrow().endpoints.iter().map(|it| it.address.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_is_notified_only_when_the_endpoints_change() {
        let same = found("192.0.2.1");
        let answers = vec![same.clone(), same.clone(), same, found("192.0.2.2")];
        let name = following(5, answers);
        let mut membership = name.membership();
        let started = Instant::now();
        membership.changed().await.unwrap();
        assert_eq!(endpoints(&membership), ["192.0.2.1:80"]);
        membership.borrow_and_update();
        membership.changed().await.unwrap();
        assert_eq!(endpoints(&membership), ["192.0.2.2:80"]);
        let took = started.elapsed().as_secs_f64();
        assert!((13.5..=16.6).contains(&took), "three refreshes of 5 s, a tenth more or less: {took}");
    }

    #[tokio::test(start_paused = true)]
    async fn records_that_live_shorter_than_refresh_are_asked_for_again_when_they_end() {
        let short = |ip: &str| Answer::Found {
            addresses: vec![ip.parse().unwrap()],
            unanswered: None,
            lifetime: Some(Duration::from_secs(10)),
        };
        let name = following(60, vec![short("192.0.2.1"), short("192.0.2.2")]);
        let mut membership = name.membership();
        membership.wait_for(|now| !now.endpoints.is_empty()).await.unwrap();
        let learnt = Instant::now();
        membership.wait_for(|now| now.endpoints[0].address.ip().to_string() == "192.0.2.2").await.unwrap();
        let took = learnt.elapsed().as_secs_f64();
        assert!((9.0..=11.1).contains(&took), "10 s, a tenth more or less: {took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dns_outage_keeps_the_known_endpoints_and_shows_the_error() {
        let failed = Answer::Failed("10.96.0.10: request timed out".into());
        let name = following(5, vec![found("192.0.2.1"), failed]);
        let known = name.first(Duration::from_secs(5)).await;
        assert_eq!(known.last_error, None);
        sleep(Duration::from_secs(3600)).await;
        let membership = name.membership();
        assert_eq!(endpoints(&membership), ["192.0.2.1:80"]);
        assert_eq!(membership.borrow().last_error.as_deref(), Some("10.96.0.10: request timed out"));
        assert_eq!(membership.borrow().learnt_at, known.learnt_at);
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_known_before_are_kept_when_the_first_look_up_fails() {
        let before = following(5, vec![found("192.0.2.1")]).first(Duration::from_secs(5)).await;
        let failed = || async { Answer::Failed("refused".into()) };
        let discovery = discovery(Duration::from_secs(60));
        let name = Following::by(&discovery, Some(before), &Handle::current(), failed);
        let mut membership = name.membership();
        let changed = timeout(Duration::from_secs(3600), membership.changed()).await;
        assert!(changed.is_err(), "nothing changed");
        assert_eq!(endpoints(&membership), ["192.0.2.1:80"]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_reason_for_having_no_endpoints_is_reported() {
        let answers = vec![Answer::Failed("timed out".into()), Answer::Nothing("no such name".into())];
        let name = following(5, answers);
        let mut membership = name.membership();
        membership.wait_for(|now| now.last_error.as_deref() == Some("timed out")).await.unwrap();
        membership.wait_for(|now| now.last_error.as_deref() == Some("no such name")).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_for_the_first_answer_or_until_its_patience_ends() {
        let failed = following(5, vec![Answer::Failed("refused".into())]);
        assert_eq!(failed.first(Duration::from_secs(5)).await.last_error.as_deref(), Some("refused"));

        let silent =
            Following::by(&discovery(Duration::from_secs(5)), None, &Handle::current(), std::future::pending);
        let started = Instant::now();
        assert_eq!(silent.first(Duration::from_secs(5)).await, Membership::unknown());
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_real_server_is_asked_again_and_its_outage_is_survived() {
        let server = DnsServer::start().await;
        let records = |ip: &str| Script::Records(vec![ip.parse().unwrap()]);
        server.say("orders.", &records("192.0.2.1"));
        let (resolver, _folder) = server.resolver("", "");
        let name = Following::start(Arc::new(resolver), &discovery(Duration::ZERO), None, &Handle::current());
        let mut membership = name.membership();
        membership.wait_for(|now| !now.endpoints.is_empty()).await.unwrap();
        assert_eq!(endpoints(&membership), ["192.0.2.1:80"]);

        let asked = server.asked().len();
        server.say("orders.", &Script::Code(ResponseCode::ServFail));
        server.heard_more_than(asked + 1).await;
        assert_eq!(endpoints(&membership), ["192.0.2.1:80"]);

        server.say("orders.", &records("192.0.2.2"));
        membership.changed().await.unwrap();
        assert_eq!(endpoints(&membership), ["192.0.2.2:80"]);
    }

    #[tokio::test]
    async fn srv_records_of_a_real_server_are_followed_through_changes_and_an_outage() {
        let server = DnsServer::start().await;
        let address = |ip: &str| Script::Records(vec![ip.parse().unwrap()]);
        server.say("a.test.", &address("192.0.2.1"));
        server.say("b.test.", &address("2001:db8::2"));
        let both = Script::Services(vec![(10, 3, 8081, "a.test."), (20, 0, 8082, "b.test.")]);
        server.say_of("_http._tcp.orders.", RecordType::SRV, both);
        let (resolver, _folder) = server.resolver("", "");
        let records = DnsRecords::Services { name: "_http._tcp.orders".into() };
        let of = DnsDiscovery { records, refresh: Duration::ZERO };
        let name = Following::start(Arc::new(resolver), &of, None, &Handle::current());
        let mut membership = name.membership();
        let told = |now: &Membership| -> Vec<String> {
            now.endpoints.iter().map(|it| format!("{} {} {}", it.address, it.priority, it.weight)).collect()
        };
        let expected = ["192.0.2.1:8081 0 3", "[2001:db8::2]:8082 1 1"];
        membership.wait_for(|now| told(now) == expected).await.unwrap();
        server.say("a.test.", &Script::Code(ResponseCode::ServFail));
        server.say("b.test.", &address("192.0.2.2"));
        let expected = ["192.0.2.1:8081 0 3", "192.0.2.2:8082 1 1"];
        membership.wait_for(|now| told(now) == expected).await.unwrap();
        server.say_of("_http._tcp.orders.", RecordType::SRV, Script::Code(ResponseCode::ServFail));
        server.heard_more_than(server.asked().len() + 3).await;
        assert_eq!(told(&membership.borrow()), expected);
        server.say("a.test.", &address("192.0.2.1"));
        let one = Script::Services(vec![(10, 3, 8081, "a.test.")]);
        server.say_of("_http._tcp.orders.", RecordType::SRV, one);
        membership.wait_for(|now| told(now) == ["192.0.2.1:8081 0 3"]).await.unwrap();
        server.say_of("_http._tcp.orders.", RecordType::SRV, Script::Services(vec![(0, 0, 0, ".")]));
        membership.wait_for(|now| now.endpoints.is_empty()).await.unwrap();
        let why = membership.borrow().last_error.clone().unwrap();
        assert!(why.contains("there is no such service"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_not_followed_any_more_is_not_looked_up() {
        let asked = Arc::new(());
        let held = Arc::downgrade(&asked);
        let name = Following::by(&discovery(Duration::from_secs(5)), None, &Handle::current(), move || {
            let _asked = Arc::clone(&asked);
            std::future::pending()
        });
        let mut membership = name.membership();
        drop(name);
        assert!(membership.changed().await.is_err(), "the task is gone");
        assert!(held.upgrade().is_none());
    }
}
