//! The client connections on which nothing happens. Where memory runs short, those that have rested longest are closed.
//!
//! A connection takes a [`Seat`] when it comes to rest, and gives it back when it is used again. It is not closed from
//! here: its own task is woken and ends it in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The resting connections of all workers.
#[derive(Debug, Default)]
pub struct Resting(Mutex<Seats>);

/// There are at most as many as connections.
#[derive(Debug, Default)]
struct Seats {
    all: Vec<Option<Sitting>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Sitting {
    since: Instant,
    call: Arc<Call>,
}

/// What wakes one connection. It is polled whenever the connection does something, so it shares no lock with others.
#[derive(Debug)]
struct Call {
    is_made: AtomicBool,
    waker: Mutex<Waker>,
}

/// The seat of one connection. Dropping it gives it back.
#[derive(Debug)]
pub struct Seat {
    number: u32,
    call: Arc<Call>,
    of: Arc<Resting>,
}

impl Resting {
    /// A seat for a connection on which nothing has happened since `since`. `waker` wakes its task when it is called.
    pub fn sit(self: &Arc<Self>, since: Instant, waker: Waker) -> Seat {
        let call = Arc::new(Call { is_made: AtomicBool::new(false), waker: Mutex::new(waker) });
        let sitting = Some(Sitting { since, call: call.clone() });
        let mut seats = self.0.lock();
        let number = match seats.free.pop() {
            Some(number) => {
                if let Some(seat) = seats.all.get_mut(number as usize) {
                    *seat = sitting;
                }
                number
            }
            None => {
                seats.all.push(sitting);
                u32::try_from(seats.all.len() - 1).unwrap_or(u32::MAX)
            }
        };
        drop(seats);
        Seat { number, call, of: self.clone() }
    }

    /// Calls the `most` connections that have rested longest: they are to be closed. Returns how many there were.
    pub fn call_oldest(&self, most: usize) -> usize {
        let seats = self.0.lock();
        let mut waiting: Vec<_> =
            seats.all.iter().flatten().filter(|sitting| !sitting.call.is_made()).collect();
        if waiting.len() > most {
            waiting.select_nth_unstable_by_key(most, |sitting| sitting.since);
            waiting.truncate(most);
        }
        let called: Vec<_> = waiting.into_iter().map(|sitting| sitting.call.clone()).collect();
        drop(seats);
        let count = called.len();
        called.into_iter().for_each(|call| call.make());
        count
    }
}

impl Call {
    fn is_made(&self) -> bool {
        self.is_made.load(SeqCst)
    }

    fn make(&self) {
        self.is_made.store(true, SeqCst);
        let waker = self.waker.lock().clone();
        waker.wake(); // not under the lock: it may drop the task with its seat
    }
}

impl Seat {
    /// Whether the connection is to be closed.
    pub fn is_called(&self) -> bool {
        self.call.is_made()
    }

    /// Ready when the connection is to be closed.
    pub fn poll_called(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.call.is_made() {
            self.call.waker.lock().clone_from(cx.waker()); // clones only another one
        }
        if self.call.is_made() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.of.0.lock();
        let left = seats.all.get_mut(self.number as usize).and_then(Option::take);
        seats.free.push(self.number);
        if seats.free.len() == seats.all.len() {
            *seats = Seats::default(); // a crowd that has left leaves nothing behind
        }
        drop(seats);
        drop(left); // not under the lock: a waker may hold the last reference to a task with a seat
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_connections_that_rested_longest_are_called_and_others_stay() {
        let (resting, now) = (Arc::<Resting>::default(), Instant::now());
        let sit = |seconds| resting.sit(now - Duration::from_secs(seconds), Waker::noop().clone());
        let [new, old, oldest] = [1, 20, 300].map(sit);
        assert_eq!(resting.call_oldest(2), 2);
        assert!(old.is_called() && oldest.is_called() && !new.is_called());
        assert_eq!(resting.call_oldest(2), 1, "one is called once");
        let cx = Context::from_waker(Waker::noop());
        assert!(new.poll_called(&cx).is_ready());
        let later = sit(2);
        assert!(later.poll_called(&cx).is_pending());
        assert_eq!(resting.call_oldest(0), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn seats_are_given_back_and_taken_again() {
        let (resting, now) = (Arc::<Resting>::default(), Instant::now());
        let sit = || resting.sit(now, Waker::noop().clone());
        let (first, second) = (sit(), sit());
        drop(first);
        let third = sit();
        assert_eq!((third.number, resting.0.lock().all.len()), (0, 2));
        drop((second, third));
        assert_eq!(resting.0.lock().all.capacity(), 0);
        assert_eq!(resting.call_oldest(9), 0);
    }
}
