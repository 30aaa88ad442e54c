//! The work of the companion: it follows the configuration, looks at the files, and lets each sink run.

use std::cell::RefCell;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pillion_base::ground::Ground;
use pillion_companion::courtesy::stand_back;
use pillion_companion::thread::{Order, Work};
use pillion_model::cluster::HostPattern;
use pillion_model::logs::{Destination, Logs, Sink, SyslogOver};
use pillion_model::{Config, Workload};
use pillion_telemetry::Symbol;
use pillion_telemetry::companions::{CompanionKind, Entry};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep};

use crate::catalog::{Catalog, Shelf};
use crate::checkpoint;
use crate::delivery::Delivery;
use crate::encode::Encoder;
use crate::pace::{Counts, Notices, Pace, Phase, Policy};
use crate::tail::Tail;
use crate::watch::Watch;

/// How often the sizes of files are looked at. The kernel tells of changes before, where it can.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many looks pass until the globs are searched again.
const LOOKS_PER_SCAN: u32 = 5;
/// How long changes are collected before a look: while files are written all the time, the kernel tells of it all the time.
const SHORTEST_LOOK: Duration = Duration::from_millis(50);
/// How often a lock is tried that another process has.
const LOCK_EVERY: Duration = Duration::from_millis(500);
/// 32 MiB: MongoDB takes messages of 48 MB.
const MOST_OF_MONGODB: u64 = 32 * 1024 * 1024;
/// 8 MiB: Elasticsearch's documents advise 5 to 15 MB, and the answer has something for each document.
const MOST_OF_BULK: u64 = 8 * 1024 * 1024;

/// What of a configuration concerns logs.
#[derive(Debug, Clone, PartialEq)]
struct Plan {
    logs: Logs,
    workload: Workload,
    /// For each sink the listener of the sidecar that leads to it.
    ways: Vec<Option<SocketAddr>>,
}

impl Plan {
    fn of(config: &Config) -> Option<Self> {
        let logs = config.logs.clone()?;
        let ways = logs.sinks.iter().map(|sink| way(config, &sink.to)).collect();
        Some(Self { logs, workload: config.workload.clone(), ways })
    }
}

/// The listener of the sidecar that leads to a sink whose host is one of a configured service: the service's own, or for HTTP
/// that of outbound. A sink that is asked over TLS or by datagrams is asked directly.
fn way(config: &Config, to: &Destination) -> Option<SocketAddr> {
    let (is_tls, host, port) = to.server();
    let is_udp = matches!(to, Destination::Syslog { url } if url.over == SyslogOver::Udp);
    if is_tls || is_udp {
        return None;
    }
    let is_of = |pattern: &HostPattern| names(pattern, host, port);
    let service = config.clusters.iter().find(|service| service.hosts.iter().any(is_of))?;
    let outbound = config.outbound.iter().filter(|_| to.is_http()).flat_map(|outbound| &outbound.listen);
    let address = service.listen.iter().chain(outbound).find(|address| address.port() != 0)?;
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Some(SocketAddr::new(ip, address.port()))
}

fn names(pattern: &HostPattern, host: &str, port: u16) -> bool {
    pattern.fits_name(host) && pattern.port.is_none_or(|of| of == port)
}

/// Makes the work of the companion.
pub fn work(ground: Arc<Ground>) -> Box<dyn Fn(watch::Receiver<Order>) -> Work + Send> {
    let shelf = Shelf::default(); // outlives a panic
    Box::new(move |orders| Box::pin(run(ground.clone(), shelf.clone(), orders)))
}

async fn run(ground: Arc<Ground>, shelf: Shelf, mut orders: watch::Receiver<Order>) {
    stand_back();
    loop {
        let order = orders.borrow_and_update().clone();
        let Order::Follow(config) = order else { return };
        match Plan::of(&config) {
            Some(plan) => {
                LocalSet::new().run_until(ship(&ground, &plan, &shelf, &mut orders)).await;
                ground.metrics.forget_logs_lag(); // the next configuration may have other sources and sinks
                if orders.has_changed().is_err() {
                    return; // no further order comes
                }
            }
            None => {
                shelf.clear();
                if orders.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Ships by a plan until there is another one, or until everything is delivered that is to be delivered at the end.
async fn ship(ground: &Arc<Ground>, plan: &Plan, shelf: &Shelf, orders: &mut watch::Receiver<Order>) {
    let Some(_lock) = locked(ground, plan, shelf, orders).await else { return };
    let Some(catalog) = opened(ground, plan, shelf, orders).await else { return };
    let catalog = Rc::new(RefCell::new(catalog));
    count_lost(ground, &catalog);
    let (phase, phases) = watch::channel(Phase::Work);
    let (changed, changes) = watch::channel(0);
    let mut sinks = JoinSet::new();
    for pace in paces(ground, plan, &catalog, &phases, &changes) {
        sinks.spawn_local(pace.run());
    }
    let mut looking = JoinSet::new();
    looking.spawn_local(look(ground.clone(), plan.logs.clone(), catalog.clone(), changed));
    loop {
        tokio::select! { // all only wait
            ended = sinks.join_next() => match ended {
                Some(ended) => passed_on(ended),
                None => return,
            },
            Some(ended) = looking.join_next() => passed_on(ended),
            told = orders.changed() => {
                let order = orders.borrow().clone();
                match order {
                    _ if told.is_err() => return,
                    Order::Finish => {
                        catalog.borrow_mut().scan(Instant::now());
                        count_lost(ground, &catalog);
                        catalog.borrow_mut().look_last(Instant::now());
                        phase.send_replace(Phase::Finish);
                    }
                    Order::Follow(config) if Plan::of(&config).as_ref() != Some(plan) => {
                        phase.send_replace(Phase::Stop);
                    }
                    Order::Follow(_) => {}
                }
            }
        }
    }
}

/// Waits until no other process ships by the same checkpoint: a sidecar that has handed its sockets to this one ships until it
/// ends. `None`: there is another order. Without a folder that can be locked, what is kept cannot be written either, and the
/// catalog tells of that.
async fn locked(
    ground: &Ground,
    plan: &Plan,
    shelf: &Shelf,
    orders: &mut watch::Receiver<Order>,
) -> Option<Option<File>> {
    let (mut waiting, mut is_other) = (Vec::new(), false);
    loop {
        match checkpoint::lock(&plan.logs.checkpoint) {
            Ok(Some(lock)) => return Some(Some(lock)),
            Err(error) if checkpoint::is_never_locked(&error) => return Some(None),
            Err(error) if waiting.is_empty() => {
                let folder = plan.logs.checkpoint.display();
                let why = format!(
                    "the folder {folder} of the checkpoint cannot be locked, which is tried again: {error}"
                );
                tracing::warn!("no log file is shipped: {why}");
                waiting = down(ground, plan, &why);
            }
            Err(_) => {}
            Ok(None) => is_other = true,
        }
        if is_other && waiting.is_empty() {
            shelf.clear(); // the other process goes on with the files
            waiting = down(ground, plan, "another process ships by the same checkpoint");
            tracing::info!(checkpoint = %plan.logs.checkpoint.display(), "log files are shipped when the process has ended that ships by the same checkpoint");
        }
        tokio::select! { // both only wait
            _ = orders.changed() => return None,
            () = sleep(LOCK_EVERY) => {}
        }
    }
}

/// Opens the files, as soon as the checkpoint can be read. `None`: there is another order.
async fn opened(
    ground: &Ground,
    plan: &Plan,
    shelf: &Shelf,
    orders: &mut watch::Receiver<Order>,
) -> Option<Catalog> {
    let mut waiting = Vec::new();
    loop {
        let error = match Catalog::open(&plan.logs, &plan.workload, shelf, Instant::now()) {
            Ok(catalog) => return Some(catalog),
            Err(error) => error,
        };
        if waiting.is_empty() {
            let folder = plan.logs.checkpoint.display();
            let why = format!("the checkpoint in {folder} cannot be read, which is tried again: {error}");
            tracing::warn!("no log file is shipped: {why}");
            waiting = down(ground, plan, &why);
        }
        tokio::select! { // both only wait
            _ = orders.changed() => return None,
            () = sleep(LOCK_EVERY) => {}
        }
    }
}

/// Says of all sinks why nothing is shipped to them.
fn down(ground: &Ground, plan: &Plan, why: &str) -> Vec<Entry> {
    let board = ground.metrics.companions();
    let entries = plan.logs.sinks.iter().map(|sink| board.register(CompanionKind::Logs, &sink.name, false));
    entries.inspect(|entry| entry.down(why)).collect()
}

/// A panic of a task is one of the companion, whose thread begins anew.
fn passed_on(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

fn paces(
    ground: &Arc<Ground>,
    plan: &Plan,
    catalog: &Rc<RefCell<Catalog>>,
    phases: &watch::Receiver<Phase>,
    changes: &watch::Receiver<u64>,
) -> Vec<Pace> {
    let Plan { logs, workload, ways } = plan;
    let metrics = &ground.metrics;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let sources: Vec<Symbol> = logs.sources.iter().map(|source| metrics.intern(&source.name)).collect();
    let pace = |(place, (sink, way)): (usize, (&Sink, &Option<SocketAddr>))| {
        let encoder = Encoder::new(&sink.to, host.trim());
        let most = most_of_batch(logs, &sink.to);
        Pace {
            sink: place,
            name: sink.name.clone(),
            batch: logs.batch,
            tail: Tail::new(place, logs, encoder.clone(), most),
            delivery: Delivery::new(sink, encoder, workload, *way, third(logs), ground),
            catalog: catalog.clone(),
            counts: Counts::new(metrics, &sources, metrics.intern(&sink.name)),
            entry: metrics.companions().register(CompanionKind::Logs, &sink.name, false),
            phase: phases.clone(),
            changes: changes.clone(),
            notices: Notices::default(),
            policy: Policy::default(),
        }
    };
    logs.sinks.iter().zip(ways).enumerate().map(pace).collect()
}

/// A third of a sink's share of the memory, in bytes. The sink has a batch as its records are written; where it is sent in another
/// form, as to Loki, OTLP and MongoDB, the same once more; and a portion of a file, or an answer and what is read out of it.
fn third(logs: &Logs) -> usize {
    let share = logs.memory / (logs.sinks.len() as u64).max(1);
    usize::try_from(share / 3).unwrap_or(usize::MAX)
}

/// The bytes of a batch.
fn most_of_batch(logs: &Logs, to: &Destination) -> usize {
    let most = match to {
        Destination::Mongodb { .. } => logs.batch.max.min(MOST_OF_MONGODB),
        Destination::Elasticsearch { .. } => logs.batch.max.min(MOST_OF_BULK),
        _ => logs.batch.max,
    };
    usize::try_from(most).unwrap_or(usize::MAX).min(third(logs))
}

/// Looks at the files, and tells the sinks of changes.
async fn look(ground: Arc<Ground>, logs: Logs, catalog: Rc<RefCell<Catalog>>, changed: watch::Sender<u64>) {
    let mut watch = Watch::new();
    for looks in 0.. {
        let folders = catalog.borrow().folders.clone();
        watch.follow(&folders);
        let mut names = looks % LOOKS_PER_SCAN == 0;
        tokio::select! { // what was seen stays in the kernel's queue
            seen = watch.seen() => {
                names |= seen.names;
                sleep(SHORTEST_LOOK).await;
            }
            () = sleep(LOOK_EVERY) => {}
        }
        let now = Instant::now();
        let is_new = names && catalog.borrow_mut().scan(now);
        count_lost(&ground, &catalog);
        let is_busy = catalog.borrow_mut().look(now);
        if is_new || is_busy {
            changed.send_modify(|changes| *changes += 1);
        }
        tell_lag(&ground, &logs, &catalog.borrow());
    }
}

/// Counts what was lost of files that were gone.
fn count_lost(ground: &Ground, catalog: &RefCell<Catalog>) {
    let lost = std::mem::take(&mut catalog.borrow_mut().lost);
    ground.metrics.logs_truncated().inc_by(lost);
}

fn tell_lag(ground: &Ground, logs: &Logs, catalog: &Catalog) {
    for (nth, source) in logs.sources.iter().enumerate() {
        for (place, sink) in logs.sinks.iter().enumerate() {
            let lag = i64::try_from(catalog.lag(nth, place)).unwrap_or(i64::MAX);
            let metrics = &ground.metrics;
            metrics.logs_lag(metrics.intern(&source.name), metrics.intern(&sink.name)).set(lag);
        }
    }
}

#[cfg(test)]
mod tests {
    use pillion_base::ground::Shared;
    use pillion_base::net::Network;
    use pillion_model::Cluster;
    use pillion_model::logs::{SinkUrl, Source, SyslogUrl};
    use pillion_model::telemetry::Metrics as MetricsPort;
    use pillion_telemetry::Metrics;

    use super::*;

    mod stories;

    fn http(url: &str) -> Destination {
        Destination::Http { url: SinkUrl::new(url).unwrap() }
    }

    fn syslog(url: &str) -> Destination {
        Destination::Syslog { url: SyslogUrl::new(url).unwrap() }
    }

    #[test]
    fn a_sink_whose_host_is_a_service_is_reached_through_a_listener_of_the_sidecar() {
        let own_port = Cluster { listen: vec!["0.0.0.0:9000".parse().unwrap()], ..Cluster::new("box") };
        let config = Config { clusters: vec![Cluster::new("logs"), own_port], ..Config::default() };
        for (to, expected) in [
            (http("http://logs/in"), Some("127.0.0.1:15001")),
            (http("http://LOGS:8080/in"), Some("127.0.0.1:15001")),
            (http("https://logs/in"), None),
            (http("http://other/in"), None),
            (http("http://box/in"), Some("127.0.0.1:9000")),
            (syslog("tcp://box"), Some("127.0.0.1:9000")),
            (syslog("tcp://logs"), None),
            (syslog("udp://box"), None),
            (syslog("tls://box"), None),
        ] {
            assert_eq!(way(&config, &to), expected.map(|address| address.parse().unwrap()), "{to:?}");
        }
        let closed = Config { outbound: None, ..config };
        assert_eq!(way(&closed, &http("http://logs/in")), None);
    }

    #[test]
    fn a_reload_that_does_not_concern_logs_leaves_them_alone() {
        let to = http("http://logs/in");
        let sink = Sink { name: "hook".to_owned(), to, headers: Vec::new(), trust_bundle: None };
        let logs = Logs { sources: vec![Source::new("app")], sinks: vec![sink], ..Logs::default() };
        let config = Config { logs: Some(logs), ..Config::default() };
        let other = Config {
            metrics: Some(MetricsPort { endpoints: true, ..MetricsPort::default() }),
            ..config.clone()
        };
        assert!(Plan::of(&config).is_some() && Plan::of(&config) == Plan::of(&other));
        let service = Config { clusters: vec![Cluster::new("logs")], ..config.clone() };
        assert!(Plan::of(&service) != Plan::of(&config), "the sink is reached by another way");
        assert!(Plan::of(&Config::default()).is_none());
    }

    #[tokio::test]
    async fn the_work_ends_when_no_further_order_can_come() {
        let folder =
            std::env::temp_dir().join(format!("pillion-ship-{}-{}", std::process::id(), fastrand::u64(..)));
        let sink = Sink {
            name: "hook".to_owned(),
            to: http("http://127.0.0.1:1"),
            headers: Vec::new(),
            trust_bundle: None,
        };
        let logs = Logs { sinks: vec![sink], checkpoint: folder.clone(), ..Logs::default() };
        let config = Config { logs: Some(logs), ..Config::default() };
        let ground = Ground::new((0, 1), Network::Os, Metrics::new(100), Shared::default());
        let (sender, orders) = watch::channel(Order::Follow(Arc::new(config)));
        drop(sender);
        run(ground, Shelf::default(), orders).await;
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_batch_is_a_third_of_a_sinks_share_of_the_memory() {
        let sink = |nth: usize| Sink {
            name: nth.to_string(),
            to: http("http://logs"),
            headers: Vec::new(),
            trust_bundle: None,
        };
        let logs =
            |sinks: usize, memory| Logs { sinks: (0..sinks).map(sink).collect(), memory, ..Logs::default() };
        let most = |logs: &Logs| most_of_batch(logs, &http("http://logs")) / 1024;
        assert_eq!(most(&logs(1, 8 << 20)), 1024);
        assert_eq!(most(&logs(4, 8 << 20)), 682);
        assert_eq!(most(&logs(1, 1 << 20)), 341);
    }
}
