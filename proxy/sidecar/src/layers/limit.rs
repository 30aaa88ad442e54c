//! Bounds the requests that are under way at once (`max_requests`) and the size of their bodies (`max_body`). The layer
//! is inside the retry layer, so each try takes its own permit.

use std::future::{Future, ready};

use http_body::Body as _;
use tokio_util::either::Either;
use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::HttpService;
use crate::http::exchange::Exchange;
use crate::http::{Call, FailedCall, Response};
use pillion_base::error::{Error, Sent};
use pillion_base::limits::Permit;
use pillion_model::Reason;
use pillion_telemetry::LimitLabel;
use pillion_upstream::cluster::Cluster;

pub fn layer<S: HttpService>() -> impl Layer<S, Service = impl HttpService> + Clone {
    layer_fn(|next: S| service_fn(move |call| limit(next.clone(), call)))
}

fn limit<S: HttpService>(
    mut next: S,
    mut call: Box<Call>,
) -> impl Future<Output = Result<Response, FailedCall>> + Send {
    let admitted = call.common.route.as_ref().map(|route| admit(&call, &route.cluster)).transpose();
    match admitted {
        Ok(permit) => {
            call.permit = permit;
            Either::Left(next.call(call))
        }
        Err(error) => Either::Right(ready(Err(error.into()))),
    }
}

fn admit(call: &Call, cluster: &Cluster) -> Result<Permit, Error> {
    let announced = call.body.size_hint().lower();
    if let Some(max) = cluster.max_body.filter(|max| announced > *max) {
        return Err(too_large(max));
    }
    let requests = &cluster.limits.requests;
    requests.try_acquire().ok_or_else(|| {
        cluster.rejected(LimitLabel::Requests);
        let (most, key) = (requests.max(), cluster.key_of_requests());
        let used = requests.used().max(most); // one may have ended since
        let detail = format!("\"{}\" has {used} requests in flight ({key} is {most})", cluster.name);
        Error::new(Reason::LimitRequests, detail)
    })
}

pub fn too_large(max: u64) -> Error {
    Error::new(Reason::BodyTooLarge, format!("the request's body is over {max} bytes (inbound.max_body)"))
}

/// The error for a client that left before its request was complete.
pub fn client_left(exchange: &Exchange) -> Error {
    let route = exchange.route();
    let to = route.map_or_else(String::new, |route| format!(" to \"{}\"", route.cluster.name));
    let detail = format!("the client left amid its request{to}: its own timeout may be shorter");
    Error::new(Reason::ClientGone, detail).sent(Sent::Perhaps)
}

/// Why the rest of the request's body does not come, if the client or a limit of the sidecar has caused it.
pub fn upload_failure(exchange: &Exchange, max_body: Option<u64>) -> Option<Error> {
    let error = match exchange.was_cut() {
        Some(Reason::BodyTooLarge) => too_large(max_body.unwrap_or_default()),
        Some(Reason::BadRequest) => Error::new(
            Reason::BadRequest,
            "a chunk of the request's body, or its trailers, are malformed (RFC 9112, 7.1)",
        )
        .ending_connection(),
        Some(Reason::Overloaded) => Error::new(
            Reason::Overloaded,
            "the sidecar has no memory left for further bytes of HTTP/2 that wait to be forwarded",
        ),
        _ if exchange.progress.client_broke() => client_left(exchange),
        _ => return None,
    };
    Some(error.sent(Sent::Perhaps))
}
