//! Refuses requests that come near the end of a drain. Nothing of such a request was forwarded, so a caller's sidecar
//! sends it to another endpoint at once, with any method.

use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::HttpService;
use crate::http::{Call, FailedCall, Response};
use pillion_base::error::Error;
use pillion_model::Reason;

pub fn layer<S: HttpService>() -> impl Layer<S, Service = impl HttpService> + Clone {
    layer_fn(|next: S| service_fn(move |call| closing(next.clone(), call)))
}

async fn closing<S: HttpService>(mut next: S, call: Box<Call>) -> Result<Response, FailedCall> {
    if call.common.exchange.connection.place.work.refuses() {
        let detail = "the sidecar will stop soon, and accepts no new requests since drain.delay is over: \
                      connect to another replica";
        return Err(Error::new(Reason::Draining, detail).into());
    }
    next.call(call).await
}
