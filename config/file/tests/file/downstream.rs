//! `drain` and `limits`.

use std::time::Duration;

use pillion_model::Config;
use pillion_model::listener::{DownstreamLimits, Drain, MaxMemory};

use crate::{bad, good, messages, warnings};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_drain_timeout_below_the_delay_is_a_fault_at_the_key_that_is_written() {
    for (source, expected) in [
        ("drain: { delay: 5s, timeout: 4s }", "1:30 drain.timeout is 4s, below `delay` (5s)"),
        ("drain: { delay: 30s }", "1:17 drain.delay is 30s, above `timeout` (25s)"),
        ("drain: { timeout: off }", "1:19 drain.timeout is `off`, which is not a duration"),
        (
            "drain: { delay: on }",
            "1:17 drain.delay is `on` where only `off` or a duration (250ms, 15s, 1h) makes sense",
        ),
        ("drain: off", "1:8 drain must be a block of keys, not `off`"),
    ] {
        assert_eq!(messages(source), [expected], "{source}");
    }
}

#[test]
fn a_limit_that_is_out_of_range_is_a_fault() {
    for limit in [
        "header_bytes: 8191",
        "header_bytes: 1048577",
        "header_bytes: 0",
        "header_count: 0",
        "header_count: 1001",
        "response_header_count: 0",
        "response_header_count: 1001",
        "via_passes: 0",
        "via_passes: 101",
        "header_timeout: off",
        "idle_timeout: 0s",
        "idle_timeout: off",
        "max_memory: on",
        "max_memory: much",
        "max_memory: 0",
        "max_memory: 16777215",
    ] {
        let source = format!("limits: {{ {limit} }}");
        let errors = bad(&source);
        let key = limit.split(':').next().unwrap();
        assert_eq!(errors.faults.len(), 1, "{errors}");
        assert_eq!(errors.faults[0].path, format!("limits.{key}"), "{errors}");
    }
}

#[test]
fn a_memory_limit_is_auto_off_or_a_size() {
    for (written, expected) in [
        ("auto", MaxMemory::Auto),
        ("off", MaxMemory::Off),
        ("16MiB", MaxMemory::Bytes(16 << 20)),
        ("1GiB", MaxMemory::Bytes(1 << 30)),
    ] {
        let source = format!("limits: {{ max_memory: {written} }}");
        assert_eq!(good(&source).limits.max_memory, expected);
        assert_eq!(warnings(&source), [], "{source}");
    }
}

#[test]
fn drain_and_limits_have_the_defaults_of_the_public_interface() {
    let written = "drain: { delay: 5s, timeout: 25s }\nlimits: { max_memory: auto, header_bytes: 64KiB, header_count: 100, \
                   response_header_count: 200, header_timeout: 10s, idle_timeout: 1h, via_passes: 4 }";
    for source in ["{}", "drain: {}\nlimits: {}", "drain:\nlimits:\n", written] {
        assert_eq!(good(source), Config::default(), "{source}");
    }
}

#[test]
fn drain_and_limits_are_read_as_written() {
    assert_eq!(good("drain: { delay: 1s, timeout: 1s }").drain, Drain { delay: SECOND, timeout: SECOND });
    for nothing in ["off", "0s", "0ms"] {
        assert_eq!(good(&format!("drain: {{ delay: {nothing} }}")).drain.delay, Duration::ZERO);
    }
    let hasty = Drain { delay: SECOND, timeout: SECOND };
    assert_eq!(
        good("drain: { timeout: 1s }").drain,
        hasty,
        "the default of the delay is at most the timeout"
    );
    let source = "limits: { header_bytes: 8KiB, header_count: 1000, response_header_count: 300, header_timeout: 1s, idle_timeout: 2s, via_passes: 100 }";
    assert_eq!(
        good(source).limits,
        DownstreamLimits {
            max_memory: MaxMemory::Auto,
            header_bytes: 8192,
            header_count: 1000,
            response_header_count: 300,
            header_timeout: SECOND,
            idle_timeout: 2 * SECOND,
            via_passes: 100,
        }
    );
    assert_eq!(good("limits: { header_bytes: 1MiB }").limits.header_bytes, 1 << 20);
}
