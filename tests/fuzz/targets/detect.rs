//! Bytes that nginx, Node, Python or Go would read as a request are never opaque, and more bytes do not change a
//! decision.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_sidecar::detect::bytes::{Reader, LooksLike};
use pillion_testkit::lenient::SERVERS;

/// `limits.header_bytes`, small enough that short inputs reach it.
const MOST: usize = 256;

fuzz_target!(|all: &[u8]| {
    let mut reader = Reader::new(MOST);
    let mut decided = None;
    for end in 1..=all.len() {
        let found = reader.look(&all[..end]);
        assert!(decided.is_none() || found == decided, "more bytes changed {decided:?} to {found:?}");
        decided = found;
    }
    assert_eq!(decided, Reader::new(MOST).look(all), "bytes in pieces are judged like bytes in one piece");
    if SERVERS.iter().any(|(_, reads)| reads(all)) {
        assert_ne!(decided, Some(LooksLike::Opaque));
        assert_ne!(Reader::new(MOST).look_at_all(all), LooksLike::Opaque);
    }
});
