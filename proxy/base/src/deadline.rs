//! Timers that cost nearly nothing when they do not fire.
//!
//! Nearly every request ends long before its timeout, so registering a new timer for each request is waste: it was
//! measured to cost 1 to 3 µs of the 31 µs that a pair of sidecars adds. Each worker therefore keeps used timers. A
//! used timer that is already set to fire before the wanted moment is taken unchanged, and is set again only when it
//! fires too early.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

/// Timers that a worker keeps for reuse. Further timers are created and dropped as needed.
const KEPT: usize = 1024;

/// The used timers that one worker keeps.
#[derive(Debug, Clone, Default)]
pub struct Timers(Arc<Mutex<Vec<Pin<Box<Sleep>>>>>);

/// A future that becomes ready at a given moment, and not earlier.
#[derive(Debug)]
pub struct Deadline {
    at: Instant,
    /// Fires at `at` or earlier. `None` only while the deadline is being dropped.
    sleep: Option<Pin<Box<Sleep>>>,
    home: Timers,
}

impl Timers {
    pub fn deadline(&self, at: Instant) -> Deadline {
        let kept = self.0.lock().pop();
        let sleep = match kept {
            Some(mut sleep) => {
                if sleep.deadline() > at {
                    sleep.as_mut().reset(at);
                }
                sleep
            }
            None => Box::pin(sleep_until(at)),
        };
        Deadline { at, sleep: Some(sleep), home: self.clone() }
    }
}

impl Deadline {
    /// Whether the timer has fired, and was not polled since.
    pub fn has_fired(&self) -> bool {
        self.sleep.as_ref().is_none_or(|sleep| sleep.is_elapsed())
    }

    /// Whether the timer fires after `now` and no later than `at`.
    pub fn is_set_between(&self, now: Instant, at: Instant) -> bool {
        self.sleep
            .as_ref()
            .is_some_and(|sleep| !sleep.is_elapsed() && sleep.deadline() > now && sleep.deadline() <= at)
    }

    /// Polls a deadline that this task has polled before, at nearly no cost until its timer fires.
    pub fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_fired() { Pin::new(self).poll(cx) } else { Poll::Pending }
    }

    /// Moves the deadline. Moving it to a later moment costs nothing until the timer fires.
    pub fn move_to(&mut self, at: Instant) {
        self.at = at;
        if let Some(sleep) = self.sleep.as_mut().filter(|sleep| sleep.deadline() > at) {
            sleep.as_mut().reset(at);
        }
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let at = self.at;
        let Some(sleep) = self.sleep.as_mut() else { return Poll::Ready(()) };
        loop {
            if !sleep.is_elapsed() {
                ready!(sleep.as_mut().poll(cx)); // costs 100 instructions
            }
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take() {
            let mut kept = self.home.0.lock();
            if kept.len() < KEPT {
                kept.push(sleep);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_reused_timer_fires_at_the_new_moment_whether_earlier_or_later_than_the_old_one() {
        let (timers, start) = (Timers::default(), Instant::now());
        drop(timers.deadline(start + Duration::from_secs(5)));
        timers.deadline(start + Duration::from_secs(9)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(9));
        drop(timers.deadline(start + Duration::from_secs(60)));
        timers.deadline(start + Duration::from_secs(20)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(20));
        assert_eq!(timers.0.lock().len(), 1, "one timer served all four");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_was_moved_fires_at_the_new_moment() {
        let (timers, start) = (Timers::default(), Instant::now());
        let mut deadline = timers.deadline(start + Duration::from_secs(1));
        deadline.move_to(start + Duration::from_secs(3));
        (&mut deadline).await;
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_its_task_has_polled_is_polled_again_only_after_its_timer_has_fired() {
        let (timers, start) = (Timers::default(), Instant::now());
        let mut deadline = timers.deadline(start + Duration::from_secs(1));
        let mut polls = 0;
        let ended = std::future::poll_fn(|cx| {
            polls += 1;
            match polls {
                1 => Pin::new(&mut deadline).poll(cx),
                2 => {
                    deadline.move_to(start + Duration::from_secs(3)); // its timer fires now, and is set again
                    deadline.poll_fired(cx)
                }
                _ => deadline.poll_fired(cx),
            }
        });
        ended.await;
        assert_eq!((start.elapsed(), polls), (Duration::from_secs(3), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_has_fired_is_not_taken_for_one_that_is_set() {
        let (timers, start) = (Timers::default(), Instant::now());
        let mut deadline = timers.deadline(start + Duration::from_secs(1));
        let later = start + Duration::from_secs(9);
        assert!(deadline.is_set_between(start, later));
        (&mut deadline).await;
        assert!(!deadline.is_set_between(start, later));
    }
}
