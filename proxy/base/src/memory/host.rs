//! How much memory the process may take: the memory of the host, or the limit of a cgroup if that is lower.

use std::fs;

use pillion_model::listener::MaxMemory;

use super::cgroup::{Group, groups};

/// Bytes of memory that the process may take. `u64::MAX` when neither the host nor a cgroup states a number.
pub fn available() -> u64 {
    let of_cgroups = own_groups().into_iter().filter_map(|group| group.limit());
    let of_host = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    of_cgroups.chain(of_host).min().unwrap_or(u64::MAX)
}

/// A limit of memory, and what counts against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    pub bytes: u64,
    pub counts: Counts,
}

/// What counts against a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counts {
    /// All that a cgroup holds, sockets included: by this the kernel ends a process.
    Group(Group),
    /// The process's own memory: where a size is written, and in a cgroup with other programs.
    Own,
}

/// The limit that `max` means for this process. A size is above what a cgroup allows only by mistake, so then the cgroup
/// counts.
pub fn limit(max: MaxMemory) -> Option<MemoryLimit> {
    let of_cgroup = || {
        let limits = own_groups().into_iter().filter_map(|group| Some((share(group.limit()?), group)));
        let (bytes, group) = limits.min_by_key(|(bytes, _)| *bytes)?;
        let counts = if group.is_of_this_program() { Counts::Group(group) } else { Counts::Own };
        Some(MemoryLimit { bytes, counts })
    };
    match max {
        MaxMemory::Off => None,
        MaxMemory::Auto => of_cgroup(),
        MaxMemory::Bytes(bytes) => {
            of_cgroup().filter(|of| of.bytes < bytes).or(Some(MemoryLimit { bytes, counts: Counts::Own }))
        }
    }
}

/// 90 % of the limit of a cgroup. The rest is for what comes between two looks.
pub const fn share(of_cgroup: u64) -> u64 {
    of_cgroup / 10 * 9
}

/// The bytes that count against the limit. `None`: the kernel does not tell.
pub fn used(of: &MemoryLimit) -> Option<u64> {
    match &of.counts {
        Counts::Group(group) => group.used(),
        Counts::Own => kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:"),
    }
}

fn own_groups() -> Vec<Group> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    groups(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    kilobytes(meminfo, "MemTotal:")
}

/// The size in a line of `/proc`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_host_is_read_in_kilobytes() {
        assert_eq!(total("MemTotal:       24684216 kB\nMemFree: 1 kB\n"), Some(24_684_216 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn the_memory_of_this_process_is_known() {
        let (small, large) = (limit(MaxMemory::Bytes(1)), limit(MaxMemory::Bytes(u64::MAX)));
        assert_eq!(small, Some(MemoryLimit { bytes: 1, counts: Counts::Own }));
        assert!(used(&small.expect("a limit")).is_some_and(|bytes| bytes > 64 * 1024));
        let of_cgroup = limit(MaxMemory::Auto);
        assert!(of_cgroup.is_none_or(|of_cgroup| large == Some(of_cgroup)));
        assert!(limit(MaxMemory::Off).is_none() && available() > 0);
    }
}
