//! What the connections of one worker may hold together, counted in bytes.
//!
//! Each connection accounts for what it holds (today those of HTTP/2); whoever finds little left takes less.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Of all HTTP/2 connections of the process: a quarter of the smallest container that people give a sidecar.
const PROCESS: usize = 32 * 1024 * 1024;

/// One worker's share.
#[derive(Debug)]
pub struct Memory {
    held: AtomicUsize,
    most: usize,
}

impl Memory {
    /// The share of one of `workers`.
    pub fn of_one_in(workers: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), most: PROCESS / workers.max(1) })
    }

    /// Counts further `bytes`. Returns all that are held now, which may be more than [`Self::most`].
    pub fn hold(&self, bytes: usize) -> usize {
        self.held.fetch_add(bytes, Relaxed) + bytes
    }

    pub fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
    }

    /// Bytes that may be held further.
    pub fn free(&self) -> usize {
        self.most.saturating_sub(self.held.load(Relaxed))
    }

    /// Bytes that may be held together.
    pub const fn most(&self) -> usize {
        self.most
    }
}
