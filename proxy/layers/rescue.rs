//! Errors become answers, below the record that counts them.

use std::convert::Infallible;

use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::{AnsweringService, HttpService};
use crate::error::{Error, Sent};
use crate::http::answer::answer;
use crate::http::exchange::Exchange;
use crate::http::headers::X_PILLION_REFUSED;
use crate::http::{Call, Response};
use crate::telemetry::Direction;

pub(crate) fn layer<S: HttpService>() -> impl Layer<S, Service = impl AnsweringService> + Clone {
    layer_fn(|next: S| service_fn(move |call| rescue(next.clone(), call)))
}

async fn rescue<S: HttpService>(mut next: S, call: Box<Call>) -> Result<Response, Infallible> {
    let (exchange, is_grpc) = (call.exchange.clone(), call.is_grpc);
    match next.call(call).await {
        Ok(response) => Ok(response),
        Err(error) => {
            exchange.failed(&error);
            let mut response = answer(&error, &exchange, is_grpc);
            if is_refusal(&error, &exchange) {
                response.headers_mut().insert(X_PILLION_REFUSED, http::HeaderValue::from_static("1"));
            }
            Ok(response)
        }
    }
}

/// Told to a caller's sidecar alone, which may send the request elsewhere: the application has seen none of it.
fn is_refusal(error: &Error, exchange: &Exchange) -> bool {
    exchange.connection.direction == Direction::Inbound
        && exchange.connection.peer.is_some()
        && error.sent == Sent::Never
        && error.reason.status() >= 500
}
