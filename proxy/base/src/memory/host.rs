//! How much memory the process may take: what the host has, or what its cgroup leaves.

use std::fs;
use std::path::{Path, PathBuf};

const CGROUPS: &str = "/sys/fs/cgroup";

/// In bytes. `u64::MAX` where nothing says a number.
pub fn available() -> u64 {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let membership = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = limit_files(&membership);
    let of_cgroups = limits.iter().filter_map(|path| read(path)?.trim().parse().ok());
    let of_host = read(Path::new("/proc/meminfo")).and_then(|text| total(&text));
    of_cgroups.chain(of_host).min().unwrap_or(u64::MAX)
}

/// The files that limit a process whose `/proc/self/cgroup` says `membership`, of cgroup's both versions. Inside a
/// container the path may be the host's, and the limit stands at the root of what is mounted: so each group is looked for, and
/// all that are around it, up to the root.
fn limit_files(membership: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (PathBuf::from(CGROUPS), "memory.max"),
            list if list.split(',').any(|controller| controller == "memory") => {
                (Path::new(CGROUPS).join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let inside = Path::new(group.trim_start_matches('/'));
        files.extend(inside.ancestors().map(|group| root.join(group).join(file)));
    }
    files
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_looked_for_in_the_group_of_the_process_and_around_it() {
        let paths = |membership| {
            let files = limit_files(membership);
            files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            paths("0::/pods/web\n"),
            [
                "/sys/fs/cgroup/pods/web/memory.max",
                "/sys/fs/cgroup/pods/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            paths("5:cpu,cpuacct:/a\n4:memory:/a\n"),
            ["/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert_eq!(paths("nonsense\n7:cpu:/\n"), Vec::<String>::new());
    }

    #[test]
    fn the_memory_of_the_host_is_read_in_kilobytes() {
        assert_eq!(total("MemTotal:       24684216 kB\nMemFree: 1 kB\n"), Some(24_684_216 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
    }
}
