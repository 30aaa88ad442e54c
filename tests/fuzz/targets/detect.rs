//! What nginx, Node, Python or Go would read as a request is never opaque; and what a prefix has decided, more bytes do
//! not change.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_sidecar::detect::bytes::{Reader, LooksLike};
use pillion_testkit::lenient::SERVERS;

/// `limits.header_bytes`, made small so that short inputs reach it.
const MOST: usize = 256;

fuzz_target!(|all: &[u8]| {
    let mut reader = Reader::new(MOST);
    let mut decided = None;
    for end in 1..=all.len() {
        let found = reader.look(&all[..end]);
        assert!(decided.is_none() || found == decided, "more bytes changed {decided:?} to {found:?}");
        decided = found;
    }
    assert_eq!(decided, Reader::new(MOST).look(all), "bytes in drops are judged as bytes at once");
    if SERVERS.iter().any(|(_, reads)| reads(all)) {
        assert_ne!(decided, Some(LooksLike::Opaque));
        assert_ne!(Reader::new(MOST).look_at_all(all), LooksLike::Opaque);
    }
});
