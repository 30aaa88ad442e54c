//! A recorder in front of a real server: it passes bytes on unchanged, and records them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::backend::Task;
use super::eventually;

/// Listens at [`Self::address`] for the server behind it.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    tape: Arc<Tape>,
    _task: Task,
}

/// The bytes of all connections so far.
#[derive(Default)]
struct Tape {
    requests: Mutex<Vec<u8>>,
    answers: Mutex<Vec<u8>>,
    open: AtomicUsize,
}

impl Recorder {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let tape = Arc::new(Tape::default());
        let shared = tape.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                shared.open.fetch_add(1, Relaxed);
                let tape = shared.clone();
                tokio::spawn(async move {
                    pass_on(client, server, &tape).await;
                    tape.open.fetch_sub(1, Relaxed);
                });
            }
        });
        Self { address, tape, _task: Task(task) }
    }

    /// The bytes for the server and the bytes from it since the last call, once every connection has ended.
    pub(crate) async fn taken(&self) -> (Vec<u8>, Vec<u8>) {
        let ended = async || (self.tape.open.load(Relaxed) == 0).then_some(());
        eventually("the server's connections have ended", ended).await;
        (std::mem::take(&mut *self.tape.requests.lock()), std::mem::take(&mut *self.tape.answers.lock()))
    }
}

async fn pass_on(client: TcpStream, server: SocketAddr, tape: &Tape) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::join!(
        copy(from_client, to_server, &tape.requests),
        copy(from_server, to_client, &tape.answers), // ends when the server closes
    );
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, notes: &Mutex<Vec<u8>>) {
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        notes.lock().extend_from_slice(&piece[..count]);
        if to.write_all(&piece[..count]).await.is_err() {
            break;
        }
    }
    drop(to.shutdown().await); // the other end may be gone
}
