//! `pillion webhook`: answers an API server's questions about new pods over HTTPS.
//!
//! Any host of the cluster's network can reach the port. So every wait for a client has a deadline, and what clients may use is
//! bounded: connections, bytes of a question, and questions that are answered at the same time. The answer itself is a pure function
//! (`pillion_inject::review`). Deliberately absent: questions to the API server; the process needs no rights there.

mod secured;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pillion_model::identity::KeyPair;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use secured::Secured;

/// API servers keep a few connections open; a cluster has a handful of them.
const CONNECTIONS: usize = 64;
/// Questions that are read and answered at once. Each takes up to [`BODY_BYTES`], several times that for copies of its texts, and some
/// tens of megabytes for its values, of which `pillion_inject::review` reads no more than 100,000.
const AT_ONCE: usize = 4;
/// etcd refuses objects above 1.5 MiB, and a question has the object twice at most.
const BODY_BYTES: usize = 4 << 20;
/// The time for a handshake, for the head of a question, and for its body. An API server waits for 30 s at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// An API server that asks seldom connects again.
const LIFETIME: Duration = Duration::from_secs(600);
/// The time for questions that are under way when the process ends.
const GOODBYE: Duration = Duration::from_secs(5);
/// The pause after a connection could not be accepted: mostly descriptors have run short.
const PAUSE: Duration = Duration::from_millis(100);
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
}

impl Webhook {
    /// # Errors
    /// The certificate cannot be used, or the address is taken.
    pub(crate) async fn bind(listen: SocketAddr, files: KeyPair, image: &str) -> anyhow::Result<Self> {
        let secured = Secured::load(files)?;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("--listen: cannot listen on {listen}"))?;
        let reviewer = Reviewer { image: image.into(), at_once: Arc::new(Semaphore::new(AT_ONCE)) };
        Ok(Self { listener, secured: Arc::new(secured), reviewer })
    }

    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `ends`, and answers the questions that are under way.
    pub(crate) async fn serve(self, ends: impl Future<Output = ()>) {
        let Self { listener, secured, reviewer } = self;
        let watching = tokio::spawn(secured.clone().watch());
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let (ending, ended) = watch::channel(false);
        let accept = async {
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let serving = serve(stream, secured.clone(), reviewer.clone(), ended.clone());
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
        ending.send_replace(true);
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        if timeout(GOODBYE, places.acquire_many(all)).await.is_err() {
            tracing::warn!("questions are still under way at the end");
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
    secured: Arc<Secured>,
    reviewer: Reviewer,
    mut ended: watch::Receiver<bool>,
) {
    let stream = match timeout(PATIENCE, secured.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_elapsed) => return tracing::debug!("a TLS handshake took too long"),
    };
    let service = service_fn(move |request| {
        let reviewer = reviewer.clone();
        async move { Ok::<_, Infallible>(reviewer.answer(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! { // the connection goes on below
        biased;
        _closed = &mut serving => return,
        _ended = ended.changed() => {}
        () = tokio::time::sleep(LIFETIME) => {}
    }
    serving.as_mut().graceful_shutdown();
    drop(timeout(PATIENCE + PATIENCE, serving).await); // a client that reads nothing is cut
}

impl Reviewer {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/healthz") => text(StatusCode::OK, "ok\n"),
            (&Method::POST, "/inject") => self.review(request.into_body()).await,
            (_, "/inject") => text(StatusCode::METHOD_NOT_ALLOWED, "ask by POST, with an AdmissionReview\n"),
            _ => text(StatusCode::NOT_FOUND, "the webhook answers at /inject and /healthz\n"),
        }
    }

    async fn review(&self, body: Incoming) -> Response<Full<Bytes>> {
        let Ok(Ok(permit)) = timeout(PATIENCE, self.at_once.clone().acquire_owned()).await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "too many questions at once\n");
        };
        let body = match timeout(PATIENCE, Limited::new(body, BODY_BYTES).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_too_long)) => {
                return text(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the question cannot be read, or is larger than 4 MiB\n",
                );
            }
            Err(_elapsed) => {
                return text(StatusCode::REQUEST_TIMEOUT, "the question took too long to arrive\n");
            }
        };
        let image = self.image.clone();
        let reviewed = tokio::task::spawn_blocking(move || {
            let reviewed = std::str::from_utf8(&body).ok().map(|text| pillion_inject::review(text, &image));
            drop(permit);
            reviewed
        });
        match reviewed.await {
            Ok(Some(Ok(answer))) => json(answer),
            Ok(Some(Err(why))) => text(StatusCode::BAD_REQUEST, &format!("{why}\n")),
            Ok(None) => text(StatusCode::BAD_REQUEST, "the question is not UTF-8\n"),
            Err(_panicked) => text(StatusCode::INTERNAL_SERVER_ERROR, "the question could not be answered\n"),
        }
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

fn json(text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
