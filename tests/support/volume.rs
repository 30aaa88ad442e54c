//! Sends many bytes through a sidecar, and measures the memory that this costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::sidecar::own_kib;

const PIECE: usize = 64 * 1024;

/// Bytes that repeat nowhere: a piece lost, doubled or swapped changes the hash.
///
/// Writes `size` of them, and returns their hash.
pub(crate) async fn write_pattern(to: &mut (impl AsyncWrite + Unpin), size: u64) -> String {
    let (mut random, mut hash) = (fastrand::Rng::with_seed(1), Context::new(&SHA256));
    let mut piece = vec![0; PIECE];
    for _ in 0..size / PIECE as u64 {
        random.fill(&mut piece);
        hash.update(&piece);
        to.write_all(&piece).await.expect("the other end reads");
    }
    hex(hash)
}

/// Reads to the end, and returns the hash of what came.
pub(crate) async fn read_hash(from: &mut (impl AsyncRead + Unpin)) -> String {
    let mut hash = Context::new(&SHA256);
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece).await.expect("an end, not a reset") {
            0 => return hex(hash),
            read => hash.update(&piece[..read]),
        }
    }
}

fn hex(hash: Context) -> String {
    hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The peak memory of a process while this value lives.
pub(crate) struct Peak {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    before: u64,
}

impl Peak {
    pub(crate) fn watch(pid: u32) -> Self {
        let before = own_kib(pid);
        let (most, stop) = (Arc::new(AtomicU64::new(before)), Arc::new(AtomicBool::new(false)));
        let (seen, over) = (most.clone(), stop.clone());
        std::thread::spawn(move || {
            while !over.load(Relaxed) {
                seen.fetch_max(own_kib(pid), Relaxed);
                std::thread::sleep(Duration::from_millis(20)); // between two samples
            }
        });
        Self { most, stop, before }
    }

    pub(crate) fn growth_kib(&self) -> u64 {
        self.stop.store(true, Relaxed);
        self.most.load(Relaxed) - self.before
    }
}
