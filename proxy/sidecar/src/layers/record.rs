//! Outermost: sees every ending, and makes sure that each exchange has one.

use std::convert::Infallible;
use std::sync::Arc;

use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::AnsweringService;
use crate::http::exchange::{Exchange, RequestLine};
use crate::http::{Call, Response, headers};
use pillion_http::transfer::{Ending, Observer as _};

pub fn layer<S: AnsweringService>() -> impl Layer<S, Service = impl AnsweringService> + Clone {
    layer_fn(|next: S| service_fn(move |call| record(next.clone(), call)))
}

async fn record<S: AnsweringService>(mut next: S, call: Box<Call>) -> Result<Response, Infallible> {
    let exchange = call.common.exchange.clone();
    note_request(&exchange, &call);
    let open = Open(Some(exchange));
    let mut response = next.call(call).await?;
    if let Some(exchange) = open.answered() {
        exchange.headers_sent(response.status(), headers::grpc_status(response.headers()));
        response.body_mut().response_tail().observer = Some(exchange);
    }
    Ok(response)
}

pub fn note_request(exchange: &Exchange, call: &Call) {
    exchange.note(|facts| {
        facts.method = Some((&call.head.method).into());
        facts.is_grpc = call.common.is_grpc;
        if exchange.worker.access_log.is_some() {
            facts.request = Some(Box::new(RequestLine {
                method: call.head.method.clone(),
                uri: call.head.uri.clone(),
                host: call.head.headers.get(http::header::HOST).cloned(),
                version: call.head.version,
            }));
        }
    });
}

/// An exchange without an answer yet. Dropped like that, its client went away.
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
            exchange.finish(Ending::default());
        }
    }
}
