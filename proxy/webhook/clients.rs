//! The clients of the webhook, and what they hold while the webhook waits for them: a place of a connection, and the bytes of a
//! question that is not complete. Where that is used up, the client for which the webhook has waited longest loses its connection.
//! So slow clients cost themselves alone, however many they are.
//!
//! Pure: no sockets and no clock.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The bytes of all questions that have come and are not being answered yet: four of the largest.
const MOST_BYTES: usize = 16 << 20;

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
    bytes: usize,
}

struct Held {
    id: u64,
    /// Since which turn the webhook waits for the client. `None`: it is the webhook's turn.
    awaited: Option<u64>,
    /// What has come of a question.
    bytes: usize,
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
        state.all.push(Held { id, awaited: Some(id), bytes: 0, cut: cut.clone() });
        Client { clients: self.clone(), id, cut }
    }

    /// Ends the connection of the client for which the webhook has waited longest, if it waits for one.
    pub(super) fn cut_oldest(&self) {
        self.state.lock().cut_oldest(|_| true);
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
        let before = held.bytes;
        change(held, turn);
        self.bytes = self.bytes + held.bytes - before;
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

    /// The question is complete, and waits for the webhook.
    pub(super) fn has_asked(&self) {
        self.clients.state.lock().change(self.id, |held, _| held.awaited = None);
    }

    /// The question is being answered. Its bytes belong to the place of that.
    pub(super) fn has_a_place(&self) {
        self.clients.state.lock().change(self.id, |held, _| held.bytes = 0);
    }

    /// There is an answer: the webhook waits for the next question.
    pub(super) fn is_answered(&self) {
        self.clients.state.lock().change(self.id, |held, turn| {
            held.awaited = Some(turn);
            held.bytes = 0;
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
        a.has_asked();
        clients.cut_oldest();
        assert_eq!(are_cut([&a, &b, &c]).await, [false, true, false]);
        a.is_answered();
        clients.cut_oldest();
        assert_eq!(
            are_cut([&a, &b, &c]).await,
            [false, false, true],
            "the answered one is awaited since later"
        );
        clients.cut_oldest();
        clients.cut_oldest();
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
        a.reads(MOST_BYTES);
        c.has_asked();
        b.reads(MOST_BYTES / 2);
        assert_eq!(
            are_cut([&b, &c]).await,
            [true, false],
            "the one that is too much, as the other waits for the webhook"
        );
        assert_eq!(clients.state.lock().bytes, 1);
        c.has_a_place();
        assert_eq!(clients.state.lock().bytes, 0);
        c.reads(7);
        drop(c);
        let state = clients.state.lock();
        assert_eq!((state.bytes, state.all.len()), (0, 1));
        drop(state);
    }
}
