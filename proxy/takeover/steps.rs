//! The states of a takeover, on both sides. Pure: an event comes in, and the next step comes out.
//!
//! ```text
//!   new process                             old process
//!   hello ────────────────────────────────▶ busy, or another version: kept
//!         ◀──────────── offer, and sockets
//!   gets ready with its own configuration   serves
//!   ready ────────────────────────────────▶
//!         ◀───────────────────────────── go
//!   accepts connections                     serves, too
//!   serving ──────────────────────────────▶ closes its copies
//!         ◀─────────────────────────── done
//!   serves alone                            ends after its connections
//! ```
//!
//! Both serve for a moment, so that there is none in which no process does. Until `serving` the old process can always go
//! on: it says `kept` if it gives up although it lives. A connection that ends without `kept` means for the new process
//! that the old one has ended, or is about to; then it serves in its place. Once the new process accepts connections,
//! nothing but `kept` ends it, because it may be the only one that serves.

use std::time::Duration;

use super::message::{Message, VERSION};

/// How long one side may take for an answer. The old process may be at a reload, which takes some seconds with many
/// services.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the new process may take to get ready: certificates and endpoints must have come.
pub(super) const READY: Duration = Duration::from_secs(60);
/// How long the old process waits for that. Longer than [`READY`], so that the new process ends with a reason of its own.
const READY_AND_MORE: Duration = Duration::from_secs(75);

/// What has happened on the wire.
#[derive(Debug)]
pub(super) enum Event {
    Said(Message),
    /// Nothing came within the patience of the state.
    Silent,
    /// The other side has closed its end.
    Gone(String),
    /// The other side lives, and says what is no message.
    Garbled(String),
}

/// A state of the old process: the last step that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Giving {
    Connected,
    Offered,
    Released,
}

/// What the old process does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GivingStep {
    /// Sends its sockets, and goes on in this state.
    Offer(Giving),
    /// Lets the new process accept connections, and goes on in this state.
    Go(Giving),
    /// Closes its listeners and says `done`.
    HandOver,
    /// Goes on as before, and says why.
    Keep(String),
}

impl Giving {
    pub(super) const fn patience(self) -> Duration {
        match self {
            Self::Connected | Self::Released => ANSWER,
            Self::Offered => READY_AND_MORE,
        }
    }

    pub(super) fn next(self, event: Event) -> GivingStep {
        match (self, event) {
            (Self::Connected, Event::Said(Message::Hello { versions, of })) => {
                match versions.contains(&VERSION) {
                    true => GivingStep::Offer(Self::Offered),
                    false => GivingStep::Keep(format!(
                        "this sidecar speaks version {VERSION} of the takeover, and pillion {} only {versions:?}: \
                         restart instead",
                        of.version
                    )),
                }
            }
            (Self::Offered, Event::Said(Message::Ready)) => GivingStep::Go(Self::Released),
            (Self::Released, Event::Said(Message::Serving)) => GivingStep::HandOver,
            (_, Event::Said(Message::Failed(why))) => GivingStep::Keep(why),
            (_, Event::Said(other)) => {
                GivingStep::Keep(format!("the successor said {} out of turn", name(&other)))
            }
            (_, Event::Silent) => {
                GivingStep::Keep(format!("the successor said nothing for {} s", self.patience().as_secs()))
            }
            (_, Event::Gone(why)) => GivingStep::Keep(format!("the successor has gone: {why}")),
            (_, Event::Garbled(why)) => {
                GivingStep::Keep(format!("the successor cannot be understood: {why}"))
            }
        }
    }
}

/// A state of the new process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taking {
    AwaitsOffer,
    GetsReady,
    AwaitsGo,
    AwaitsDone,
}

/// What the new process does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TakingStep {
    /// Receives so many sockets.
    Receive { sockets: u64 },
    /// Accepts connections and says so.
    Serve,
    /// Everything is its own now.
    Finish,
    /// The old process has ended without a word: serves in its place.
    ServeAlone,
    /// Ends, because the old process serves on.
    GiveUp(String),
    /// Connects again: the old process has just handed over to another, or has ended.
    Retry,
}

impl Taking {
    pub(super) const fn patience(self) -> Duration {
        match self {
            Self::GetsReady => READY,
            Self::AwaitsOffer | Self::AwaitsGo | Self::AwaitsDone => ANSWER,
        }
    }

    pub(super) fn next(self, event: Event) -> TakingStep {
        match (self, event) {
            (Self::AwaitsOffer, Event::Said(Message::Offer { version: VERSION, sockets, .. })) => {
                TakingStep::Receive { sockets }
            }
            (Self::AwaitsGo, Event::Said(Message::Go)) => TakingStep::Serve,
            (Self::AwaitsDone, Event::Said(Message::Done)) => TakingStep::Finish,
            (_, Event::Said(Message::Kept(why))) => TakingStep::GiveUp(why),
            // it accepts already, and the old process may have stopped
            (Self::AwaitsDone, Event::Said(_) | Event::Garbled(_) | Event::Silent) => TakingStep::Finish,
            (_, Event::Said(other)) => TakingStep::GiveUp(format!("it said {} out of turn", name(&other))),
            (Self::AwaitsOffer, Event::Gone(_)) => TakingStep::Retry,
            (_, Event::Gone(_)) => TakingStep::ServeAlone,
            (_, Event::Garbled(why)) => TakingStep::GiveUp(format!("it cannot be understood: {why}")),
            (Self::GetsReady, Event::Silent) => {
                TakingStep::GiveUp(format!("this one was not ready within {} s", READY.as_secs()))
            }
            (_, Event::Silent) => {
                TakingStep::GiveUp(format!("it did not answer for {} s", self.patience().as_secs()))
            }
        }
    }
}

const fn name(message: &Message) -> &'static str {
    match message {
        Message::Hello { .. } => "hello",
        Message::Offer { .. } => "offer",
        Message::Sockets(_) => "sockets",
        Message::Ready => "ready",
        Message::Go => "go",
        Message::Serving => "serving",
        Message::Done => "done",
        Message::Kept(_) => "kept",
        Message::Failed(_) => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Program;
    use super::*;

    fn hello(versions: &[u64]) -> Event {
        let of = Program { pid: 7, version: "9.0".into() };
        Event::Said(Message::Hello { versions: versions.to_vec(), of })
    }

    fn offer(version: u64) -> Event {
        Event::Said(Message::Offer { version, sockets: 4, of: Program::this() })
    }

    fn gone() -> Event {
        Event::Gone("it closed the connection".into())
    }

    #[test]
    fn the_old_process_hands_over_only_when_the_new_one_serves() {
        let GivingStep::Offer(state) = Giving::Connected.next(hello(&[1])) else { unreachable!("an offer") };
        let GivingStep::Go(state) = state.next(Event::Said(Message::Ready)) else {
            unreachable!("it may go")
        };
        assert_eq!(state.next(Event::Said(Message::Serving)), GivingStep::HandOver);
    }

    #[test]
    fn whatever_else_happens_before_that_the_old_process_serves_on() {
        for state in [Giving::Connected, Giving::Offered, Giving::Released] {
            let failed = Message::Failed("bad".into());
            let early = match state {
                Giving::Released => Message::Ready,
                _ => Message::Serving,
            };
            for event in [
                Event::Silent,
                gone(),
                Event::Said(failed),
                Event::Said(early),
                Event::Said(Message::Done),
                offer(1),
            ] {
                let told = format!("{state:?} {event:?}");
                assert!(matches!(state.next(event), GivingStep::Keep(_)), "{told}");
            }
        }
    }

    #[test]
    fn another_version_is_refused_with_both_versions() {
        let GivingStep::Keep(why) = Giving::Connected.next(hello(&[2, 3])) else { unreachable!("refused") };
        assert!(why.contains("version 1") && why.contains("[2, 3]") && why.contains("9.0"), "{why}");
        assert!(matches!(Giving::Connected.next(hello(&[2, 1])), GivingStep::Offer(_)));
        assert!(matches!(Taking::AwaitsOffer.next(offer(2)), TakingStep::GiveUp(_)));
    }

    #[test]
    fn the_new_process_accepts_only_when_it_may_and_finishes_when_the_old_one_does_not() {
        assert_eq!(Taking::AwaitsOffer.next(offer(1)), TakingStep::Receive { sockets: 4 });
        assert_eq!(Taking::AwaitsGo.next(Event::Said(Message::Go)), TakingStep::Serve);
        assert_eq!(Taking::AwaitsDone.next(Event::Said(Message::Done)), TakingStep::Finish);
        assert!(matches!(Taking::AwaitsGo.next(Event::Said(Message::Done)), TakingStep::GiveUp(_)));
    }

    #[test]
    fn the_new_process_serves_in_the_place_of_one_that_died_and_never_beside_one_that_lives() {
        for state in [Taking::GetsReady, Taking::AwaitsGo, Taking::AwaitsDone] {
            assert_eq!(state.next(gone()), TakingStep::ServeAlone, "{state:?}");
            let kept = Event::Said(Message::Kept("it lives".into()));
            assert_eq!(state.next(kept), TakingStep::GiveUp("it lives".into()), "{state:?}");
        }
        assert_eq!(Taking::AwaitsOffer.next(gone()), TakingStep::Retry);
        for state in [Taking::AwaitsOffer, Taking::GetsReady, Taking::AwaitsGo] {
            assert!(matches!(state.next(Event::Silent), TakingStep::GiveUp(_)), "{state:?}");
        }
        for unclear in [Event::Silent, Event::Garbled("nonsense".into()), Event::Said(Message::Go)] {
            assert_eq!(Taking::AwaitsDone.next(unclear), TakingStep::Finish, "it may serve alone");
        }
    }

    #[test]
    fn the_old_process_waits_longer_than_the_new_one_may_take() {
        assert!(Giving::Offered.patience() > Taking::GetsReady.patience());
    }
}
