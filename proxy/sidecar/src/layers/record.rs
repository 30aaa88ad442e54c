//! The outermost layer: makes sure that every exchange ends, and is recorded, exactly once.

use std::convert::Infallible;
use std::sync::Arc;

use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::AnsweringService;
use crate::http::exchange::Exchange;
use crate::http::{Call, Response, headers};
use pillion_http::transfer::{Observer as _, ResponseEnd};

pub fn layer<S: AnsweringService>() -> impl Layer<S, Service = impl AnsweringService> + Clone {
    layer_fn(|next: S| service_fn(move |call| record(next.clone(), call)))
}

async fn record<S: AnsweringService>(mut next: S, mut call: Box<Call>) -> Result<Response, Infallible> {
    let (exchange, is_grpc) = (call.common.exchange.clone(), call.common.is_grpc);
    call.note_request();
    let open = Open(Some(exchange));
    let mut response = next.call(call).await?;
    if let Some(exchange) = open.answered() {
        let grpc_status = is_grpc.then(|| headers::grpc_status(response.headers())).flatten();
        exchange.headers_sent(response.status(), grpc_status);
        exchange.note_headers(response.headers());
        response.body_mut().response_tail().observer = Some(exchange);
    }
    Ok(response)
}

/// An exchange without an answer yet. If it is dropped in this state, its client went away.
struct Open(Option<Arc<Exchange>>);

impl Open {
    fn answered(mut self) -> Option<Arc<Exchange>> {
        self.0.take()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(exchange) = self.0.take() {
            exchange.client_gone();
            exchange.finish(ResponseEnd::default());
        }
    }
}
