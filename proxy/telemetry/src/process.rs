//! The `process_*` families that every Prometheus client exports, read from `/proc/self`.

use std::fs;
use std::path::Path;

use super::family::{About, Exposition, MetricKind};

/// Clock ticks in a second for `/proc`: the kernel's USER_HZ, which is 100 on every Linux architecture that Rust
/// supports.
const TICKS: f64 = 100.0;
const KIB: f64 = 1024.0;

/// What the process uses; `None` for values that the kernel does not report.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub open_descriptors: Option<u64>,
    pub max_descriptors: Option<u64>,
    pub threads: Option<u64>,
    pub cpu_seconds: Option<f64>,
}

/// Reads it from `/proc`. It takes longer the more descriptors are open.
pub fn usage() -> Usage {
    let [cpu_seconds, resident, virtual_, open, most, _, threads] = read(None);
    let whole = |value: Option<f64>| value.filter(|value| value.is_finite()).map(|value| value as u64);
    Usage {
        resident_bytes: whole(resident),
        virtual_bytes: whole(virtual_),
        open_descriptors: whole(open),
        max_descriptors: whole(most),
        threads: whole(threads),
        cpu_seconds,
    }
}

/// Adds the families. Their values are read for every exposition.
pub(super) fn tell(to: &Exposition) {
    // read once: the start time does not change, and reading `/proc/stat` is slow on machines with many cores
    let start = start_time();
    to.sampled(FAMILIES, move || read(start));
}

#[rustfmt::skip] // one table, read by columns
const FAMILIES: [(About, MetricKind); 7] = [
    (About { name: "process_cpu_seconds_total", help: "CPU time used, user and system." }, MetricKind::Counter),
    (About { name: "process_resident_memory_bytes", help: "Memory in RAM." }, MetricKind::Gauge),
    (About { name: "process_virtual_memory_bytes", help: "Address space in use." }, MetricKind::Gauge),
    (About { name: "process_open_fds", help: "Open file descriptors." }, MetricKind::Gauge),
    (About { name: "process_max_fds", help: "The maximum number of open file descriptors." }, MetricKind::Gauge),
    (About { name: "process_start_time_seconds", help: "When the process started, in seconds since 1970." }, MetricKind::Gauge),
    (About { name: "process_threads", help: "Threads of the process." }, MetricKind::Gauge),
];

/// CPU time, memory in RAM, open descriptors and threads of the process with this folder in `/proc`.
pub(super) fn application(folder: &Path) -> [Option<f64>; 4] {
    let [stat, status] =
        ["stat", "status"].map(|name| fs::read_to_string(folder.join(name)).unwrap_or_default());
    let open = fs::read_dir(folder.join("fd")).ok().and_then(|open| u32::try_from(open.count()).ok());
    [
        cpu_seconds(&stat),
        after(&status, "VmRSS:").map(|kib| kib * KIB),
        open.map(f64::from),
        after(&status, "Threads:"),
    ]
}

/// The values in the order of [`FAMILIES`]; `None` for values that the kernel does not report.
fn read(start: Option<f64>) -> [Option<f64>; 7] {
    let [stat, status, limits] = ["stat", "status", "limits"]
        .map(|name| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default());
    [
        cpu_seconds(&stat),
        after(&status, "VmRSS:").map(|kib| kib * KIB),
        after(&status, "VmSize:").map(|kib| kib * KIB),
        open_descriptors(),
        after(&limits, "Max open files"),
        start,
        after(&status, "Threads:"),
    ]
}

/// The number after `label` on its line. `unlimited` is infinity.
fn after(text: &str, label: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(label))?.split_whitespace().next()?;
    if value == "unlimited" { Some(f64::INFINITY) } else { value.parse().ok() }
}

/// Field `number` of `/proc/self/stat`, as proc(5) counts them, from 3 on: the fields after the name, which may contain
/// any character.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) / TICKS)
}

fn open_descriptors() -> Option<f64> {
    // counting opens one descriptor itself
    let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u32::try_from(open).ok().map(f64::from)
}

/// The soft limit of open file descriptors, at most the largest `u32`.
pub fn max_descriptors() -> Option<u32> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    Some(after(&limits, "Max open files")? as u32) // a float beyond it becomes the largest there is
}

fn start_time() -> Option<f64> {
    let boot = after(&fs::read_to_string("/proc/stat").ok()?, "btime ")?;
    let since_boot = field(&fs::read_to_string("/proc/self/stat").ok()?, 22)? / TICKS;
    Some(boot + since_boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 90 0 0 0 250 150 0 0 20 0 3 0 4200 1 2";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(field(stat, 22), Some(4200.0));
    }

    #[test]
    fn values_that_the_kernel_does_not_report_are_left_out() {
        for stat in ["", "7 (name", "7 (name) S", "7 (name) S x y"] {
            assert_eq!(cpu_seconds(stat), None, "{stat:?}");
        }
        assert_eq!(after("VmRSS:\n", "VmRSS:"), None);
        assert_eq!(
            after(
                "Max open files            unlimited            unlimited            files",
                "Max open files"
            ),
            Some(f64::INFINITY)
        );
    }

    #[test]
    fn this_process_has_memory_threads_and_a_start() {
        let values = read(start_time());
        for ((about, _), value) in FAMILIES.iter().zip(values) {
            assert!(value.is_some_and(|value| value >= 0.0), "{}: {value:?}", about.name);
        }
        assert!(values[1] > Some(0.0) && values[3] > Some(2.0) && values[5] > Some(1.6e9));
    }
}
