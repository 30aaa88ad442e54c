//! The clients of the webhook, and what they hold while the webhook waits for them: a place of a connection, and the bytes of a
//! question that is not complete. Where that is used up, the client for which the webhook has waited longest loses its connection.
//! So slow clients cost themselves alone, however many they are. Questions that are complete have a bound of their own, above which
//! further ones are refused: no client loses its connection for them.
//!
//! Pure: no sockets and no clock.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The bytes of all questions that are not complete: four of the largest.
pub(super) const MOST_BYTES: usize = 16 << 20;
/// The bytes of all questions that are complete, and wait for a place: two of the largest, or some hundred of usual pods.
pub(super) const MOST_WAITING: usize = 8 << 20;

#[derive(Default)]
pub(super) struct Clients {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// As many as there are connections, in no order.
    all: Vec<Held>,
    /// The number of the next turn.
    next: u64,
    /// Of questions that are not complete.
    bytes: usize,
    /// Of those that are complete, and wait for a place.
    waiting: usize,
}

struct Held {
    id: u64,
    /// Since which turn the webhook waits for the client. `None`: it is the webhook's turn.
    awaited: Option<u64>,
    /// What has come of a question that is not complete.
    bytes: usize,
    /// The bytes of a question that waits for a place.
    waiting: usize,
    cut: Arc<Notify>,
}

/// One client. It is forgotten when this is dropped.
pub(super) struct Client {
    clients: Arc<Clients>,
    id: u64,
    cut: Arc<Notify>,
}

impl Clients {
    /// A client has connected: the webhook waits for it.
    pub(super) fn enter(self: &Arc<Self>) -> Client {
        let (mut state, cut) = (self.state.lock(), Arc::new(Notify::new()));
        let id = state.turn();
        state.all.push(Held { id, awaited: Some(id), bytes: 0, waiting: 0, cut: cut.clone() });
        Client { clients: self.clone(), id, cut }
    }

    /// Ends the connection of the client for which the webhook has waited longest. Returns whether it waits for one.
    pub(super) fn cut_oldest(&self) -> bool {
        self.state.lock().cut_oldest(|_| true)
    }
}

impl State {
    fn turn(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Held, u64)) {
        let turn = self.turn();
        let Some(held) = self.all.iter_mut().find(|held| held.id == id) else { return };
        let (bytes, waiting) = (held.bytes, held.waiting);
        change(held, turn);
        self.bytes = self.bytes + held.bytes - bytes;
        self.waiting = self.waiting + held.waiting - waiting;
    }

    /// Returns whether there was one.
    fn cut_oldest(&mut self, may_be: impl Fn(&Held) -> bool) -> bool {
        let waiting = self.all.iter().filter(|held| may_be(held));
        let oldest = waiting.filter_map(|held| Some((held.awaited?, held.id))).min();
        let Some((_, id)) = oldest else { return false };
        if let Some(held) = self.forget(id) {
            held.cut.notify_one();
        }
        true
    }

    fn forget(&mut self, id: u64) -> Option<Held> {
        let at = self.all.iter().position(|held| held.id == id)?;
        let held = self.all.swap_remove(at);
        self.bytes -= held.bytes;
        self.waiting -= held.waiting;
        Some(held)
    }
}

impl Client {
    /// Waits until the client has lost its connection to others.
    pub(super) async fn is_cut(&self) {
        self.cut.notified().await;
    }

    /// More bytes of a question have come. They are over the bound at most until this returns.
    pub(super) fn reads(&self, bytes: usize) {
        let mut state = self.clients.state.lock();
        state.change(self.id, |held, _| held.bytes += bytes);
        while state.bytes > MOST_BYTES && state.cut_oldest(|held| held.bytes > 0) {}
    }

    /// The question is complete, and waits for the webhook. Returns whether it may: otherwise those that wait are too large together.
    pub(super) fn has_asked(&self) -> bool {
        let mut state = self.clients.state.lock();
        let room = MOST_WAITING - state.waiting;
        let mut may_wait = false;
        state.change(self.id, |held, _| {
            may_wait = held.bytes <= room;
            held.waiting = if may_wait { held.bytes } else { 0 };
            (held.awaited, held.bytes) = (None, 0);
        });
        may_wait
    }

    /// The question is being answered. Its bytes belong to the place of that.
    pub(super) fn has_a_place(&self) {
        self.clients.state.lock().change(self.id, |held, _| held.waiting = 0);
    }

    /// There is an answer: the webhook waits for the next question.
    pub(super) fn is_answered(&self) {
        self.clients.state.lock().change(self.id, |held, turn| {
            held.awaited = Some(turn);
            (held.bytes, held.waiting) = (0, 0);
        });
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.clients.state.lock().forget(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn are_cut<const N: usize>(clients: [&Client; N]) -> [bool; N] {
        let mut found = [false; N];
        for (client, found) in clients.iter().zip(&mut found) {
            tokio::select! {
                biased;
                () = client.is_cut() => *found = true,
                () = std::future::ready(()) => {}
            }
        }
        found
    }

    #[tokio::test]
    async fn the_client_that_is_awaited_longest_is_cut_and_none_whose_question_is_complete() {
        let clients = Arc::new(Clients::default());
        let [a, b, c] = [(); 3].map(|()| clients.enter());
        assert!(a.has_asked());
        assert!(clients.cut_oldest());
        assert_eq!(are_cut([&a, &b, &c]).await, [false, true, false]);
        a.is_answered();
        assert!(clients.cut_oldest());
        assert_eq!(
            are_cut([&a, &b, &c]).await,
            [false, false, true],
            "the answered one is awaited since later"
        );
        assert!(clients.cut_oldest() && !clients.cut_oldest());
        assert_eq!(are_cut([&a]).await, [true]);
        assert!(clients.state.lock().all.is_empty());
    }

    #[tokio::test]
    async fn the_bytes_of_unfinished_questions_are_bounded_by_those_of_the_oldest() {
        let clients = Arc::new(Clients::default());
        let [idle, a, b, c] = [(); 4].map(|()| clients.enter());
        a.reads(MOST_BYTES / 2);
        b.reads(MOST_BYTES / 2);
        c.reads(1);
        assert_eq!(are_cut([&idle, &a, &b, &c]).await, [false, true, false, false]);
        drop([a, b]);
        c.reads(6);
        assert_eq!(clients.state.lock().bytes, 7);
        drop(c);
        let state = clients.state.lock();
        assert_eq!((state.bytes, state.waiting, state.all.len()), (0, 0, 1));
        drop(state);
        drop(idle);
    }

    #[tokio::test]
    async fn complete_questions_that_wait_cut_no_client_and_are_refused_above_their_bound() {
        let clients = Arc::new(Clients::default());
        let [server, a, b, c] = [(); 4].map(|()| clients.enter());
        server.reads(1);
        for client in [&a, &b] {
            client.reads(MOST_WAITING / 2);
            assert!(client.has_asked());
        }
        c.reads(MOST_BYTES - 1);
        assert_eq!(
            are_cut([&server, &a, &b, &c]).await,
            [false; 4],
            "what waits is not counted with the rest"
        );
        assert!(!c.has_asked() && !server.has_asked(), "both would be too much");
        c.is_answered();
        a.has_a_place();
        server.is_answered();
        server.reads(1);
        assert!(server.has_asked());
        drop([a, b, c]);
        let state = clients.state.lock();
        assert_eq!((state.bytes, state.waiting, state.all.len()), (0, 1, 1));
        drop(state);
    }
}
