//! Sends many bytes through a sidecar, and measures the memory that this costs.

use std::fs;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::sidecar::{memory_kib, own_kib};

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

/// The peak memory of a process since a moment, as the kernel records it, so that no sample is missed.
pub(crate) struct Peak {
    pid: u32,
    before: u64,
}

impl Peak {
    pub(crate) fn watch(pid: u32) -> Self {
        // 5: the high-water mark starts again from now (proc(5)).
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("a process of our own");
        Self { pid, before: own_kib(pid) }
    }

    pub(crate) fn growth_kib(&self) -> u64 {
        let of_files = memory_kib(self.pid, "RssFile:");
        memory_kib(self.pid, "VmHWM:").saturating_sub(of_files + self.before)
    }
}
