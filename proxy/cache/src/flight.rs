//! Lets one request lead where many equal ones would be sent at once (RFC 9111, 4; "collapsed forwarding").
//!
//! The others wait for the leader. If its answer was stored, they are served from there. If the service failed, and a
//! stale answer stood in, they use that as well. If it turns out that the answer is not for all, they are sent at once,
//! all of them together. If the leader is gone without an answer, one of
//! them leads in its place. No request waits twice, except for a leader that is gone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Stored;

/// What has become of a leader.
#[derive(Debug, Clone)]
pub enum Landed {
    /// Its answer is stored.
    Stored,
    /// The service failed, and this stale answer stood in. For a request that chooses another one it means nothing.
    StoodIn(Arc<Stored>),
    /// Its answer is not for others.
    NotShared,
    /// It is gone, and there is no answer.
    Abandoned,
}

#[derive(Debug)]
enum State {
    /// The head of the answer has not come.
    Asked,
    /// The answer will be stored when its body has come whole.
    Coming,
    Landed(Landed),
}

type Open = Mutex<HashMap<u64, Arc<Flight>>>;

/// What has become of a leader so far, for those who wait.
type Flight = watch::Sender<State>;

/// The leaders of a cache, by the hash of their key. Two keys with one hash would wait for one another, and then find
/// nothing stored: they are sent as if their answers were not for all.
#[derive(Debug, Clone, Default)]
pub struct Flights(Arc<Open>);

/// The turn of a request for a key.
#[derive(Debug)]
pub enum Turn {
    Lead(Lead),
    Wait(Wait),
}

/// A request that others wait for. Dropped without [`Lead::land`], it is gone.
#[derive(Debug)]
pub struct Lead {
    open: Arc<Open>,
    hash: u64,
    flight: Arc<Flight>,
    has_landed: bool,
}

/// A request that waits.
#[derive(Debug)]
pub struct Wait {
    open: Arc<Open>,
    hash: u64,
    flight: Arc<Flight>,
    state: watch::Receiver<State>,
}

/// Takes a flight out of the list, so that the next request leads. Another one with its hash stays.
fn take_out(open: &Open, hash: u64, flight: &Arc<Flight>) {
    if let Entry::Occupied(place) = open.lock().entry(hash)
        && Arc::ptr_eq(place.get(), flight)
    {
        place.remove();
    }
}

impl Flights {
    pub fn join(&self, hash: u64) -> Turn {
        match self.0.lock().entry(hash) {
            Entry::Occupied(place) => {
                let (open, flight) = (self.0.clone(), place.get().clone());
                let state = flight.subscribe();
                Turn::Wait(Wait { open, hash, flight, state })
            }
            Entry::Vacant(place) => {
                let flight = place.insert(Arc::new(watch::Sender::new(State::Asked))).clone();
                Turn::Lead(Lead { open: self.0.clone(), hash, flight, has_landed: false })
            }
        }
    }

    /// How many leaders are under way.
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }
}

impl Lead {
    /// Whether another request waits for this one.
    pub fn is_awaited(&self) -> bool {
        self.flight.receiver_count() > 0
    }

    /// The head of an answer has come that will be stored.
    pub fn comes(&self) {
        self.flight.send_replace(State::Coming);
    }

    pub fn land(mut self, how: Landed) {
        self.end(how);
    }

    fn end(&mut self, how: Landed) {
        if !std::mem::replace(&mut self.has_landed, true) {
            take_out(&self.open, self.hash, &self.flight); // first, so that a request that comes now leads
            self.flight.send_replace(State::Landed(how));
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.end(Landed::Abandoned);
    }
}

impl Wait {
    /// Waits for the head of the leader's answer. `None`: the answer will be stored, and its body is on its way.
    pub async fn head(&mut self) -> Option<Landed> {
        match self.state.wait_for(|state| !matches!(state, State::Asked)).await.as_deref() {
            Ok(State::Landed(how)) => Some(how.clone()),
            Ok(_) => None,
            Err(_gone) => Some(Landed::Abandoned),
        }
    }

    /// Waits for the end of the leader.
    pub async fn landed(&mut self) -> Landed {
        match self.state.wait_for(|state| matches!(state, State::Landed(_))).await.as_deref() {
            Ok(State::Landed(how)) => how.clone(),
            _ => Landed::Abandoned,
        }
    }

    /// Waits no more. The next request leads, although this leader is still under way.
    pub fn give_up(&self) -> Landed {
        take_out(&self.open, self.hash, &self.flight);
        Landed::NotShared
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use pillion_http::message::Headers;

    use super::*;
    use crate::stored::{Head, Times};
    use crate::vary::Selector;
    use crate::{AnswerFacts, Clock};

    fn lead(flights: &Flights) -> Lead {
        match flights.join(1) {
            Turn::Lead(lead) => lead,
            Turn::Wait(_) => panic!("another one leads"),
        }
    }

    fn wait(flights: &Flights) -> Wait {
        match flights.join(1) {
            Turn::Wait(wait) => wait,
            Turn::Lead(_) => panic!("no other one leads"),
        }
    }

    impl PartialEq for Landed {
        fn eq(&self, other: &Self) -> bool {
            match (self, other) {
                (Self::StoodIn(one), Self::StoodIn(other)) => Arc::ptr_eq(one, other),
                (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
            }
        }
    }

    fn stored() -> Arc<Stored> {
        let now = Clock { at: std::time::Instant::now(), wall: 2_000_000_000 };
        let (headers, selector) = (Headers::default(), Selector::default());
        let facts = AnswerFacts::of(StatusCode::OK, &headers);
        let times = Times { asked: now, received: now };
        Arc::new(Head { status: StatusCode::OK, reason: None, headers, facts, selector, times }.with(b"x"))
    }

    #[tokio::test]
    async fn those_who_wait_are_told_what_became_of_their_leader() {
        let flights = Flights::default();
        for how in [Landed::Stored, Landed::StoodIn(stored()), Landed::NotShared] {
            let leader = lead(&flights);
            let (mut early, mut other) = (wait(&flights), wait(&flights));
            leader.comes();
            assert_eq!(early.head().await, None);
            leader.land(how.clone());
            let told = (early.landed().await, other.head().await, flights.count());
            assert_eq!(told, (how.clone(), Some(how), 0));
        }
    }

    #[tokio::test]
    async fn after_one_has_given_up_the_next_one_leads_and_the_slow_leader_ends_alone() {
        let flights = Flights::default();
        let slow = lead(&flights);
        let mut early = wait(&flights);
        assert_eq!(wait(&flights).give_up(), Landed::NotShared);
        let next = lead(&flights);
        let mut second = wait(&flights);
        slow.land(Landed::Stored);
        assert_eq!((early.landed().await, flights.count()), (Landed::Stored, 1));
        next.land(Landed::NotShared);
        assert_eq!(second.landed().await, Landed::NotShared);
    }

    #[tokio::test]
    async fn when_the_leader_is_gone_one_of_the_others_leads() {
        let flights = Flights::default();
        let leader = lead(&flights);
        assert!(!leader.is_awaited());
        let mut waits = [wait(&flights), wait(&flights)];
        assert!(leader.is_awaited());
        drop(leader);
        for wait in &mut waits {
            assert_eq!(wait.head().await, Some(Landed::Abandoned));
        }
        let leader = lead(&flights);
        let mut second = wait(&flights);
        leader.land(Landed::Stored);
        assert_eq!(second.landed().await, Landed::Stored);
    }
}
