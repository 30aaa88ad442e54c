//! Graceful stop: a signal that everybody sees, and a count of who is still at work.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Shared {
    draining: AtomicBool,
    started: Notify,
    at_work: AtomicUsize,
    idle: Notify,
}

/// The one who stops; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Drain(Arc<Shared>);

/// Held by a connection while it is open.
#[derive(Debug)]
pub(crate) struct AtWork(Arc<Shared>);

impl Drain {
    /// Tells everybody to finish what they do and take nothing new.
    pub fn start(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
        self.0.started.notify_waiters();
    }

    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Ready when [`Drain::start`] was called.
    pub(crate) fn started(&self) -> Started {
        Started { shared: self.0.clone(), notified: None }
    }

    pub(crate) fn enter(&self) -> AtWork {
        self.0.at_work.fetch_add(1, Ordering::SeqCst);
        AtWork(self.0.clone())
    }

    pub(crate) fn at_work(&self) -> usize {
        self.0.at_work.load(Ordering::SeqCst)
    }

    /// Waits until nobody is at work.
    pub async fn finished(&self) {
        loop {
            let idle = self.0.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.at_work() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if self.0.at_work.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// Looks at a flag; the shared list of waiters is entered once, not with every poll of a busy connection.
pub(crate) struct Started {
    shared: Arc<Shared>,
    notified: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Future for Started {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.notified.is_none() {
            let shared = self.shared.clone();
            let mut notified = Box::pin(async move { shared.started.notified().await });
            // Entered before the flag is read: a start in between is seen either way. The task's waker does not
            // change, so once is enough.
            let entered = notified.as_mut().poll(cx).is_ready();
            self.notified = Some(notified);
            if entered {
                return Poll::Ready(());
            }
        }
        match self.shared.draining.load(Ordering::SeqCst) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_is_seen_by_those_who_waited_and_by_those_who_come_later() {
        let drain = Drain::default();
        let waiting = tokio::spawn(drain.started());
        tokio::task::yield_now().await;
        drain.start();
        waiting.await.unwrap();
        drain.started().await;
        assert!(drain.is_draining());
    }

    #[tokio::test]
    async fn a_drain_is_finished_when_the_last_one_leaves() {
        let drain = Drain::default();
        let (first, second) = (drain.enter(), drain.enter());
        let finished = tokio::spawn({
            let drain = drain.clone();
            async move { drain.finished().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!finished.is_finished());
        drop(second);
        finished.await.unwrap();
    }
}
