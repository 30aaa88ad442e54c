//! Equal questions that run at once are one: the application is asked once, and all who wait get its answer.
//!
//! A question lives as long as somebody waits for it. So there are never more of them than the admin side has
//! connections, and a stranger who asks what the kubelet asks takes nothing from it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Inquiry;
use crate::admin::answer::{Answer, text};

/// Who comes later asks anew: an application that hangs may be well again a moment later, and the kubelet, which
/// waits for one second unless told otherwise, must not inherit the wait of somebody who asked long before.
const MOMENT: Duration = Duration::from_millis(250);

#[derive(Clone, Default)]
pub(super) struct Questions(Arc<Mutex<Vec<Running>>>);

struct Running {
    inquiry: Inquiry,
    since: Instant,
    answer: watch::Sender<Option<Answer>>,
}

impl Running {
    /// A question that nobody waits for any more is about to end.
    fn takes_more(&self, now: Instant) -> bool {
        now - self.since < MOMENT && self.answer.receiver_count() > 0 && self.answer.borrow().is_none()
    }
}

impl Questions {
    /// The answer to `inquiry`: of an equal one that has just begun, or of `asking` it now.
    pub(super) async fn ask<F: Future<Output = Answer> + Send + 'static>(
        &self,
        inquiry: Inquiry,
        asking: impl FnOnce(Inquiry) -> F,
    ) -> Answer {
        let mut answer = self.join(&inquiry).unwrap_or_else(|| self.begin(inquiry, asking));
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            Ok(None) | Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the question was broken off\n"),
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
        let (tell, told) = watch::channel(None);
        let asking = asking(inquiry.clone());
        self.0.lock().push(Running { inquiry, since: Instant::now(), answer: tell.clone() });
        tokio::spawn(async move {
            tokio::select! { // a question that nobody waits for is not worth an answer
                answer = asking => drop(tell.send_replace(Some(answer))),
                () = tell.closed() => {}
            }
        });
        told
    }
}
