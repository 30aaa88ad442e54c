//! `pillion webhook`: answers an API server's questions about new pods over HTTPS.
//!
//! Any host of the cluster's network can reach the port. So every wait for a client has a deadline, and what clients may use is
//! bounded: connections, bytes of questions, and questions that are answered at the same time. A question takes a place for its
//! answer only when it is complete; until then its client is one of [`clients`], where slow ones make room for others. [`heads`] has
//! the time for the head of a question. The answer itself is a pure function (`pillion_inject::review`). Deliberately absent: questions to the API server; the process needs no
//! rights there.

mod clients;
mod heads;
mod secured;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context as _;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pillion_inject::Reviewed;
use pillion_model::identity::KeyPair;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};

use clients::{Client, Clients};
use heads::{Heads, Noting};
use secured::Secured;

/// API servers keep a few connections open; a cluster has a handful of them.
const CONNECTIONS: usize = 64;
/// Questions that are answered at once. Each takes some tens of megabytes at most: the question, copies of its texts, and its values, of
/// which `pillion_inject::review` reads no more than 100,000. A usual pod is answered within a millisecond.
const AT_ONCE: usize = 2;
/// etcd refuses objects above 1.5 MiB, and a question has the object twice at most.
const BODY_BYTES: usize = 4 << 20;
/// The time for a handshake, for the head of a question, and for its body. An API server waits for 30 s at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time between two questions of a client. An API server closes its connection after 90 s itself; it must be the first to do so, since
/// it does not repeat a question whose connection was closed under it.
const IDLE: Duration = Duration::from_secs(120);
/// The first answer after this time closes the connection: an API server connects again, perhaps to another replica.
const LIFETIME: Duration = Duration::from_secs(600);
/// The time for the rest of a head that has begun when the process ends.
const LAST_HEAD: Duration = Duration::from_secs(1);
/// How long the webhook goes on with new questions when it has been asked to end. The API server finds a replica by the Service, and
/// learns a few seconds late that this one has gone; a question that it could not ask would be a pod that is not created.
pub(crate) const FAREWELL: Duration = Duration::from_secs(5);
/// The time for questions that are under way when the process ends.
const GOODBYE: Duration = Duration::from_secs(5);
/// The pause after a connection could not be accepted, mostly because descriptors have run short, and between two looks for a client
/// that makes room for others.
const PAUSE: Duration = Duration::from_millis(100);
/// The time for the last bytes to a client whose connection others need. A client that is slow with its question takes all of it.
const LAST_BYTES: Duration = Duration::from_millis(20);
const HEAD_BYTES: usize = 16 * 1024;

/// The webhook, ready to listen.
pub(crate) struct Webhook {
    listener: TcpListener,
    secured: Arc<Secured>,
    reviewer: Reviewer,
}

#[derive(Clone)]
struct Reviewer {
    image: Arc<str>,
    at_once: Arc<Semaphore>,
    /// [`PATIENCE`], except in tests.
    patience: Duration,
    /// The process has been asked to end.
    is_leaving: Arc<AtomicBool>,
}

impl Webhook {
    /// # Errors
    /// The certificate cannot be used, or the address is taken.
    pub(crate) async fn bind(listen: SocketAddr, files: KeyPair, image: &str) -> anyhow::Result<Self> {
        let secured = Secured::load(files)?;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("--listen: cannot listen on {listen}"))?;
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        let reviewer =
            Reviewer { image: image.into(), at_once, patience: PATIENCE, is_leaving: Arc::default() };
        Ok(Self { listener, secured: Arc::new(secured), reviewer })
    }

    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `ends`, and then goes on until `farewell`: `/healthz` fails, so that Kubernetes sends nothing more, and connections end
    /// with their next answer. Then new clients are refused, questions that are under way are answered, and connections without one are
    /// closed.
    pub(crate) async fn serve(self, ends: impl Future<Output = ()>, farewell: impl Future<Output = ()>) {
        let Self { listener, secured, reviewer } = self;
        let ends = async {
            ends.await;
            reviewer.is_leaving.store(true, Relaxed);
            farewell.await;
        };
        let watching = tokio::spawn(secured.clone().watch());
        let (places, clients) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Clients::default()));
        let (ending, ended) = watch::channel(false);
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let Some(place) = a_place(&places, &clients).await else { return };
                        let client = clients.enter();
                        let serving = serve(stream, client, secured.clone(), reviewer.clone(), ended.clone());
                        drop(tokio::spawn(held(place, serving)));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! { // a connection that was accepted at this moment is closed
            () = ends => {}
            () = accept => {}
        }
        watching.abort();
        drop(listener); // clients that connect now are refused at once, and find another replica
        ending.send_replace(true);
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        if timeout(GOODBYE, places.acquire_many(all)).await.is_err() {
            tracing::warn!("questions are still under way at the end");
        }
    }
}

/// A place for a connection. Where all are taken, the client that is awaited longest loses its own. `None` at the end of the process.
async fn a_place(places: &Arc<Semaphore>, clients: &Clients) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = places.clone().try_acquire_owned() {
        return Some(place);
    }
    loop {
        // one that is cut leaves within `LAST_BYTES`, and no second one is cut for the same place
        let pause = if clients.cut_oldest() { PATIENCE } else { PAUSE };
        if let Ok(place) = timeout(pause, places.clone().acquire_owned()).await {
            return place.ok();
        }
    }
}

/// Keeps the place of a connection while it is served.
async fn held(place: OwnedSemaphorePermit, serving: impl Future<Output = ()>) {
    serving.await;
    drop(place);
}

async fn serve(
    stream: TcpStream,
    client: Client,
    secured: Arc<Secured>,
    reviewer: Reviewer,
    mut ended: watch::Receiver<bool>,
) {
    let accepting = timeout(reviewer.patience, secured.acceptor().accept(stream));
    let accepted = tokio::select! { // the connection is closed
        biased;
        () = client.is_cut() => return tracing::debug!("a TLS handshake took so long that others needed its place"),
        accepted = accepting => accepted,
        _ended = ended.changed() => return tracing::debug!("a TLS handshake was under way at the end"),
    };
    match accepted {
        Ok(Ok(stream)) => answer_questions(stream, &client, &reviewer, ended).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_elapsed) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// Answers the questions of one connection.
async fn answer_questions(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    client: &Client,
    reviewer: &Reviewer,
    mut ended: watch::Receiver<bool>,
) {
    let (heads, since) = (&Heads::default(), Instant::now());
    let service = service_fn(move |request| reviewer.answer_next(request, client, heads, since));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE) // hyper counts it from the end of the last answer
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Noting { stream, heads }), service);
    let mut serving = std::pin::pin!(serving);
    let patience = tokio::select! { // the connection goes on below
        biased;
        _closed = &mut serving => return,
        () = client.is_cut() => LAST_BYTES,
        () = heads.is_late(reviewer.patience) => return tracing::debug!("the head of a question took too long"),
        _ended = ended.changed() => PATIENCE + PATIENCE,
        () = tokio::time::sleep(LIFETIME + IDLE) => PATIENCE + PATIENCE, // a client that does not read its answer
    };
    let ending = async {
        if patience > LAST_BYTES {
            tokio::select! { // hyper closes a connection with a part of a head as one that has no question
                biased;
                _closed = &mut serving => return,
                () = heads.has_come(LAST_HEAD) => {}
            }
        }
        serving.as_mut().graceful_shutdown();
        drop(timeout(patience, serving).await); // a client that reads nothing is cut
    };
    tokio::select! {
        () = ending => {}
        () = client.is_cut() => {}
    }
}

impl Reviewer {
    /// Answers the next question of a connection that is open since then.
    async fn answer_next(
        &self,
        request: Request<Incoming>,
        client: &Client,
        heads: &Heads,
        since: Instant,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        heads.is_read();
        let mut answer = self.answer(request, client).await;
        if self.is_leaving.load(Relaxed) || since.elapsed() > LIFETIME {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        client.is_answered();
        heads.is_answered();
        Ok(answer)
    }

    async fn answer(&self, request: Request<Incoming>, client: &Client) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/healthz") if self.is_leaving.load(Relaxed) => {
                text(StatusCode::SERVICE_UNAVAILABLE, "the webhook is about to end\n")
            }
            (&Method::GET | &Method::HEAD, "/healthz") => text(StatusCode::OK, "ok\n"),
            (&Method::POST, "/inject") => {
                let answered = self.review(request.into_body(), client).await;
                answered.unwrap_or_else(|(status, why)| text(status, why))
            }
            (_, "/inject") => text(StatusCode::METHOD_NOT_ALLOWED, "ask by POST, with an AdmissionReview\n"),
            _ => text(StatusCode::NOT_FOUND, "the webhook answers at /inject and /healthz\n"),
        }
    }

    async fn review(&self, body: Incoming, client: &Client) -> Result<Response<Full<Bytes>>, Refused> {
        let reading = timeout(self.patience, whole(body, client)).await;
        let body = reading
            .map_err(|_elapsed| (StatusCode::REQUEST_TIMEOUT, "the question took too long to arrive\n"))??;
        if !client.has_asked() {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "too many questions wait for an answer\n"));
        }
        let waiting = timeout(self.patience, self.at_once.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = waiting else {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "too many questions at once\n"));
        };
        client.has_a_place();
        let image = self.image.clone();
        let reviewed = tokio::task::spawn_blocking(move || {
            let reviewed = std::str::from_utf8(&body).ok().map(|text| pillion_inject::review(text, &image));
            drop(permit);
            reviewed
        });
        match reviewed.await {
            Ok(Some(Ok(Reviewed { answer, pod, warnings }))) => {
                for warning in warnings {
                    tracing::warn!(pod, "{warning}");
                }
                Ok(json(answer))
            }
            Ok(Some(Err(why))) => Ok(text(StatusCode::BAD_REQUEST, &format!("{why}\n"))),
            Ok(None) => Err((StatusCode::BAD_REQUEST, "the question is not UTF-8\n")),
            Err(_panicked) => {
                Err((StatusCode::INTERNAL_SERVER_ERROR, "the question could not be answered\n"))
            }
        }
    }
}

/// Why there is no review, with its status.
type Refused = (StatusCode, &'static str);

/// Reads a question. What has come of it counts for the client: twice where its length is not known before, as its buffer grows by
/// doubling then.
async fn whole(body: Incoming, client: &Client) -> Result<Vec<u8>, Refused> {
    let unread = (StatusCode::PAYLOAD_TOO_LARGE, "the question cannot be read, or is larger than 4 MiB\n");
    let length = body.size_hint().exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if length.is_some_and(|length| length > BODY_BYTES) {
        return Err(unread);
    }
    let (mut body, mut read) = (Limited::new(body, BODY_BYTES), Vec::new());
    read.reserve_exact(length.unwrap_or_default());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_too_long| unread)?;
        let bytes = frame.data_ref().map_or(&[][..], |bytes| bytes);
        client.reads(if length.is_some() { bytes.len() } else { 2 * bytes.len() });
        read.extend_from_slice(bytes);
    }
    Ok(read)
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

fn json(text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;
