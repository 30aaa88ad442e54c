//! The configuration file: every text is a configuration or a list of faults, and each fault can be displayed.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    if let Err(errors) = pillion_config::parse(source, Path::new("")) {
        assert!(!errors.to_string().is_empty());
    }
});
