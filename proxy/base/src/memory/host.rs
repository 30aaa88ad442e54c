//! How much memory the process may take: the memory of the host, or the limit of its cgroup if that is lower.

use std::fs;
use std::path::{Path, PathBuf};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Bytes of memory that the process may take. `u64::MAX` when neither the host nor a cgroup states a number.
pub fn available() -> u64 {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let membership = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = limit_files(&membership);
    let of_cgroups = limits.iter().filter_map(|path| read(path)?.trim().parse().ok());
    let of_host = read(Path::new("/proc/meminfo")).and_then(|text| total(&text));
    of_cgroups.chain(of_host).min().unwrap_or(u64::MAX)
}

/// The files that limit the memory of a process whose `/proc/self/cgroup` reads `membership`, for both versions of
/// cgroups. Inside a container that path may be the host's, while the limit stands at the root of the mounted file
/// system. So the list has the group itself and every group around it, up to the root.
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
    fn the_memory_limit_is_looked_for_in_the_cgroup_of_the_process_and_in_every_group_around_it() {
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
