//! Code that every kind of listener shares: an address is bound or left out, and a thread opens and closes listeners on
//! commands of the controller. [`Listening`] says what an address is for.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use anyhow::Context as _;
use pillion_base::accept::{Closed, Hold, Holder, Lent, hold};
use pillion_base::net::has_no_ipv6;
use tokio::sync::mpsc;

/// An address on which the sidecar listens, with its real port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listening {
    pub(crate) on: SocketAddr,
    pub(crate) role: Role,
}

/// What an address is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    Inbound,
    /// The listener of a single port of the application.
    Port(u16),
    Outbound,
    /// The port of a single service.
    Service(String),
    Admin,
    Metrics,
    Dns,
}

impl Role {
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Port(_) => "port",
            Self::Outbound => "outbound",
            Self::Service(_) => "service",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
            Self::Dns => "dns",
        }
    }
}

/// The result of binding an address that `key` of the configuration names. `None`: the address is left out, because
/// this kernel has no IPv6.
///
/// # Errors
/// The address could not be bound.
pub(crate) fn bound<T>(key: &str, address: SocketAddr, result: io::Result<T>) -> anyhow::Result<Option<T>> {
    match result {
        Err(error) if address.is_ipv6() && has_no_ipv6(&error) => {
            tracing::info!(%address, "{key}: address left out, because this kernel has no IPv6");
            Ok(None)
        }
        result => result.map(Some).with_context(|| format!("{key}: cannot listen on {address}")),
    }
}

/// A command of the controller. `P` is a bound address with its id.
pub(crate) enum Command<P> {
    Open(Vec<P>),
    /// Closes listeners by their ids. Accepted connections stay open.
    Close(Vec<u64>),
    /// Sends copies of the descriptors of every open listener.
    Lend(mpsc::Sender<Lent>),
    /// Closes all listeners. Each drops a clone of this when it is closed.
    CloseAll(mpsc::Sender<Closed>),
}

/// Executes commands until the process ends. A task that `open` starts ends when the other half of its receiver is
/// dropped.
pub(crate) async fn obey<P>(
    mut commands: mpsc::Receiver<Command<P>>,
    id: impl Fn(&P) -> u64,
    open: impl Fn(P, Hold),
) {
    let mut opened: HashMap<u64, Vec<Holder>> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Open(ports) => {
                for port in ports {
                    let (holder, held) = hold();
                    opened.entry(id(&port)).or_default().push(holder);
                    open(port, held);
                }
            }
            Command::Close(ids) => ids.iter().for_each(|id| drop(opened.remove(id))),
            Command::Lend(to) => opened.iter_mut().for_each(|(id, all)| {
                *all = std::mem::take(all).into_iter().map(|holder| holder.lend(*id, to.clone())).collect();
            }),
            Command::CloseAll(closed) => {
                opened.drain().flat_map(|(_, all)| all).for_each(|holder| holder.close(closed.clone()));
            }
        }
    }
    std::future::pending::<()>().await;
}
