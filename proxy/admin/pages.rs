//! The pages of both ports: which pages there are, and how each is answered.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{ACCEPT, ALLOW, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::answer::{Answer, Reply, ReplyBody, answer, answered, json, text};
use super::config::{NoSuchService, Selection};
use super::console::{Console, NotTaken, Order};
use super::drain::Sides;
use super::events::Events;
use super::exposition::{Expositions, patience};
use super::info::Started;
use super::probe::Prober;
use super::ready::Readiness;
use super::requests::Filter;
use super::tap::Wanted;
use super::{
    checks, clusters, companions, dashboard, drain, guard, info, listeners, logging, policy, purge, requests,
    tap,
};
use crate::explained::{BadQuestion, Query};
use pillion_base::net::Network;
use pillion_model::telemetry::Secret;
use pillion_telemetry::Format;
use pillion_telemetry::companions::Board;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnPort {
    /// Shows and changes the state; on loopback.
    Admin,
    /// Reachable from other hosts; shows state only.
    Metrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Dashboard,
    Index,
    ServerInfo,
    Listeners,
    Checks,
    Config,
    Clusters,
    Companions,
    Certs,
    Explain,
    Policy,
    Requests,
    Request,
    Tap,
    Events,
    Logging,
    Purge,
    Drain,
    Reload,
    Quit,
    Metrics,
    Ready,
    Live,
    Probe,
}

/// The methods that a page accepts. A page that accepts GET accepts HEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Methods {
    Get,
    Post,
    GetOrPut,
}

/// The prefix of the path to a probe.
const PROBE: &str = "/probe/";
/// The prefix of the path to one request.
const REQUEST: &str = "/requests/";

/// In the order of the index page.
const PAGES: [(&str, Page, Methods, &str); 24] = [
    ("/", Page::Dashboard, Methods::Get, "the dashboard, in a browser; this list for other clients"),
    ("/help", Page::Index, Methods::Get, "this list"),
    (
        "/server_info",
        Page::ServerInfo,
        Methods::Get,
        "version, uptime, workload, memory and descriptors of this process",
    ),
    ("/listeners", Page::Listeners, Methods::Get, "the addresses on which this sidecar listens"),
    (
        "/checks",
        Page::Checks,
        Methods::Get,
        "what is wrong around this sidecar, as `pillion check --live` asks",
    ),
    (
        "/config",
        Page::Config,
        Methods::Get,
        "the configuration at work, where each value came from, what was refused; ?page=2&limit=500, or ?service=NAME",
    ),
    (
        "/clusters",
        Page::Clusters,
        Methods::Get,
        "each service with its endpoints, connections and limits; ?service=NAME shows one",
    ),
    (
        "/companions",
        Page::Companions,
        Methods::Get,
        "the companions of the application, and whether each works",
    ),
    ("/certs", Page::Certs, Methods::Get, "the certificates in use"),
    (
        "/explain",
        Page::Explain,
        Methods::Get,
        "what would happen to a request, and why; ?method=GET&url=http://orders/v2/x, as `pillion explain` asks",
    ),
    ("/policy/record", Page::Policy, Methods::Post, "what `pillion policy record` asks for"),
    (
        "/requests",
        Page::Requests,
        Methods::Get,
        "the requests and connections that failed or were slow, and a sample; ?service=, reason=, status=5xx, slower=200ms, id=, limit=50",
    ),
    ("/requests/ID", Page::Request, Methods::Get, "one of them with its timeline; ID is its x-request-id"),
    (
        "/tap",
        Page::Tap,
        Methods::Get,
        "requests and connections as they end, a line of JSON each; ?service=, path=, status=, limit=100, timeout=30s, headers=on",
    ),
    ("/events", Page::Events, Methods::Get, "what the dashboard shows, once a second, as server-sent events"),
    ("/logging", Page::Logging, Methods::GetOrPut, "the log's level; PUT /logging?level=debug changes it"),
    (
        "/cache/purge",
        Page::Purge,
        Methods::Post,
        "forget stored answers of a service; ?service=NAME, and path=/x or path=/x* for some of them",
    ),
    (
        "/drain",
        Page::Drain,
        Methods::Post,
        "finish what is in flight and end, as SIGTERM; ?only=inbound drains inbound alone, and does not end",
    ),
    ("/reload", Page::Reload, Methods::Post, "read the configuration file again"),
    ("/quitquitquit", Page::Quit, Methods::Post, "the same without drain.delay"),
    ("/metrics", Page::Metrics, Methods::Get, "Prometheus metrics"),
    ("/ready", Page::Ready, Methods::Get, "200, or 503 with the reason"),
    ("/live", Page::Live, Methods::Get, "200"),
    ("/probe/NAME", Page::Probe, Methods::Get, "asks the application what inbound.probes says"),
];

impl Methods {
    fn takes(self, method: &Method) -> bool {
        match *method {
            Method::GET | Method::HEAD => self != Self::Post,
            Method::POST => self == Self::Post,
            Method::PUT => self == Self::GetOrPut,
            _ => false,
        }
    }

    const fn allow(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD",
            Self::Post => "POST",
            Self::GetOrPut => "GET, HEAD, PUT",
        }
    }
}

/// Everything that the pages need.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) expositions: Expositions,
    pub(super) events: Events,
    pub(super) readiness: Arc<Readiness>,
    pub(super) companions: Board,
    pub(super) started: Started,
    pub(super) network: Network,
    pub(super) console: Arc<Console>,
    pub(super) prober: Prober,
    /// `admin.token`. The metrics port never asks for it, so no other host can try tokens.
    pub(super) token: Option<Secret>,
    /// Held while a page that may take long is written.
    pub(super) long_page: Arc<Semaphore>,
    /// Held while a check is under way.
    pub(super) check: Arc<Semaphore>,
}

impl Pages {
    /// Answers a request. Bodies are not read: hyper closes a connection whose body has not arrived.
    ///
    /// `asked_at` is the sidecar's address of the connection.
    pub(super) async fn answer(&self, port: OwnPort, request: &Parts, asked_at: Option<IpAddr>) -> Reply {
        match self.find(port, request) {
            Ok(page) => self.page(page, request, asked_at).await,
            Err(refused) => refused.map(ReplyBody::Whole),
        }
    }

    /// The page for a request, or the response that refuses it.
    fn find(&self, port: OwnPort, request: &Parts) -> Result<Page, Box<Answer>> {
        if port == OwnPort::Admin {
            guard::admit(request).map_err(|why| text(StatusCode::FORBIDDEN, format!("{why}\n")))?;
            if !guard::bears(request, self.token.as_ref()) {
                return Err(without_token().into());
            }
        }
        let page = find(port, request)?;
        if matches!(page, Page::Checks | Page::Tap | Page::Events) && !guard::is_asked_from_here(request) {
            let why = format!("web pages of other sites may not ask for {}\n", request.uri.path());
            return Err(text(StatusCode::FORBIDDEN, why).into());
        }
        Ok(page)
    }

    async fn page(&self, page: Page, request: &Parts, asked_at: Option<IpAddr>) -> Reply {
        let query = request.uri.query().unwrap_or_default();
        let answer = match page {
            Page::Tap => return self.tap(query),
            Page::Events => {
                let body = ReplyBody::Events(self.events.stream());
                return answered(StatusCode::OK, "text/event-stream", body);
            }
            Page::Dashboard if dashboard::is_for(&request.headers) => dashboard::page(),
            Page::Dashboard | Page::Index => text(StatusCode::OK, index()),
            Page::ServerInfo => self.server_info().await,
            Page::Listeners => json(&listeners::page(&self.console)),
            // boxed, because this future is large and rarely needed
            Page::Checks => Box::pin(self.checks()).await,
            Page::Config => self.config(query).await,
            Page::Clusters => self.clusters(query).await,
            Page::Companions => json(&companions::page(&self.companions)),
            Page::Certs => json(&self.console.certificates()),
            Page::Explain => self.explain(query).await,
            Page::Policy => self.policy(query).await,
            Page::Requests => self.requests(query).await,
            Page::Request => self.request(request.uri.path()).await,
            Page::Logging if request.method == Method::PUT => logging::set(query),
            Page::Logging => logging::show(),
            Page::Purge => self.purge(query).await,
            Page::Drain => self.drain(query),
            Page::Quit => {
                ordered(self.console.order_after_the_answer(Order::Quit).map(|()| "ending".to_owned()))
            }
            Page::Reload => ordered(self.console.reload().await),
            Page::Metrics => self.metrics(request).await,
            Page::Ready => self.ready(),
            Page::Live => text(StatusCode::OK, "live\n"),
            // boxed, because this future is larger than all others and rarely needed
            Page::Probe => Box::pin(self.probe(request.uri.path(), asked_at)).await,
        };
        answer.map(ReplyBody::Whole)
    }

    async fn purge(&self, query: &str) -> Answer {
        let wanted = match purge::Wanted::parse(query) {
            Ok(wanted) => wanted,
            Err(why) => return text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        };
        self.long(move |console| match purge::purge(console, &wanted) {
            Ok(done) => json(&done),
            Err(why) => text(StatusCode::NOT_FOUND, format!("{why}\n")),
        })
        .await
    }

    fn tap(&self, query: &str) -> Reply {
        match Wanted::parse(query) {
            Ok(wanted) => tap::open(&self.console.taps, wanted),
            Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")).map(ReplyBody::Whole),
        }
    }

    fn drain(&self, query: &str) -> Answer {
        match Sides::parse(query) {
            Ok(Sides::Both) => {
                ordered(self.console.order_after_the_answer(Order::Drain).map(|()| "draining".to_owned()))
            }
            Ok(Sides::Inbound) => json(&drain::inbound(&self.console, &self.readiness)),
            Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        }
    }

    async fn metrics(&self, request: &Parts) -> Answer {
        let accept = request.headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
        let format = Format::wanted(&accept.collect::<Vec<_>>().join(","));
        match self.expositions.next(format, patience(&request.headers)).await {
            Some(exposition) => answer(StatusCode::OK, format.content_type(), exposition),
            None => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n"),
        }
    }

    async fn server_info(&self) -> Answer {
        let (network, started, why_not) = (self.network.clone(), self.started, self.readiness.why_not());
        self.long(move |console| json(&info::page(console, &network, started, why_not))).await
    }

    /// One at a time, because a check makes connections. For that reason pages of other sites may not ask for one.
    async fn checks(&self) -> Answer {
        let Ok(turn) = self.check.clone().try_acquire_owned() else {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "another check is under way: ask again in a few seconds\n",
            );
        };
        let subject = self.console.subject(self.network.clone(), self.readiness.why_not());
        json(&checks::page(&subject.check(turn).await, SystemTime::now()))
    }

    async fn config(&self, query: &str) -> Answer {
        let asked = match Selection::parse(query) {
            Ok(asked) => asked,
            Err(why) => return text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        };
        self.long(move |console| found(console.config(&asked))).await
    }

    async fn clusters(&self, query: &str) -> Answer {
        let service = match clusters::service_of(query) {
            Ok(service) => service,
            Err(why) => return text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        };
        let now = Instant::now().into_std();
        self.long(move |console| found(clusters::page(console, service.as_deref(), now))).await
    }

    async fn explain(&self, query: &str) -> Answer {
        let refused = |why: BadQuestion| text(StatusCode::BAD_REQUEST, format!("{why}\n"));
        let query = match Query::parse(query) {
            Ok(query) => query,
            Err(why) => return refused(why),
        };
        let now = Instant::now().into_std();
        self.long(move |console| console.explain(&query, now).map_or_else(refused, |found| json(&found)))
            .await
    }

    async fn policy(&self, query: &str) -> Answer {
        let asked = match policy::Asked::parse(query) {
            Ok(asked) => asked,
            Err(why) => return text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        };
        let now = Instant::now().into_std();
        self.long(move |console| policy::answer(console, asked, now)).await
    }

    async fn requests(&self, query: &str) -> Answer {
        let filter = match Filter::parse(query) {
            Ok(filter) => filter,
            Err(why) => return text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        };
        let Some(timelines) = self.console.timelines.clone() else { return no_timelines() };
        self.long(move |_| json(&requests::list(&timelines, &filter))).await
    }

    async fn request(&self, path: &str) -> Answer {
        let id = path.strip_prefix(REQUEST).unwrap_or_default();
        let id = percent_decode_str(id).decode_utf8_lossy().into_owned();
        let Some(timelines) = self.console.timelines.clone() else { return no_timelines() };
        self.long(move |_| match requests::one(&timelines, &id) {
            Some(found) => json(&found),
            None => text(StatusCode::NOT_FOUND, NOT_KEPT),
        })
        .await
    }

    /// A page that takes long if there are thousands of services. It is written on a separate thread, one at a time, so
    /// that `/live` does not wait.
    async fn long(&self, page: impl FnOnce(&Console) -> Answer + Send + 'static) -> Answer {
        let turn = self.long_page.clone().acquire_owned().await;
        let console = self.console.clone();
        let written = tokio::task::spawn_blocking(move || {
            let _turn = turn; // kept to the end, even if the client leaves earlier
            page(&console)
        });
        written.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a page could not be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be written\n")
        })
    }

    async fn probe(&self, path: &str, asked_at: Option<IpAddr>) -> Answer {
        let now = self.console.store.load_full();
        self.prober.answer(path.strip_prefix(PROBE).unwrap_or_default(), &now, asked_at).await
    }

    fn ready(&self) -> Answer {
        match self.readiness.why_not() {
            None => text(StatusCode::OK, "ready\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        }
    }
}

const NOT_KEPT: &str = "no request with this ID is kept: failed and slow ones are, and a sample of the others (see \
                        `explain` in the configuration), until newer ones take their place\n";

fn no_timelines() -> Answer {
    text(StatusCode::NOT_FOUND, "no timelines are kept, because the configuration has `explain: off`\n")
}

/// The answer to a request that changes state and does not bear `admin.token`.
fn without_token() -> Answer {
    const WHY: &str = "this call changes the sidecar's state and needs the token of `admin.token`: \
                       authorization: Bearer TOKEN\n";
    let mut refused = text(StatusCode::UNAUTHORIZED, WHY);
    refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pillion\""));
    refused
}

/// The page for a request, or the response that refuses it.
fn find(port: OwnPort, request: &Parts) -> Result<Page, Box<Answer>> {
    let known = PAGES.iter().filter(|(_, page, ..)| port == OwnPort::Admin || is_public(*page));
    let path = request.uri.path();
    let Some((_, page, asked, _)) = known.clone().find(|(known, page, ..)| is_at(known, *page, path)) else {
        let paths: Vec<_> = known.map(|(path, ..)| *path).collect();
        return Err(text(StatusCode::NOT_FOUND, format!("there are {}\n", paths.join(", "))).into());
    };
    if !asked.takes(&request.method) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {}\n", asked.allow()));
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static(asked.allow()));
        return Err(refused.into());
    }
    match request.uri.query() {
        Some(query) if !takes_query(*page, &request.method) && !query.is_empty() => {
            Err(text(StatusCode::BAD_REQUEST, format!("{path} takes no parameters\n")).into())
        }
        _ => Ok(*page),
    }
}

/// The page, or the answer that there is no such service.
fn found(page: Result<Value, NoSuchService>) -> Answer {
    match page {
        Ok(page) => json(&page),
        Err(unknown) => text(StatusCode::NOT_FOUND, format!("{unknown}\n")),
    }
}

fn is_at(known: &str, page: Page, path: &str) -> bool {
    match page {
        Page::Probe => path.starts_with(PROBE),
        Page::Request => path.len() > REQUEST.len() && path.starts_with(REQUEST),
        _ => known == path,
    }
}

const fn is_public(page: Page) -> bool {
    matches!(page, Page::Metrics | Page::Ready | Page::Live | Page::Probe)
}

/// Whether the page accepts any query: scrapers and probes add queries of their own.
fn takes_query(page: Page, method: &Method) -> bool {
    is_public(page)
        || matches!(
            page,
            Page::Config
                | Page::Clusters
                | Page::Explain
                | Page::Policy
                | Page::Requests
                | Page::Tap
                | Page::Purge
                | Page::Drain
        )
        || page == Page::Logging && *method == Method::PUT
}

fn ordered(done: Result<String, NotTaken>) -> Answer {
    match done {
        Ok(said) => text(StatusCode::OK, format!("{said}\n")),
        Err(NotTaken::Refused(why)) => text(StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// The index: a line for each page.
fn index() -> String {
    let lines = PAGES.iter().map(|(path, _, asked, about)| {
        let post = if *asked == Methods::Post { "POST " } else { "" };
        format!("{:<20} {about}\n", format!("{post}{path}"))
    });
    std::iter::once("pillion admin\n\n".to_owned()).chain(lines).collect()
}
