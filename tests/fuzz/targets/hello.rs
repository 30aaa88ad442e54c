//! A ClientHello: complete, in pieces and damaged. Reading it never panics, and a verdict never changes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_sidecar::detect::hello::{Read, read};

fuzz_target!(|records: &[u8]| {
    let whole = read(records);
    for end in (0..records.len()).step_by(1 + records.len() / 16) {
        let found = read(&records[..end]);
        assert!(found == Read::NeedMore || found == whole, "more bytes changed {found:?} to {whole:?}");
    }
});
