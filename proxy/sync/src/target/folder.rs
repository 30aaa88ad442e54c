//! Writes the folder of a version, and swaps it in by one symlink.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::CWD;

use super::super::version::Folder;
use super::super::walk::DATA;
use super::disk::{Told as _, WriteFault, make_file, make_folder, name, remove};
use super::{FOLDERS, Target, Written};

impl Target {
    pub(super) fn write_folder(&self, root: &Path, folder: &Folder) -> Result<(), WriteFault> {
        let files: Vec<_> = folder.files().iter().map(|(name, bytes)| (name.as_str(), bytes)).collect();
        self.fill(&make_folder(CWD, root, root)?, root, &files)
    }

    /// Writes files, whose names are in order, into an open folder and new ones below it. What is written at its path might be
    /// elsewhere: another program that may write in `to` can put a symlink there.
    fn fill(&self, folder: &File, path: &Path, files: &[(&str, &Bytes)]) -> Result<(), WriteFault> {
        for same in files.chunk_by(|(a, _), (b, _)| top(a) == top(b)) {
            let Some((name, bytes)) = same.first() else { continue };
            let (top, path) = (Path::new(top(name)), path.join(top(name)));
            let below: Vec<_> =
                same.iter().filter_map(|(name, bytes)| Some((name.split_once('/')?.1, *bytes))).collect();
            if below.is_empty() {
                self.write_file(make_file(folder, top, &path)?, &path, bytes)?;
            } else {
                self.fill(&make_folder(folder, top, &path)?, &path, &below)?;
            }
        }
        // a process that may read a file may also enter its folder; it gets its owner last, because nothing can be written in it
        // after that
        self.give(folder, (0o700 | self.mode | (self.mode & 0o444) >> 2) & 0o777, path)
    }

    /// A name that is taken by something that was not made here is never replaced.
    pub(super) fn refuse_strangers(&self, folder: &Folder) -> Result<(), WriteFault> {
        for top in folder.tops() {
            let path = self.path.join(top);
            if path.symlink_metadata().is_ok() && !is_our_link(&path) {
                let why = io::Error::from(io::ErrorKind::AlreadyExists);
                return Err(why)
                    .told("a file of the source would replace a file that `sync` has not made,", &path);
            }
        }
        Ok(())
    }

    /// One rename makes the new files those of all names. Names that are new are linked after it, and those that are gone
    /// are removed.
    pub(super) fn swap(
        &self,
        written: &mut Written,
        folder: &Folder,
    ) -> Result<Option<WriteFault>, WriteFault> {
        let data = self.path.join(DATA);
        let before = fs::read_link(&data).unwrap_or_default(); // empty before the first version
        let next = self.path.join(format!("{FOLDERS}{}-link", std::process::id()));
        remove(&next);
        symlink(name(&written.path), &next).told("cannot make", &next)?;
        fs::rename(&next, &data).told("cannot replace", &data)?;
        written.is_published = true;
        self.remove_older([Path::new(&name(&written.path)), &before]);
        Ok(self.link(folder).err())
    }

    /// One name that cannot be linked keeps no other one from its file. Returns the first fault.
    pub(super) fn link(&self, folder: &Folder) -> Result<(), WriteFault> {
        let (tops, mut linked) = (folder.tops(), Ok(()));
        for top in &tops {
            let link = self.path.join(top);
            if is_our_link(&link) && !is_link_of(&link) {
                remove(&link);
            }
            if !is_link_of(&link) {
                // it fails where another program has put a file there since the version was written
                let made = symlink(Path::new(DATA).join(top), &link).told("cannot make the symlink", &link);
                linked = linked.and(made);
            }
        }
        for entry in fs::read_dir(&self.path).told("cannot read", &self.path)?.flatten() {
            let file = entry.file_name();
            let is_gone = file.to_str().is_some_and(|file| !tops.contains(file));
            if is_gone && is_our_link(&entry.path()) {
                remove(&entry.path());
            }
        }
        let synced = self.sync_folder(&self.path);
        linked.and(synced)
    }
}

/// The first part of a name.
fn top(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

/// Whether the symlink leads through the one that is swapped to the file of its own name.
pub(super) fn is_link_of(link: &Path) -> bool {
    fs::read_link(link).is_ok_and(|to| to == Path::new(DATA).join(name(link)))
}

/// Whether it is a symlink through which a folder is swapped.
pub(super) fn is_our_link(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|to| to.starts_with(DATA))
}
