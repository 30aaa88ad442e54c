//! Sends equal checks that are asked for at the same moment only once: all clients that wait get the same response.
//!
//! A check lives as long as a client waits for it. So there are never more checks than connections to the admin and
//! metrics ports, and a client that asks for the kubelet's probe takes nothing from the kubelet.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Inquiry;
use crate::admin::answer::{Answer, text};

/// After this time a client starts a new check: an application that hangs may recover a moment later, and the kubelet,
/// which waits for one second by default, must not share a check that another client began long before.
const SHARED_WITHIN: Duration = Duration::from_millis(250);

#[derive(Clone, Default)]
pub(super) struct Questions(Arc<Mutex<Vec<Running>>>);

struct Running {
    inquiry: Inquiry,
    since: Instant,
    answer: watch::Sender<Option<Answer>>,
}

impl Running {
    /// Whether a further client may join. A check without a waiting client will end soon.
    fn takes_more(&self, now: Instant) -> bool {
        now - self.since < SHARED_WITHIN && self.answer.receiver_count() > 0 && self.answer.borrow().is_none()
    }
}

impl Questions {
    /// The response to `inquiry`: that of an equal check that has just begun, or of a new one, `asking`.
    pub(super) async fn ask<F: Future<Output = Answer> + Send + 'static>(
        &self,
        inquiry: Inquiry,
        asking: impl FnOnce(Inquiry) -> F,
    ) -> Answer {
        let mut answer = self.join(&inquiry).unwrap_or_else(|| self.begin(inquiry, asking));
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            Ok(None) | Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the check was cancelled\n"),
        }
    }

    fn join(&self, inquiry: &Inquiry) -> Option<watch::Receiver<Option<Answer>>> {
        let (mut running, now) = (self.0.lock(), Instant::now());
        running.retain(|running| running.takes_more(now));
        let equal = running.iter().find(|running| running.inquiry == *inquiry)?;
        Some(equal.answer.subscribe())
    }

    fn begin<F: Future<Output = Answer> + Send + 'static>(
        &self,
        inquiry: Inquiry,
        asking: impl FnOnce(Inquiry) -> F,
    ) -> watch::Receiver<Option<Answer>> {
        let (tell, result) = watch::channel(None);
        let asking = asking(inquiry.clone());
        self.0.lock().push(Running { inquiry, since: Instant::now(), answer: tell.clone() });
        tokio::spawn(async move {
            tokio::select! { // a check for which no client waits may end
                biased;
                answer = asking => drop(tell.send_replace(Some(answer))),
                () = tell.closed() => {}
            }
        });
        result
    }
}
