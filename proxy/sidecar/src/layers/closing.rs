//! Refuses what comes once inbound takes nothing new, and what there is no room for. Nothing of it was forwarded, so its
//! sender may go elsewhere: a caller's sidecar does so at once, whatever the method.

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
        let detail = "the sidecar is about to end, and takes no new request";
        return Err(Error::new(Reason::Draining, detail).into());
    }
    call.common.exchange.has_place()?;
    next.call(call).await
}
