//! The cgroups of the process, of both versions: which of them limits its memory, and how much of that is used.
//!
//! Pure but for [`Group::read`]: the files of `/proc` come as texts.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// The version of a hierarchy of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// A cgroup that the process belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub version: Version,
    pub folder: PathBuf,
    /// It is the process's own group, and none around it.
    is_own: bool,
}

/// Version 1 writes the largest number of pages where there is no limit, and no machine has an exbibyte of memory.
const UNLIMITED: u64 = 1 << 60;

/// What `/proc/self/mountinfo` says of one mounted hierarchy that can limit memory.
struct Mount {
    version: Version,
    /// The group that is seen at `point`. Inside a container that may be the container's own.
    root: PathBuf,
    point: PathBuf,
}

/// The groups of a process whose `/proc/self/cgroup` is `membership`, from its own to the outermost that can be seen.
/// Where both versions are mounted, those of version 1 come first: a controller is in one hierarchy alone, and files
/// that a group does not have are passed over when they are read.
pub fn groups(membership: &str, mountinfo: &str) -> Vec<Group> {
    let mounts: Vec<_> = mountinfo.lines().filter_map(mount).collect();
    [Version::V1, Version::V2]
        .into_iter()
        .flat_map(|version| groups_of(version, membership, &mounts))
        .collect()
}

fn groups_of(version: Version, membership: &str, mounts: &[Mount]) -> Vec<Group> {
    let own = membership.lines().find_map(|line| path_of(version, line));
    let mount = mounts.iter().find(|mount| mount.version == version);
    let (Some(own), Some(mount)) = (own, mount) else { return Vec::new() };
    let inside = Path::new(own).strip_prefix(&mount.root).ok();
    // Outside of a cgroup namespace's root the path begins with `..`, and nothing of it can be seen.
    let is_seen = |inside: &&Path| inside.components().all(|part| matches!(part, Component::Normal(_)));
    let inside = inside.filter(is_seen).unwrap_or_else(|| Path::new(""));
    let group = |group: &Path| Group { version, folder: mount.point.join(group), is_own: group == inside };
    inside.ancestors().map(group).collect()
}

/// The path in a line of `/proc/self/cgroup`, if the line is of this version and its hierarchy limits memory.
fn path_of(version: Version, line: &str) -> Option<&str> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let fits = match version {
        Version::V1 => controllers.split(',').any(|controller| controller == "memory"),
        Version::V2 => controllers.is_empty(),
    };
    fits.then_some(path)
}

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)): `ID PARENT DEVICE ROOT POINT OPTIONS [FIELDS] - TYPE SOURCE
/// SUPER-OPTIONS`.
fn mount(line: &str) -> Option<Mount> {
    let (of_mount, of_file_system) = line.split_once(" - ")?;
    let mut words = of_file_system.split(' ');
    let (kind, options) = (words.next()?, words.nth(1)?);
    let version = match kind {
        "cgroup2" => Version::V2,
        "cgroup" if options.split(',').any(|option| option == "memory") => Version::V1,
        _ => return None,
    };
    let mut words = of_mount.split(' ').skip(3);
    let (root, point) = (words.next()?, words.next()?);
    Some(Mount { version, root: unescaped(root).into(), point: unescaped(point).into() })
}

/// The text of a path in which the kernel has written spaces, tabs, line ends and backslashes in octal (`\040`).
fn unescaped(path: &str) -> String {
    let mut parts = path.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(3).unwrap_or_default();
        match u8::from_str_radix(code, 8) {
            Ok(code) => {
                text.push(char::from(code));
                text.push_str(rest);
            }
            Err(_not_octal) => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

impl Group {
    /// The limit of this group itself. `None`: it has none, or its files cannot be read.
    pub fn limit(&self) -> Option<u64> {
        let file = match self.version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        };
        limit(&self.read(file)?)
    }

    /// The memory that the group holds and that the kernel cannot simply take back. `None`: its files cannot be read.
    pub fn used(&self) -> Option<u64> {
        let file = match self.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        used(self.version, &self.read(file)?, &self.read("memory.stat")?)
    }

    /// Whether all that the group holds is this program's. Of an application in the same group, which may fill it by
    /// design, nothing could be shed.
    pub fn is_of_this_program(&self) -> bool {
        let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        let own = std::process::id();
        let is_same = |pid| pid == own || name(pid).is_some_and(|other| Some(other) == name(own));
        self.is_own && self.read("cgroup.procs").is_some_and(|procs| are_all(&procs, own, is_same))
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(file)).ok()
    }
}

/// Whether the processes in a `cgroup.procs` are the process `own` and such as `is_same`: its successor, or a probe that
/// asks it. A process outside of the namespace of the reader stands there as 0.
fn are_all(procs: &str, own: u32, is_same: impl Fn(u32) -> bool) -> bool {
    let pids = || procs.lines().map(|line| line.trim().parse().unwrap_or(0));
    pids().any(|pid| pid == own) && pids().all(is_same)
}

/// The number in a file with a limit. `max` is no limit.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < UNLIMITED)
}

fn used(version: Version, all: &str, stat: &str) -> Option<u64> {
    let all: u64 = all.trim().parse().ok()?;
    Some(all.saturating_sub(reclaimable(version, stat)))
}

/// Bytes of pages that equal their files: the kernel takes these before it ends a process. `memory.stat` of version 1 has
/// them for the group alone and, with `total_` before the name, for the groups inside of it, too.
fn reclaimable(version: Version, stat: &str) -> u64 {
    let names = match version {
        Version::V1 => ["total_inactive_file", "total_active_file"],
        Version::V2 => ["inactive_file", "active_file"],
    };
    let sizes = stat.lines().filter_map(|line| {
        let (name, size) = line.split_once(' ')?;
        names.contains(&name).then(|| size.trim().parse::<u64>().ok())?
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PURE_V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
    const V1: &str = "31 23 0:28 / /sys/fs/cgroup ro,relatime - tmpfs tmpfs ro,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:12 - cgroup cgroup rw,memory\n";
    const UNIFIED: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    fn folders(membership: &str, mountinfo: &str) -> Vec<String> {
        groups(membership, mountinfo).into_iter().map(|group| group.folder.display().to_string()).collect()
    }

    #[test]
    fn the_groups_of_a_process_are_its_own_and_every_one_around_it() {
        let own = "0::/kubepods.slice/pod1.slice/cri-2.scope\n";
        let expected = [
            "/sys/fs/cgroup/kubepods.slice/pod1.slice/cri-2.scope",
            "/sys/fs/cgroup/kubepods.slice/pod1.slice",
            "/sys/fs/cgroup/kubepods.slice",
            "/sys/fs/cgroup/",
        ];
        assert_eq!(folders(own, PURE_V2), expected);
        let own = "5:cpu,cpuacct:/a\n4:memory:/a/b\n1:name=systemd:/c\n";
        let expected = ["/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory/"];
        assert_eq!(folders(own, V1), expected);
    }

    #[test]
    fn a_hybrid_machine_has_the_controller_of_memory_in_version_1_first() {
        let own = "4:memory:/a\n0::/session\n";
        let found = groups(own, &(V1.to_owned() + UNIFIED));
        let versions: Vec<_> = found.iter().map(|group| group.version).collect();
        assert_eq!(versions, [Version::V1, Version::V1, Version::V2, Version::V2]);
        assert_eq!(found[2].folder, Path::new("/sys/fs/cgroup/unified/session"));
    }

    #[test]
    fn inside_a_container_the_groups_are_found_with_and_without_a_namespace_of_cgroups() {
        // a namespace: both texts begin at its root
        assert_eq!(folders("0::/\n", PURE_V2), ["/sys/fs/cgroup/"]);
        // without one, the host's path, of which the container's own part is mounted
        let mounted = V1.replace("0:32 / ", "0:32 /docker/abc ");
        assert_eq!(folders("4:memory:/docker/abc\n", &mounted), ["/sys/fs/cgroup/memory/"]);
        let inner = ["/sys/fs/cgroup/memory/x", "/sys/fs/cgroup/memory/"];
        assert_eq!(folders("4:memory:/docker/abc/x\n", &mounted), inner);
        // a group that cannot be seen from here
        assert_eq!(folders("0::/../sibling\n", PURE_V2), ["/sys/fs/cgroup/"]);
        assert_eq!(folders("4:memory:/docker/other\n", &mounted), ["/sys/fs/cgroup/memory/"]);
    }

    #[test]
    fn a_process_without_a_mounted_hierarchy_or_with_a_strange_text_has_no_groups() {
        let nothing = Vec::<String>::new();
        assert_eq!(folders("0::/a\n", ""), nothing);
        assert_eq!(folders("0::/a\n", "1 2 3 - cgroup2\n- -\n"), nothing);
        assert_eq!(folders("nonsense\n7:cpu:/\n", V1), nothing);
    }

    #[test]
    fn the_path_of_a_mount_may_have_spaces() {
        let mounts = r"1 2 0:3 / /my\040cgroups\134x rw - cgroup2 none rw";
        assert_eq!(folders("0::/a\n", mounts), [r"/my cgroups\x/a", r"/my cgroups\x/"]);
        assert_eq!(unescaped(r"a\zz\04"), r"a\zz\04");
    }

    #[test]
    fn no_limit_is_written_in_another_way_by_each_version() {
        assert_eq!(limit("67108864\n"), Some(64 << 20));
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
    }

    #[test]
    fn a_group_that_an_application_shares_is_not_of_this_program() {
        let of = |procs| are_all(procs, 7, |pid| matches!(pid, 7 | 9));
        assert!(of("7\n") && of("9\n7\n"));
        assert!(!of("7\n12\n") && !of("7\n0\n") && !of("9\n") && !of("") && !of("7\nnonsense\n"));
        let is_own = |group: Group| group.is_own;
        let own = groups("4:memory:/a/b\n0::/\n", &(V1.to_owned() + UNIFIED));
        assert_eq!(own.into_iter().map(is_own).collect::<Vec<_>>(), [true, false, false, true]);
    }

    #[test]
    fn pages_of_files_are_reclaimable_and_nothing_else() {
        let v2 = "anon 1000\nfile 900\nshmem 100\ninactive_file 300\nactive_file 500\nslab_reclaimable 7\n";
        assert_eq!(reclaimable(Version::V2, v2), 800);
        let v1 =
            "inactive_file 1\nactive_file 2\ntotal_rss 9\ntotal_inactive_file 30\ntotal_active_file 50\n";
        assert_eq!(reclaimable(Version::V1, v1), 80);
        assert_eq!(reclaimable(Version::V2, "inactive_file much\nnonsense\n"), 0);
        assert_eq!(used(Version::V2, "1000\n", v2), Some(200));
        assert_eq!(used(Version::V2, "700\n", v2), Some(0), "the two files are not of the same moment");
        assert_eq!(used(Version::V1, "much\n", v1), None);
    }

    proptest! {
        #[test]
        fn no_text_of_proc_is_beyond_the_reader(membership in ".*", mountinfo in "(?s).*", path in r"[/\\0-9a-z]*") {
            drop(groups(&membership, &mountinfo));
            drop(groups(&format!("0::{path}"), &format!("1 2 3:4 {path} {path} rw - cgroup2 {path} {path}")));
            drop(unescaped(&path));
        }
    }
}
