//! The listeners of one thread, as the controller tells of them: opened, and closed by their ids.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};

/// What the controller tells; `P` is a bound address with its id.
pub(crate) enum Command<P> {
    Open(Vec<P>),
    /// By their ids. Connections that were accepted live on.
    Close(Vec<u64>),
}

/// Obeys until the process ends. What `open` starts ends with the other half of its receiver.
pub(crate) async fn obey<P>(
    mut commands: mpsc::Receiver<Command<P>>,
    id: impl Fn(&P) -> u64,
    open: impl Fn(P, oneshot::Receiver<()>),
) {
    let mut opened: HashMap<u64, oneshot::Sender<()>> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Open(ports) => {
                for port in ports {
                    let (close, closed) = oneshot::channel();
                    opened.insert(id(&port), close);
                    open(port, closed);
                }
            }
            Command::Close(ids) => ids.iter().for_each(|id| drop(opened.remove(id))),
        }
    }
    std::future::pending::<()>().await;
}
