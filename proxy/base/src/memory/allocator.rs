//! Asks the allocator to give back to the kernel what it keeps for later.
//!
//! The executable chooses the allocator, so it says how this one is asked.

use std::sync::OnceLock;

static GIVES_BACK: OnceLock<fn()> = OnceLock::new();

/// Sets how the allocator is asked. Later calls do nothing.
pub fn set(gives_back: fn()) {
    GIVES_BACK.get_or_init(|| gives_back);
}

/// Does nothing where the allocator is not known.
pub fn give_back() {
    if let Some(gives_back) = GIVES_BACK.get() {
        gives_back();
    }
}
