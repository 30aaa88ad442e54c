//! The metrics of other programs: every text is an exposition or refused, and what is written of it is one again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_telemetry::Format;
use pillion_telemetry::text::{Bounds, read, write};

const BOUNDS: Bounds = Bounds { families: 100, samples: 1000, labels: 64 };

fuzz_target!(|source: &[u8]| {
    for format in Format::ALL {
        let Ok(families) = read(source, format, BOUNDS) else { continue };
        for (written, end) in [(Format::Text, ""), (Format::OpenMetrics, "# EOF\n")] {
            let mut text = String::new();
            write(families.iter(), written, &mut text);
            text.push_str(end);
            assert!(read(text.as_bytes(), written, Bounds::NONE).is_ok(), "{text}");
        }
    }
});
