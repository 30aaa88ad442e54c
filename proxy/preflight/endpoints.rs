//! Whether the endpoints of each service accept connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Line;
use pillion_base::net::{Leg, Network};
use pillion_sidecar::state::Snapshot;
use pillion_upstream::cluster::Cluster;

const CHECK: &str = "endpoints";
/// How long an endpoint may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(1);
/// The endpoints that are tried, of all services and of one. With [`AT_ONCE`] all of them take two seconds at most.
const MOST: usize = 128;
const MOST_OF_ONE: usize = 16;
const AT_ONCE: usize = 64;
/// The services that get a line.
const MOST_LINES: usize = 50;
/// How many endpoints a line names.
const MOST_NAMED: usize = 3;
const HELP: &str =
    "see whether the server runs, listens on that address, and is let through by network policies";
const NONE: &str = "see `endpoints` of the service, and its DNS name";

/// A service with the endpoints to try.
pub(super) struct Wanted {
    service: String,
    /// Each with its state, if that keeps requests from it.
    endpoints: Vec<(SocketAddr, Option<&'static str>)>,
    /// The endpoints that the service has.
    all: usize,
    /// Why DNS has no answer.
    problem: Option<String>,
}

/// What was found of a service.
pub(super) struct Service {
    of: Wanted,
    /// For each endpoint, why it does not accept connections.
    faults: Vec<Option<String>>,
}

/// The services to try, by name, and how many are left out.
pub(super) fn wanted(snapshot: &Snapshot, now: Instant) -> (Vec<Wanted>, usize) {
    let mut clusters: Vec<&Arc<Cluster>> = snapshot.clusters().collect();
    clusters.sort_by(|one, other| one.name.cmp(&other.name));
    let (mut wanted, mut left, all) = (Vec::new(), MOST, clusters.len());
    for cluster in clusters.into_iter().take(MOST_LINES) {
        if left == 0 {
            break;
        }
        let states = cluster.eligibility(now);
        let kept = |state| Some(state).filter(|state| ["unhealthy", "ejected"].contains(state));
        let endpoints = states.iter().map(|(address, state)| (*address, kept(*state)));
        let endpoints: Vec<_> = endpoints.take(left.min(MOST_OF_ONE)).collect();
        left -= endpoints.len();
        wanted.push(Wanted {
            service: cluster.name.to_string(),
            endpoints,
            all: states.len(),
            problem: cluster.endpoints().said.problem.as_ref().map(|problem| problem.text().to_owned()),
        });
    }
    let left_out = all - wanted.len();
    (wanted, left_out)
}

/// Connects to each endpoint once, and closes the connection.
pub(super) async fn try_all(network: &Network, wanted: Vec<Wanted>) -> Vec<Service> {
    let (places, mut tries) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for (nth, of) in wanted.iter().enumerate() {
        for (at, (address, _)) in of.endpoints.iter().enumerate() {
            let (network, places, address) = (network.clone(), places.clone(), *address);
            tries.spawn(async move {
                let _place = places.acquire().await;
                (nth, at, fault(&network, address, Leg::Outbound).await)
            });
        }
    }
    let faults = |of: &Wanted| of.endpoints.iter().map(|_| None).collect();
    let mut services: Vec<Service> =
        wanted.into_iter().map(|of| Service { faults: faults(&of), of }).collect();
    while let Some(tried) = tries.join_next().await {
        let Ok((nth, at, why)) = tried else { continue };
        if let Some(fault) = services.get_mut(nth).and_then(|service| service.faults.get_mut(at)) {
            *fault = why;
        }
    }
    services
}

/// Why an address does not accept connections.
pub(super) async fn fault(network: &Network, address: SocketAddr, leg: Leg) -> Option<String> {
    match timeout(PATIENCE, network.connect(address, leg, None)).await {
        Ok(Ok(_closed)) => None,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Some("refuses connections".to_owned())
        }
        Ok(Err(error)) => Some(format!("cannot be reached: {error}")),
        Err(_elapsed) => Some(format!("does not accept a connection within {} s", PATIENCE.as_secs())),
    }
}

/// `left_out`: the services that were not tried.
pub(super) fn judge(services: &[Service], left_out: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = services.iter().map(Service::judge).collect();
    if left_out > 0 {
        let what = format!(
            "{left_out} more services were not tried: a check tries {MOST_LINES} services and {MOST} endpoints"
        );
        lines.push(Line::warning(CHECK, what, "see /clusters for their state"));
    }
    lines
}

impl Service {
    fn judge(&self) -> Line {
        let Wanted { service, endpoints, all, problem } = &self.of;
        if *all == 0 {
            let why = problem.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            return Line::bad(CHECK, format!("{service} has no endpoints{why}"), NONE);
        }
        let tried = endpoints.len();
        let faults: Vec<String> = endpoints
            .iter()
            .zip(&self.faults)
            .filter_map(|((address, _), fault)| Some(format!("{address} {}", fault.as_ref()?)))
            .collect();
        let accept = tried - faults.len();
        let count = format!("{service}: {accept} of {tried} endpoints accept connections");
        let resting: Vec<String> = endpoints
            .iter()
            .filter_map(|(address, state)| Some(format!("{address} is {}", (*state)?)))
            .collect();
        match () {
            () if accept == 0 => Line::bad(CHECK, format!("{count} ({})", some(&faults)), HELP),
            () if !faults.is_empty() => Line::warning(CHECK, format!("{count} ({})", some(&faults)), HELP),
            () if !resting.is_empty() => Line::warning(
                CHECK,
                format!("{count}, but requests failed ({})", some(&resting)),
                "see /clusters, and `pillion top` for their failures",
            ),
            () if problem.is_some() => {
                let why = problem.as_deref().unwrap_or_default();
                Line::warning(CHECK, format!("{count}, but DNS has no new answer: {why}"), NONE)
            }
            () if tried < *all => {
                Line::good(CHECK, format!("{count}, and {} more were not tried", all - tried))
            }
            () => Line::good(CHECK, count),
        }
    }
}

/// The first of a list, and how many more there are.
fn some(all: &[String]) -> String {
    let named = all.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join("; ");
    match all.len().saturating_sub(MOST_NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Bad, Good, Warning};
    use super::*;

    fn of(
        faults: &[Option<&str>],
        state: Option<&'static str>,
        all: usize,
        problem: Option<&str>,
    ) -> (Verdict, String) {
        let endpoints = (1..=faults.len()).map(|nth| (([10, 0, 0, nth as u8], 80).into(), state)).collect();
        let of = Wanted { service: "orders".into(), endpoints, all, problem: problem.map(str::to_owned) };
        let line =
            Service { of, faults: faults.iter().map(|fault| fault.map(str::to_owned)).collect() }.judge();
        (line.verdict, line.what)
    }

    #[test]
    fn a_service_is_judged_by_the_endpoints_that_accept_connections() {
        let refuses = Some("refuses connections");
        for (faults, state, all, problem, verdict, part) in [
            (&[None, None][..], None, 2, None, Good, "orders: 2 of 2 endpoints accept connections"),
            (&[None, None], None, 20, None, Good, "18 more were not tried"),
            (
                &[None, refuses],
                None,
                2,
                None,
                Warning,
                "1 of 2 endpoints accept connections (10.0.0.2:80 refuses connections)",
            ),
            (&[refuses; 5], None, 5, None, Bad, "0 of 5 endpoints accept connections (10.0.0.1:80 refuses"),
            (&[refuses; 5], None, 5, None, Bad, "and 2 more)"),
            (&[None], Some("ejected"), 1, None, Warning, "10.0.0.1:80 is ejected"),
            (
                &[None],
                None,
                1,
                Some("no name server answers"),
                Warning,
                "DNS has no new answer: no name server answers",
            ),
            (
                &[],
                None,
                0,
                Some("the name does not exist"),
                Bad,
                "orders has no endpoints: the name does not exist",
            ),
            (&[], None, 0, None, Bad, "orders has no endpoints"),
        ] {
            let (found, what) = of(faults, state, all, problem);
            assert!(found == verdict && what.contains(part), "{verdict:?} {part:?}: {found:?} {what}");
        }
    }

    #[test]
    fn services_beyond_the_bound_are_told() {
        assert!(judge(&[], 7)[0].what.starts_with("7 more services were not tried"));
        let many = (0..200).map(|nth| {
            format!("  s{nth}: {{ endpoints: [\"10.0.0.1:80\", \"10.0.0.2:80\", \"10.0.0.3:80\"] }}\n")
        });
        let (config, _) =
            pillion_config::parse(&many.fold("services:\n".to_owned(), |all, one| all + &one), "".as_ref())
                .expect("a good file");
        let (wanted, left_out) = wanted(&crate::app::unserved_snapshot(&config), Instant::now());
        assert!(wanted.iter().map(|of| of.endpoints.len()).sum::<usize>() <= MOST);
        assert_eq!(wanted.len() + left_out, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_accepts_or_refuses_or_says_nothing() {
        let memory = pillion_base::net::memory::MemoryNetwork::default();
        let network = Network::Memory(memory);
        let _listener =
            network.bind("10.0.0.1:80".parse().expect("an address"), pillion_base::net::Sharing::Alone);
        let tried = ["10.0.0.1:80", "10.0.0.2:80"].map(|at| (at.parse().expect("an address"), None)).to_vec();
        let of = Wanted { service: "a".into(), endpoints: tried, all: 2, problem: None };
        let found = try_all(&network, vec![of]).await;
        assert!(
            matches!(&found[0].faults[..], [None, Some(why)] if why == "refuses connections"),
            "{:?}",
            found[0].faults
        );
    }
}
