//! A sidecar hands its listeners over to its successor, and ends after its connections.

use std::time::Duration;

use pillion_base::accept::Closed;
use pillion_base::memory::program;
use pillion_model::Direction;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::control::Controller;
use super::{Around, Keeper, Running};
use crate::manager::{News, ServiceManager};
use crate::takeover::Socket;

/// How long the threads may take to lend copies of the descriptors, and to close listeners. A thread does so between two
/// connections.
const PATIENCE: Duration = Duration::from_secs(5);
/// The interval between looks whether the connections have ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// 10 s, or half of a `drain.timeout` that is shorter than twice that: how long before the end idle connections are closed, so
/// that a request that then comes on one, as the last, is answered.
const LAST_REQUESTS: Duration = Duration::from_secs(10);
/// 1 s, or half of a shorter `drain.timeout`: the least time for that, also where the machine has stalled until the limit.
const LEAST_FOR_LAST_REQUESTS: Duration = Duration::from_secs(1);

/// A takeover by a successor that accepts connections. It cannot be taken back. A signal may interrupt [`Self::finish`] at
/// each wait, and a further call goes on from there.
pub(super) struct HandOver {
    /// The number of the successor's process, if it is known here.
    pid: Option<u32>,
    /// Tells the successor that all listeners are closed. `None`: it was told.
    answer: Option<oneshot::Sender<()>>,
    /// Ends when all listeners of this process are closed.
    all_closed: mpsc::Receiver<Closed>,
    /// When the successor is told even if a thread has not closed its listeners.
    latest: Instant,
}

impl HandOver {
    /// Begins to close all listeners, because the successor accepts from its own copies, and asks clients to connect again.
    pub(super) fn begin(running: &mut Running, pid: Option<u32>, answer: oneshot::Sender<()>) -> Self {
        let all_closed = running.controller.close();
        running.say_goodbye();
        Self { pid, answer: Some(answer), all_closed, latest: Instant::now() + PATIENCE }
    }

    /// Waits until the listeners are closed, and tells the successor. From then on it is the one that tells the service
    /// manager, which must know the successor before that one has its first word.
    pub(super) async fn finish(&mut self, manager: &mut ServiceManager) {
        if self.answer.is_none() {
            return;
        }
        match timeout_at(self.latest, self.all_closed.recv()).await {
            Ok(None) => {}
            Ok(Some(never)) => match never {},
            Err(_elapsed) => tracing::error!("a thread did not close its listeners in time"),
        }
        let former = std::mem::take(manager);
        if let Some(pid) = self.pid {
            former.tell(News::Successor { pid });
        }
        if self.answer.take().is_some_and(|answer| answer.send(()).is_err()) {
            tracing::debug!("the successor did not wait for the end of the listeners");
        }
    }
}

impl Controller {
    /// Lets all threads accept connections from now on.
    pub(super) fn open(&mut self) {
        self.listeners.open();
        self.dns.bindings().open();
        self.own_ports.bindings().open();
    }

    /// Tells all threads to close their listeners, so that a slow thread delays no other one. Connections in the queues are
    /// accepted first. The channel ends when all listeners are closed.
    fn close(&mut self) -> mpsc::Receiver<Closed> {
        let (closed, all_closed) = mpsc::channel(1);
        self.listeners.close(&closed);
        self.dns.bindings().close(&closed);
        self.own_ports.bindings().close(&closed);
        all_closed
    }

    async fn lend(&mut self) -> Vec<Socket> {
        let (own, dns) = (self.own_ports.bindings().lend().await, self.dns.bindings().lend().await);
        let all = self.listeners.lend().await.into_iter().chain(own).chain(dns);
        all.map(|(role, wanted, descriptor)| Socket { role, wanted, descriptor }).collect()
    }

    /// The number of connections of both sides and of the own ports that are open, idle ones too, and of DNS queries under
    /// way.
    fn under_way(&self) -> usize {
        let Around { connections, .. } = &self.around;
        let open = [connections.inbound.used(), connections.outbound.used()];
        open.into_iter().map(|open| usize::try_from(open).unwrap_or(usize::MAX)).sum::<usize>()
            + self.dns.under_way()
            + self.own_ports.under_way()
    }
}

impl Running {
    /// Lets all threads accept connections from now on.
    pub(crate) fn open(&mut self) {
        self.controller.open();
        program::give_back(); // what companions need is then not added to what the start has needed
        self.follow_companions();
    }

    /// Lets the companions work by the configuration and the identity at work.
    pub(super) fn follow_companions(&mut self) {
        let own = self.controller.credentials().map(|own| &own.id);
        self.companions.follow(self.controller.config(), own, self.controller.listeners.is_open());
    }

    /// Whether the threads may accept connections.
    pub(crate) const fn is_open(&self) -> bool {
        self.controller.listeners.is_open()
    }

    /// Copies of the descriptors of all listeners. `Err`: the sidecar drains, or a thread did not answer in time.
    pub(super) async fn lend(&mut self) -> Result<Vec<Socket>, String> {
        if self.drain.has_begun(Direction::Inbound) {
            return Err("it drains already; start again when it has ended".to_owned());
        }
        let late = |_elapsed| "a thread did not lend its listeners in time".to_owned();
        timeout(PATIENCE, self.controller.lend()).await.map_err(late)
    }

    /// Asks the clients of both sides to connect again, because a successor serves. No request is refused.
    fn say_goodbye(&self) {
        self.drain.begin();
    }

    /// Ends after the connections of a sidecar whose successor serves. Answers announce that the connection will close,
    /// and no request is refused. An idle connection stays until its client uses or closes it, because a request may be
    /// on its way; nothing but memory is saved by closing it sooner than [`LAST_REQUESTS`] before `drain.timeout`. `keeper`
    /// keeps endpoints and certificates current meanwhile.
    pub(crate) async fn end_after_connections(&mut self, keeper: &mut Keeper) {
        let (began, limit) = (Instant::now(), self.controller.config().drain.timeout);
        let dismissing = limit - LAST_REQUESTS.min(limit / 2);
        let least = LEAST_FOR_LAST_REQUESTS.min(limit / 2);
        let mut dismissed: Option<Instant> = None;
        let open = loop {
            match (self.controller.under_way(), dismissed) {
                (0, _) => break 0,
                (open, Some(since)) if began.elapsed() >= limit && since.elapsed() >= least => break open,
                (_, None) if began.elapsed() >= dismissing => {
                    self.drain.dismiss();
                    dismissed = Some(Instant::now());
                }
                _ => {}
            }
            keeper.follow_until(self, sleep(LOOK_EVERY)).await;
        };
        match open {
            0 => tracing::info!("all connections have ended"),
            _ => {
                tracing::warn!(timeout = ?limit, open, "drain timeout reached: closing the open connections")
            }
        }
        self.finish().await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::app::App;
    use crate::listening::Command;

    fn closes<P>(commands: &mut mpsc::Receiver<Command<P>>) -> bool {
        std::iter::from_fn(|| commands.try_recv().ok()).any(|command| matches!(command, Command::CloseAll(_)))
    }

    /// No thread takes its command here.
    #[tokio::test]
    async fn all_threads_are_told_to_close_before_any_of_them_has_done_it() {
        let text = "workers: 2\ninbound: off\noutbound: { listen: 127.0.0.1:0 }\nadmin: { listen: 127.0.0.1:0 }\n\
             metrics: off\ndns: { listen: 127.0.0.1:0, upstream: [\"127.0.0.1:9\"] }\n";
        let (config, _) = pillion_config::parse(text, Path::new("")).expect("a configuration");
        let App { mut controller, mut workers, admin: (_, mut admin), dns: (_, mut dns), .. } =
            App::build(config).expect("free ports");
        let mut all_closed = controller.close();
        assert!(workers.iter_mut().all(closes) && closes(&mut dns) && closes(&mut admin));
        assert!(all_closed.recv().await.is_none(), "the commands are dropped, and their senders with them");
    }
}
