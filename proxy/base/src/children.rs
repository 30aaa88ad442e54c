//! Children of this process. Each part of it waits for those that it has started. The parent of an application, and the
//! first process of a container, to which the kernel gives the orphans of all others, collect the rest as these end.
//!
//! A child is collected by one of both alone, so that neither takes its end away from the other.

use std::convert::Infallible;
use std::io;
use std::process::{Child, Command, ExitStatus};

use nix::errno::Errno;
use nix::sys::prctl::get_child_subreaper;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid};
use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// The children that a part of this process waits for.
static KEPT: Mutex<Vec<u32>> = Mutex::new(Vec::new());
/// Told after each change of [`KEPT`]: the end of a kept child may hide that of another one until it is collected.
static CHANGED: Notify = Notify::const_new();

/// A child that is waited for.
#[derive(Debug)]
pub struct Kept {
    child: Child,
    /// Whether it is in [`KEPT`]. Once it is collected, another process may have its number.
    is_kept: bool,
}

/// Starts a program.
///
/// # Errors
/// It cannot be started.
pub fn spawn(command: &mut Command) -> io::Result<Kept> {
    let start = |kept: &mut Vec<u32>| -> io::Result<Kept> {
        let child = command.spawn()?; // with the lock, so that its end is not collected before it is known here
        kept.push(child.id());
        Ok(Kept { child, is_kept: true })
    };
    change(start)
}

fn change<T>(change: impl FnOnce(&mut Vec<u32>) -> T) -> T {
    let changed = change(&mut KEPT.lock());
    CHANGED.notify_one();
    changed
}

impl Kept {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended. Its number belongs to no other process before the end is collected.
    pub fn has_ended(&self) -> bool {
        has_ended(self.id())
    }

    /// Collects its end. `None`: it runs.
    ///
    /// # Errors
    /// It is no child of this process, which cannot happen.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.is_kept && !self.has_ended() {
            return Ok(None);
        }
        let Self { child, is_kept } = self;
        change(|all| {
            let ended = child.try_wait(); // with the lock, so that no new child gets the number before it is let go
            if *is_kept && !matches!(ended, Ok(None)) {
                let_go(all, child.id());
                *is_kept = false;
            }
            ended
        })
    }

    /// Waits for its end, and collects it.
    ///
    /// # Errors
    /// It is no child of this process, which cannot happen.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        let id = number(self.id());
        while waitid(Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
        match self.try_wait()? {
            Some(status) => Ok(status),
            None => self.child.wait(),
        }
    }

    /// Collects its end on a thread of its own, and drops `held` after that. It must have been killed.
    pub fn collect_later(mut self, held: impl Send + 'static) {
        if !matches!(self.try_wait(), Ok(None)) {
            return;
        }
        let collecting = std::thread::Builder::new().name("collector".into());
        drop(collecting.spawn(move || drop((self.wait(), held))));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.is_kept {
            change(|all| let_go(all, self.child.id()));
        }
    }
}

/// Once: two children may have had the same number, one after the other.
fn let_go(all: &mut Vec<u32>, id: u32) {
    if let Some(nth) = all.iter().position(|kept| *kept == id) {
        all.swap_remove(nth);
    }
}

/// The children that no part of this process waits for.
#[derive(Debug)]
pub struct Others(Signal);

impl Others {
    /// # Errors
    /// The signal cannot be caught.
    pub fn watch() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::child())?))
    }

    /// Collects those that end. May be dropped and called again. At most one call waits at a time.
    pub async fn collect(&mut self) -> Infallible {
        loop {
            while collect_one() {}
            tokio::select! { // both ask for another look alone
                biased;
                Some(()) = self.0.recv() => {}
                () = CHANGED.notified() => {}
            }
        }
    }
}

/// Whether the kernel gives orphans to this process: the first one of a container, or one that was asked to take them.
#[must_use]
pub fn gets_orphans() -> bool {
    getpid().as_raw() == 1 || get_child_subreaper().unwrap_or(false)
}

/// Collects a child that has ended and that no part of this process waits for. Returns whether there was one.
fn collect_one() -> bool {
    let Some(kept) = KEPT.try_lock() else { return false }; // whoever has it tells of the change
    match look(Id::All) {
        Ok(seen) => {
            let ended = seen.pid().filter(|pid| kept.iter().all(|kept| number(*kept) != *pid));
            ended.is_some_and(|pid| waitpid(pid, Some(WaitPidFlag::WNOHANG)) != Err(Errno::ECHILD))
        }
        // it was ended by a real-time signal, which `nix` does not know, so that its number is not told
        Err(Errno::EINVAL) => {
            zombie(&kept).is_some_and(|pid| waitpid(pid, Some(WaitPidFlag::WNOHANG)) != Err(Errno::ECHILD))
        }
        Err(_no_child) => false,
    }
}

/// A child that has ended and is not kept, by the list of processes.
fn zombie(kept: &[u32]) -> Option<Pid> {
    let own = getpid().as_raw();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if is_zombie_of(&stat, own) && !kept.contains(&id) {
            return Some(number(id));
        }
    }
    None
}

/// Whether a `/proc/*/stat` is that of a child of `parent` that has ended. A name may have brackets and blanks.
fn is_zombie_of(stat: &str, parent: i32) -> bool {
    let Some((_, stat)) = stat.rsplit_once(')') else { return false };
    let mut words = stat.split_whitespace();
    words.next() == Some("Z") && words.next().and_then(|word| word.parse().ok()) == Some(parent)
}

/// An error is an end, too: that by a real-time signal.
fn has_ended(id: u32) -> bool {
    look(Id::Pid(number(id))) != Ok(WaitStatus::StillAlive)
}

/// Looks for an end, and collects nothing.
fn look(whom: Id<'_>) -> Result<WaitStatus, Errno> {
    waitid(whom, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT)
}

fn number(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    /// Held by each test that has children: what is kept, and all children, belong to the whole process.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_end_of_a_child_is_taken_by_whoever_waits_for_it_alone() {
        let _alone = ALONE.blocking_lock();
        let mut child = spawn(&mut shell("exit 3")).expect("sh");
        until(|| child.has_ended());
        while collect_one() {}
        assert!(child.has_ended(), "it is still there");
        assert_eq!(child.try_wait().expect("a child").and_then(|status| status.code()), Some(3));
    }

    #[test]
    fn a_child_that_nobody_waits_for_is_collected_whatever_has_ended_it() {
        let _alone = ALONE.blocking_lock();
        for script in ["exit 3", "kill -9 $$", "kill -40 $$"] {
            let id = shell(script).spawn().expect("sh").id();
            until(|| {
                collect_one();
                look(Id::Pid(number(id))) == Err(Errno::ECHILD)
            });
        }
    }

    #[test]
    fn the_end_by_a_real_time_signal_is_known() {
        let _alone = ALONE.blocking_lock();
        let mut child = spawn(&mut shell("kill -40 $$")).expect("sh");
        until(|| child.has_ended());
        while collect_one() {}
        assert_eq!(child.try_wait().expect("a child").and_then(|status| status.signal()), Some(40));
    }

    #[test]
    fn an_end_that_tells_no_number_takes_no_kept_child() {
        let _alone = ALONE.blocking_lock();
        let mut kept = spawn(&mut shell("kill -40 $$")).expect("sh");
        until(|| kept.has_ended());
        let other = shell("kill -40 $$").spawn().expect("sh").id();
        until(|| has_ended(other));
        until(|| {
            collect_one();
            look(Id::Pid(number(other))) == Err(Errno::ECHILD)
        });
        assert_eq!(kept.try_wait().expect("a child").and_then(|status| status.signal()), Some(40));
    }

    #[test]
    fn a_zombie_is_known_by_its_state_and_its_parent() {
        for (stat, expected) in [
            ("7 (a) Z 3) Z 5 7 7", true),
            ("7 (sh) Z 6 7 7", false),
            ("7 (sh) S 5 7 7", false),
            ("7 (Z 5", false),
            ("", false),
        ] {
            assert_eq!(is_zombie_of(stat, 5), expected, "{stat}");
        }
    }

    #[test]
    fn a_number_is_let_go_once() {
        let _alone = ALONE.blocking_lock();
        let mut all = vec![7, 8, 7];
        let_go(&mut all, 7);
        all.sort_unstable();
        assert_eq!(all, [7, 8]);
        let mut child = spawn(&mut shell("exit 0")).expect("sh");
        until(|| child.has_ended());
        assert!(matches!(child.try_wait(), Ok(Some(_))));
        assert!(!child.is_kept && child.try_wait().is_ok_and(|ended| ended.is_some()));
    }

    #[tokio::test]
    async fn a_child_behind_one_that_is_waited_for_is_collected_after_it() {
        let _alone = ALONE.lock().await;
        let mut others = Others::watch().expect("a signal");
        let child = spawn(&mut shell("exit 0")).expect("sh");
        until(|| child.has_ended());
        let id = shell("exit 0").spawn().expect("sh").id();
        let collected = async {
            while look(Id::Pid(number(id))) != Err(Errno::ECHILD) {
                tokio::task::yield_now().await;
            }
        };
        let let_go = async { drop(child.wait()) };
        tokio::select! {
            never = others.collect() => match never {},
            ((), ()) = async { tokio::join!(let_go, collected) } => {}
        }
    }
}
