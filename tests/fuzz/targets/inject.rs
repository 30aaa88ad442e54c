//! Manifests for `pillion inject`: no text causes a panic, and a second run changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_inject::{Options, inject};

fuzz_target!(|text: &str| {
    let options = Options { all: true, image: "pillion:1".to_owned() };
    if let Ok(injected) = inject("fuzz", text, &options) {
        match inject("fuzz", &injected.text, &options) {
            Ok(again) => assert_eq!(again.text, injected.text),
            Err(faults) => unreachable!("{faults}"),
        }
    }
});
