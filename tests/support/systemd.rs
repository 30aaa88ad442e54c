//! A systemd of the test's own, with the unit that is shipped and the binary of this build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::launched::binary;
use super::program::Program;
use super::tools::{available, run};
use super::{PATIENCE, Scratch};

/// A target that asks for nothing else.
const BEGIN: &str = "[Unit]\nDescription=the begin of a test\nDefaultDependencies=no\n";

pub(crate) struct Systemd {
    scratch: Scratch,
    cgroup: PathBuf,
    /// Process 1, as this host numbers it.
    pid: u32,
    running: Option<Program>,
}

impl Systemd {
    /// `None`: the test is skipped, because this needs systemd, root, and a kernel that allows such namespaces.
    pub(crate) async fn start(unit: &Path, config: &str) -> Option<Self> {
        let made = Self::make(unit, config).await;
        let what = "root that may run systemd in namespaces, with a cgroup hierarchy of version 2";
        available(what, made.is_some()).then_some(made).flatten()
    }

    async fn make(unit: &Path, config: &str) -> Option<Self> {
        let scratch = Scratch::new();
        for folder in ["units/pillion.service.d", "etc", "mnt"] {
            fs::create_dir_all(scratch.path().join(folder)).ok()?;
        }
        fs::copy(unit, scratch.path().join("units/pillion.service")).ok()?;
        scratch.write("units/begin.target", BEGIN);
        scratch.write("etc/pillion.yaml", config);
        let cgroup = new_cgroup()?;
        let mut command =
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/systemd.sh"));
        command.arg(scratch.path()).arg(binary()).arg(&cgroup);
        let running = Program::start(command);
        let mut made = Self { scratch, cgroup, pid: 0, running: Some(running) };
        made.begins().await.then_some(made)
    }

    /// Whether it has begun within the time limit. Where it has not, what it said is printed.
    async fn begins(&mut self) -> bool {
        let begun = timeout(PATIENCE, async {
            loop {
                match self.has_begun().await {
                    Some(begun) => return begun,
                    None => sleep(Duration::from_millis(2)).await,
                }
            }
        });
        let begun = begun.await.unwrap_or(false);
        if let (false, Some(running)) = (begun, &self.running) {
            println!("systemd has not begun: {}", running.errors());
        }
        begun
    }

    /// Whether it has begun, or has ended instead. `None`: neither yet.
    async fn has_begun(&mut self) -> Option<bool> {
        let running = self.running.as_mut()?;
        if running.exited().is_some() {
            return Some(false);
        }
        let outer = running.pid();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
        self.pid = children.trim().parse().ok()?;
        // Until then it is a script that sees the host's files, and would ask the host's systemd.
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).ok()?;
        if name.trim() != "systemd" {
            return None;
        }
        let state = self.inside(&["systemctl", "is-system-running"]).await;
        let state = String::from_utf8_lossy(&state.stdout).into_owned();
        ["running", "degraded"].contains(&state.trim()).then_some(true)
    }

    async fn inside(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--mount", "--uts", "--ipc", "--pid", "--cgroup"]);
        command.args(["--root", "--wd"]).args(words);
        run(command).await
    }

    /// What systemctl prints. It must succeed.
    pub(crate) async fn systemctl(&self, words: &[&str]) -> String {
        let output = self.inside(&[&["systemctl", "--no-pager"], words].concat()).await;
        let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?}: {said}{why}\n{}", self.journal().await);
        said.trim().to_owned()
    }

    /// What the service and systemd have logged of it.
    pub(crate) async fn journal(&self) -> String {
        let output = self.inside(&["journalctl", "--no-pager", "--unit", "pillion"]).await;
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A property of the service.
    pub(crate) async fn property(&self, name: &str) -> String {
        self.systemctl(&["show", "--value", "--property", name, "pillion"]).await
    }

    /// Whether a command of the shell succeeds on this host.
    pub(crate) async fn shell(&self, command: &str) -> bool {
        self.inside(&["sh", "-c", command]).await.status.success()
    }

    /// Whether there is a process with this number, which systemd knows.
    pub(crate) async fn has_process(&self, pid: &str) -> bool {
        self.inside(&["test", "-d", &format!("/proc/{pid}")]).await.status.success()
    }

    pub(crate) fn configure(&self, config: &str) {
        self.scratch.write("etc/pillion.yaml", config);
    }

    /// Changes the unit as an operator does, and starts the service again.
    pub(crate) async fn drop_in(&self, text: &str) {
        self.scratch.write("units/pillion.service.d/override.conf", text);
        self.systemctl(&["daemon-reload"]).await;
        self.systemctl(&["restart", "pillion"]).await;
    }
}

/// An empty group in the hierarchy of version 2, which may be beside those of version 1.
fn new_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let of_version_2 = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let root = of_version_2
        .filter(|words| words.get(2) == Some(&"cgroup2"))
        .find_map(|words| words.get(1).copied())?;
    let folder =
        Path::new(root).join(format!("pillion-systemd-{}-{:x}", std::process::id(), fastrand::u64(..)));
    fs::create_dir(&folder).ok()?;
    Some(folder)
}

/// Removes a group with those that systemd has made in it.
fn remove(group: &Path) {
    let inner = fs::read_dir(group).into_iter().flatten().flatten();
    inner.filter(|entry| entry.path().is_dir()).for_each(|entry| remove(&entry.path()));
    fs::remove_dir(group).ok();
}

impl Drop for Systemd {
    /// All processes end with process 1, and leave their groups a moment after that.
    fn drop(&mut self) {
        drop(self.running.take());
        for _ in 0..100 {
            remove(&self.cgroup);
            if !self.cgroup.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
