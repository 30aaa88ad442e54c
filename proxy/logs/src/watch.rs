//! Learns from the kernel that something has changed in a folder (inotify).
//!
//! This only makes shipping prompt. Files are looked at every second in any case, because the kernel reports no changes that other
//! hosts make on a network file system, and because it bounds how many folders can be watched.

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The most events that are read at once: programs that write all the time would keep the thread for ever. The kernel's queue
/// has as many by default.
const MOST_EVENTS: usize = 16 * 1024;

/// What happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Files appeared, left or were renamed.
    pub(crate) names: bool,
    /// Files were written.
    pub(crate) contents: bool,
}

pub(crate) struct Watch {
    descriptor: Option<AsyncFd<OwnedFd>>,
    folders: HashMap<PathBuf, i32>,
    /// Whether the log has it that folders cannot be watched.
    is_told: bool,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let opened = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok();
        #[expect(
            deprecated,
            reason = "its successor is unsafe, and asks for what an `OwnedFd` is: open for as long as it lives"
        )]
        let descriptor =
            opened.and_then(|descriptor| AsyncFd::with_interest(descriptor, Interest::READABLE).ok());
        Self { descriptor, folders: HashMap::new(), is_told: false }
    }

    /// Watches these folders, and no others.
    pub(crate) fn follow(&mut self, folders: &HashSet<PathBuf>) {
        let Some(descriptor) = &self.descriptor else { return };
        self.folders.retain(|folder, watch| {
            // a watch that cannot be removed is gone with its folder
            folders.contains(folder) || {
                inotify::remove_watch(descriptor.get_ref(), *watch).ok();
                false
            }
        });
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::ONLYDIR;
        for folder in folders {
            if self.folders.contains_key(folder) {
                continue;
            }
            match inotify::add_watch(descriptor.get_ref(), folder, flags) {
                Ok(watch) => drop(self.folders.insert(folder.clone(), watch)),
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) if !self.is_told => {
                    self.is_told = true;
                    tracing::info!(folder = %folder.display(), %error, "a folder cannot be watched: its files are looked at every second");
                }
                Err(_) => {}
            }
        }
    }

    /// Waits until something has happened.
    pub(crate) async fn seen(&mut self) -> Seen {
        let Some(descriptor) = &self.descriptor else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = descriptor.readable().await else { return std::future::pending().await };
            let read = read(descriptor.get_ref(), MOST_EVENTS);
            if read.is_all {
                ready.clear_ready();
            }
            self.folders.retain(|_, watch| !read.gone.contains(watch));
            if read.seen != Seen::default() {
                return read.seen;
            }
        }
    }
}

/// Some events.
#[derive(Debug, Default)]
struct Portion {
    seen: Seen,
    /// The watches that have ended, because their folders are gone.
    gone: Vec<i32>,
    count: usize,
    /// Whether nothing waits any more.
    is_all: bool,
}

/// Reads what waits: so many events, and those that have come together with the last one.
fn read(descriptor: &OwnedFd, most: usize) -> Portion {
    let mut portion = Portion::default();
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(descriptor, &mut buffer);
    while portion.count < most || !reader.is_buffer_empty() {
        let Ok(event) = reader.next() else { return Portion { is_all: true, ..portion } };
        portion.count += 1;
        let flags = event.events();
        portion.seen.contents |= flags.contains(ReadFlags::MODIFY);
        portion.seen.names |= flags != ReadFlags::MODIFY;
        if flags.contains(ReadFlags::IGNORED) {
            portion.gone.push(event.wd());
        }
    }
    portion
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_tells_of_files_that_appear_and_of_bytes() {
        let root =
            std::env::temp_dir().join(format!("pillion-watch-{}-{}", std::process::id(), fastrand::u64(..)));
        std::fs::create_dir_all(&root).unwrap();
        let mut watch = Watch::new();
        watch.follow(&[root.clone(), root.join("absent")].into());
        std::fs::write(root.join("a"), "x").unwrap();
        let seen = watch.seen().await;
        assert!(seen.names && seen.contents);
        std::fs::write(root.join("a"), "xy").unwrap();
        assert_eq!(watch.seen().await, Seen { names: false, contents: true });
        std::fs::remove_dir_all(&root).unwrap();
        assert!(watch.seen().await.names);
    }

    #[tokio::test]
    async fn events_are_read_in_portions_and_none_is_left_out() {
        let root =
            std::env::temp_dir().join(format!("pillion-events-{}-{}", std::process::id(), fastrand::u64(..)));
        std::fs::create_dir_all(&root).unwrap();
        let mut watch = Watch::new();
        watch.follow(&[root.clone()].into());
        for nth in 0..400 {
            std::fs::write(root.join(nth.to_string()), "x").unwrap();
        }
        let descriptor = watch.descriptor.as_ref().unwrap().get_ref();
        let (mut portions, mut events) = (0, 0);
        loop {
            let portion = read(descriptor, 1);
            (portions, events) = (portions + 1, events + portion.count);
            if portion.is_all {
                break;
            }
        }
        assert!(portions > 2, "a portion is not all");
        assert_eq!(events, 800, "each file appears and is written");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
