//! systemd as a service sees it: the socket that hears how the service is doing.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use super::{Scratch, eventually};

/// A service manager: the socket of `NOTIFY_SOCKET`.
pub(crate) struct Manager {
    socket: UnixDatagram,
    pub(crate) path: PathBuf,
    _scratch: Scratch,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new();
        let path = scratch.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a free name");
        socket.set_nonblocking(true).expect("a socket");
        Self { socket, path, _scratch: scratch }
    }

    /// The next message other than the watchdog's.
    pub(crate) async fn hears(&self) -> String {
        self.next(|message| message != "WATCHDOG=1").await
    }

    pub(crate) async fn next(&self, wanted: impl Fn(&str) -> bool) -> String {
        eventually("a message to the service manager", async || {
            let mut bytes = [0; 2048];
            let length = self.socket.recv(&mut bytes).ok()?;
            let message = String::from_utf8_lossy(&bytes[..length]).into_owned();
            wanted(&message).then_some(message)
        })
        .await
    }

    /// Whether every message was heard.
    pub(crate) fn is_silent(&self) -> bool {
        self.socket.recv(&mut [0]).is_err()
    }
}
