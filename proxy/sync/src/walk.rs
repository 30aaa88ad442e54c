//! Lists and opens the files of a folder. A walk is bounded in entries and in depth, follows no link out of the folder, and
//! never waits for a writer of a FIFO.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use nix::libc::{O_NOCTTY, O_NONBLOCK};

use super::version::MOST_FILES;

/// The symlink by which a folder is swapped, as Kubernetes calls it.
pub(crate) const DATA: &str = "..data";
/// Entries of all folders of a walk: the files, the folders, and what is skipped.
const MOST_ENTRIES: usize = 4 * MOST_FILES;
/// Folders within folders.
const DEEPEST: usize = 8;

#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkFault {
    #[error("{path} cannot be read: {why}", path = shown(.0), why = .1)]
    Io(PathBuf, #[source] io::Error),
    #[error("{path} has more than {MOST_FILES} files, or more than {MOST_ENTRIES} entries", path = shown(.0))]
    TooMany(PathBuf),
    #[error("{path} has more than {DEEPEST} folders above it", path = shown(.0))]
    TooDeep(PathBuf),
    #[error("{path} is a symlink to a folder, which is not followed: put the files into the folder itself", path = shown(.0))]
    Link(PathBuf),
    #[error("{path} leads out of the folder of the source, which is not followed", path = shown(.0))]
    Out(PathBuf),
}

/// A path on one line of a log: whoever fills a folder chooses its names.
pub(crate) fn shown(path: &Path) -> String {
    path.to_string_lossy().chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}

struct Walk<'a> {
    root: &'a Path,
    is_own: bool,
    left: usize,
    files: Vec<(PathBuf, Metadata)>,
}

/// The regular files below a folder of a source, in the order of their paths. A link that leads nowhere, and a file that has
/// vanished since, are left out. Names that begin with two dots are not content: Kubernetes swaps a folder by them.
pub(crate) fn files(root: &Path) -> Result<Vec<(PathBuf, Metadata)>, WalkFault> {
    walk(root, false)
}

/// The regular files below a folder that was written here, without exception, in the order of their paths.
pub(crate) fn own_files(root: &Path) -> Result<Vec<(PathBuf, Metadata)>, WalkFault> {
    walk(root, true)
}

fn walk(root: &Path, is_own: bool) -> Result<Vec<(PathBuf, Metadata)>, WalkFault> {
    let mut walk = Walk { root, is_own, left: MOST_ENTRIES, files: Vec::new() };
    walk.folder(root, 0)?;
    walk.files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(walk.files)
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, depth: usize) -> Result<(), WalkFault> {
        let failed = |error| WalkFault::Io(folder.to_owned(), error);
        let entries = match fs::read_dir(folder) {
            Err(error) if depth > 0 && error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let many = || WalkFault::TooMany(self.root.to_owned());
            self.left = self.left.checked_sub(1).ok_or_else(many)?;
            if !self.is_own && entry.file_name().as_encoded_bytes().starts_with(b"..") {
                continue;
            }
            self.add(entry.path(), depth)?;
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, depth: usize) -> Result<(), WalkFault> {
        let metadata = match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(WalkFault::Io(path, error)),
            Ok(metadata) => metadata,
        };
        if metadata.is_dir() {
            if path.is_symlink() && (self.is_own || !is_swapped(&path)) {
                return Err(WalkFault::Link(path));
            }
            return if depth == DEEPEST {
                Err(WalkFault::TooDeep(path))
            } else {
                self.folder(&path, depth + 1)
            };
        }
        if metadata.is_file() {
            self.files.push((path, metadata));
        }
        if self.files.len() > MOST_FILES { Err(WalkFault::TooMany(self.root.to_owned())) } else { Ok(()) }
    }
}

/// Whether it is a symlink that leads through the one by which a folder is swapped, and not out of it again.
pub(crate) fn is_swapped(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|to| {
        to.starts_with(DATA) && to.components().all(|part| matches!(part, Component::Normal(_)))
    })
}

/// Opens a regular file. A FIFO has no writer perhaps, and would be waited for without end.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Opens a regular file of a folder, whose path has no symlinks. What was opened is looked at, not its path, so that a
/// link that is changed meanwhile leads nowhere else.
pub(crate) fn open_beneath(real_root: &Path, path: &Path) -> Result<File, WalkFault> {
    let failed = |error| WalkFault::Io(path.to_owned(), error);
    let file = open(path).map_err(failed)?;
    let opened = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(failed)?;
    if opened.starts_with(real_root) { Ok(file) } else { Err(WalkFault::Out(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use pillion_testkit::Scratch;

    use super::*;

    #[test]
    fn a_walk_is_bounded_and_descends_through_no_link() {
        let scratch = Scratch::new();
        scratch.write("a", "");
        symlink("nowhere", scratch.path("dangling")).unwrap();
        assert_eq!(files(&scratch.path("")).unwrap().len(), 1);
        symlink(".", scratch.path("loop")).unwrap();
        assert!(matches!(files(&scratch.path("")), Err(WalkFault::Link(_))));
        fs::remove_file(scratch.path("loop")).unwrap();
        for nth in 0..MOST_ENTRIES {
            fs::create_dir(scratch.path(&format!("d{nth}"))).unwrap();
        }
        assert!(matches!(files(&scratch.path("")), Err(WalkFault::TooMany(_))), "folders count, too");
    }

    #[test]
    fn a_name_that_is_told_stays_on_one_line() {
        let scratch = Scratch::new();
        symlink(".", scratch.path("a\nERROR b")).unwrap();
        let why = files(&scratch.path("")).unwrap_err().to_string();
        assert!(why.contains("a?ERROR b is a symlink"), "{why}");
    }

    #[test]
    fn a_fifo_is_refused_without_waiting() {
        let scratch = Scratch::new();
        let path = scratch.path("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(open(&path).is_err());
    }
}
