//! Back-ends that do exactly what a script says, with or without HTTP.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::mesh::{Mesh, at};
use super::peer::{Log, Message, Peer};
use pillion_base::net::memory::MemoryConnection;

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
pub(super) const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
/// For [`Mesh::http1`]: closes the connection instead of answering.
pub(super) const HANG_UP: &str = "";

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    open: AtomicUsize,
}

/// What came to a back-end.
pub(super) struct Backend {
    counts: Arc<Counts>,
    log: Log,
}

impl Mesh {
    /// Each connection runs `script`, which gets the number of connections before it.
    pub(super) fn scripted<F, Fut>(&self, address: &str, script: F) -> Backend
    where
        F: Fn(Peer, usize) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut listener = self.memory.bind(at(address)).expect("a free address");
        let (counts, log) = (Arc::<Counts>::default(), Log::default());
        let shared = (counts.clone(), log.clone());
        tokio::spawn(async move {
            while let Ok(MemoryConnection { io, .. }) = listener.accept().await {
                let nth = shared.0.connections.fetch_add(1, Relaxed);
                let open = Open::count(&shared.0);
                let playing = script(Peer::logging(io, shared.1.clone()), nth);
                tokio::spawn(async move {
                    playing.await;
                    drop(open);
                });
            }
        });
        Backend { counts, log }
    }

    /// HTTP/1 with keep-alive. `answer` gets the number of the request, counted over all connections.
    pub(super) fn http1<F>(&self, address: &str, answer: F) -> Backend
    where
        F: Fn(usize, &Message) -> &'static str + Send + Sync + 'static,
    {
        let (answer, asked) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        self.scripted(address, move |mut peer, _| {
            let (answer, asked) = (answer.clone(), asked.clone());
            async move {
                while let Some(request) = peer.message().await {
                    let answer = answer(asked.fetch_add(1, Relaxed), &request);
                    if answer == HANG_UP || peer.try_send(answer).await.is_err() {
                        return;
                    }
                }
            }
        })
    }

    pub(super) fn answering(&self, address: &str, answer: &'static str) -> Backend {
        self.http1(address, move |_, _| answer)
    }

    /// Reads requests and never answers one.
    pub(super) fn silent(&self, address: &str) -> Backend {
        self.scripted(address, |mut peer, _| async move { while peer.message().await.is_some() {} })
    }
}

impl Backend {
    /// The number of connections so far.
    pub(super) fn connections(&self) -> usize {
        self.counts.connections.load(Relaxed)
    }

    /// The number of connections whose script still runs.
    pub(super) fn open(&self) -> usize {
        self.counts.open.load(Relaxed)
    }

    pub(super) fn requests(&self) -> Vec<Message> {
        self.log.lock().clone()
    }

    pub(super) fn hits(&self) -> usize {
        self.log.lock().len()
    }
}

struct Open(Arc<Counts>);

impl Open {
    fn count(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Relaxed);
        Self(counts.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
