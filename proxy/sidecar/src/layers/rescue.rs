//! Turns errors into answers. The layer is below the record layer, which counts them.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;

use http::{HeaderValue, Version};
use pillion_http1::Known;
use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::{AnsweringService, HttpService};
use crate::http::answer::answer;
use crate::http::exchange::Exchange;
use crate::http::{Call, FailedCall, Response};
use pillion_base::error::{Error, Sent};
use pillion_model::Reason;

pub fn layer<S: HttpService>() -> impl Layer<S, Service = impl AnsweringService> + Clone {
    layer_fn(|next: S| service_fn(move |call| rescue(next.clone(), call)))
}

async fn rescue<S: HttpService>(mut next: S, call: Box<Call>) -> Result<Response, Infallible> {
    let (exchange, is_grpc) = (call.common.exchange.clone(), call.common.is_grpc);
    let is_http1 = call.head.version != Version::HTTP_2;
    match contained(pin!(next.call(call))).await {
        Ok(response) => Ok(response),
        Err(FailedCall { error, .. }) => {
            exchange.failed(&error);
            let mut response = answer(&error, &exchange, is_grpc);
            if is_refusal(&error, &exchange) {
                response.headers_mut().set(Known::XPillionRefused, &HeaderValue::from_static("1"));
            }
            if error.ends_connection && is_http1 {
                response.headers_mut().set(Known::Connection, &HeaderValue::from_static("close"));
            }
            Ok(response)
        }
    }
}

/// Turns a panic below into an error of its request. A panic is a bug in the sidecar, but the connection's other
/// requests go on.
async fn contained(
    mut inner: Pin<&mut impl Future<Output = Result<Response, FailedCall>>>,
) -> Result<Response, FailedCall> {
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(cx)));
        polled.unwrap_or_else(|_panic| {
            let detail = "a bug in the sidecar; its log has the panic, please report it";
            Poll::Ready(Err(Error::new(Reason::InternalError, detail).sent(Sent::Perhaps).into()))
        })
    })
    .await
}

/// Whether the answer is marked as a refusal. The mark tells a caller's sidecar that the application has seen nothing
/// of the request, so that it may be sent elsewhere.
fn is_refusal(error: &Error, exchange: &Exchange) -> bool {
    exchange.connection.is_from_mesh()
        && error.sent == Sent::Never
        && error.reason != Reason::LoopDetected // the request would take the same loop again
        && error.reason.status() >= 500
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_layer_below_is_an_internal_error_of_one_request() {
        let panics = async { panic!("a bug") };
        let error = contained(pin!(panics)).await.err().expect("no answer").error;
        assert_eq!((error.reason, error.sent), (Reason::InternalError, Sent::Perhaps));
    }
}
