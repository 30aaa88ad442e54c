//! Tools of the end-to-end tests: real sidecars as processes, hostile back-ends, clients, and real programs.
//!
//! Deliberately absent: fakes. Every server here listens on a real socket.

pub(crate) mod application;
pub(crate) mod backend;
pub(crate) mod capture;
pub(crate) mod certs;
pub(crate) mod cgroup;
pub(crate) mod consul;
pub(crate) mod curl;
pub(crate) mod http2;
pub(crate) mod launched;
pub(crate) mod load;
pub(crate) mod manager;
pub(crate) mod metrics;
pub(crate) mod namespace;
pub(crate) mod nginx;
pub(crate) mod place;
pub(crate) mod pod;
pub(crate) mod program;
pub(crate) mod recorder;
pub(crate) mod rules;
pub(crate) mod servers;
pub(crate) mod sidecar;
pub(crate) mod systemd;
pub(crate) mod tmux;
pub(crate) mod tools;
pub(crate) mod volume;
pub(crate) mod wire;

use std::ops::AsyncFnMut;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// The time limit of every wait. It is long, because a busy machine is not a fault of the proxy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Repeats `probe` until it returns a value.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits for an event that must come.
pub(crate) async fn soon<F: Future>(what: &str, event: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(output) => output,
        Err(_elapsed) => unreachable!("{what}: not within {PATIENCE:?}"),
    }
}

/// The directory of one test, removed with it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("pillion-e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("the test's directory can be written");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
