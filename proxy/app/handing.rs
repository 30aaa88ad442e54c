//! A sidecar hands its listeners over to its successor, and ends after its connections.

use std::time::Duration;

use pillion_model::Direction;
use tokio::time::{Instant, sleep, timeout};

use super::control::Controller;
use super::{Around, Keeper, Running};
use crate::takeover::Socket;

/// How long the threads may take to lend copies of the descriptors, and to close listeners. A thread does so between two
/// connections.
const PATIENCE: Duration = Duration::from_secs(5);
/// The interval between looks whether the connections have ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Controller {
    /// Lets all threads accept connections from now on.
    pub(super) fn open(&mut self) {
        self.listeners.open();
        self.dns.bindings().open();
        self.own_ports.bindings().open();
    }

    /// Closes all listeners. Connections in their queues are accepted first.
    async fn close(&mut self) {
        self.listeners.close().await;
        self.dns.bindings().close().await;
        self.own_ports.bindings().close().await;
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

    /// Closes all listeners, because the successor accepts from its own copies.
    pub(super) async fn close(&mut self) {
        if timeout(PATIENCE, self.controller.close()).await.is_err() {
            tracing::error!("a thread did not close its listeners in time");
        }
    }

    /// Asks the clients of both sides to connect again, because a successor serves. No request is refused.
    pub(crate) fn say_goodbye(&self) {
        self.drain.begin();
    }

    /// Ends after the connections of a sidecar whose successor serves. Answers announce that the connection will close,
    /// and no request is refused. An idle connection stays until its client uses or closes it, because a request may be
    /// on its way; nothing but memory is saved by closing it sooner than at `drain.timeout`. `keeper` keeps endpoints and
    /// certificates current meanwhile.
    pub(crate) async fn end_after_connections(&mut self, keeper: &mut Keeper) {
        let (began, limit) = (Instant::now(), self.controller.config().drain.timeout);
        self.say_goodbye();
        let open = loop {
            match self.controller.under_way() {
                0 => break 0,
                open if began.elapsed() >= limit => break open,
                _ => keeper.follow_until(self, sleep(LOOK_EVERY)).await,
            }
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
