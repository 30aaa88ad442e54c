//! A cgroup of the test's own that limits the memory of a program, of whichever version the machine has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::tools::available;

const ROOT: &str = "/sys/fs/cgroup";

/// Removed at the end of the test.
pub(crate) struct Cgroup {
    folder: PathBuf,
    is_v1: bool,
}

impl Cgroup {
    /// `None`: the test is skipped, because this needs root and a hierarchy that can be written.
    pub(crate) fn limited(bytes: u64) -> Option<Self> {
        let made = Self::make(bytes);
        let what = "root with a cgroup hierarchy that limits memory";
        available(what, made.is_some()).then_some(made).flatten()
    }

    fn make(bytes: u64) -> Option<Self> {
        let v1 = Path::new(ROOT).join("memory");
        let is_v1 = v1.is_dir();
        let root = if is_v1 { v1 } else { Path::new(ROOT).to_owned() };
        if !is_v1 {
            fs::write(root.join("cgroup.subtree_control"), "+memory").ok();
        }
        let name = format!("pillion-test-{}-{:x}", std::process::id(), fastrand::u64(..));
        let folder = root.join(name);
        fs::create_dir(&folder).ok()?;
        let made = Self { folder, is_v1 };
        let limit = if is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        let swap = if is_v1 { "memory.swappiness" } else { "memory.swap.max" };
        fs::write(made.folder.join(swap), "0").ok();
        fs::write(made.folder.join(limit), bytes.to_string()).ok()?;
        Some(made)
    }

    /// A prefix that runs the command in its arguments inside.
    pub(crate) fn prefix(&self) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.folder.join("cgroup.procs"));
        shell
    }

    /// How many processes the kernel has ended for want of memory.
    pub(crate) fn kills(&self) -> u64 {
        let text = self.read(if self.is_v1 { "memory.oom_control" } else { "memory.events" });
        number(&text, "oom_kill").unwrap_or(0)
    }

    /// Bytes that it holds without pages of files.
    pub(crate) fn held(&self) -> u64 {
        let (now, before) =
            if self.is_v1 { ("memory.usage_in_bytes", "total_") } else { ("memory.current", "") };
        let stat = self.read("memory.stat");
        let files = ["inactive_file", "active_file"].map(|name| number(&stat, &format!("{before}{name}")));
        let all: u64 = self.read(now).trim().parse().expect("a number");
        all.saturating_sub(files.into_iter().flatten().sum())
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).expect("a file of the cgroup")
    }
}

/// The number behind a name in a file of lines.
fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Drop for Cgroup {
    /// The last process leaves it a moment after it was ended.
    fn drop(&mut self) {
        for _ in 0..100 {
            match fs::remove_dir(&self.folder) {
                Ok(()) => return,
                Err(_busy) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}
