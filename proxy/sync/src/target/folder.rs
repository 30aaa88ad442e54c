//! Writes the folder of a version, and swaps it in by one symlink.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::Path;

use nix::libc::{O_DIRECTORY, O_NOFOLLOW};

use super::super::version::Folder;
use super::super::walk::DATA;
use super::disk::{Told as _, WriteFault, make_folder, name, remove};
use super::{FOLDERS, Target, Written};

impl Target {
    pub(super) fn write_folder(&self, root: &Path, folder: &Folder) -> Result<(), WriteFault> {
        let mut made = vec![make_folder(root)?];
        for (name, bytes) in folder.files() {
            let path = root.join(name);
            let mut above = root.to_owned();
            let mut parts = name.split('/').peekable();
            while let Some(part) = parts.next() {
                above.push(part);
                if parts.peek().is_some() && !above.is_dir() {
                    made.push(make_folder(&above)?);
                }
            }
            self.write_file(&path, bytes)?;
        }
        // a process that may read a file may also enter its folder
        let mode = (0o700 | self.mode | (self.mode & 0o444) >> 2) & 0o777;
        // the folders get their owner last, because nothing can be written in them after that; the inner ones first
        for path in made.iter().rev() {
            let file = OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW).open(path);
            self.give(&file.told("cannot open the folder", path)?, mode, path)?;
        }
        Ok(())
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

    pub(super) fn link(&self, folder: &Folder) -> Result<(), WriteFault> {
        let tops = folder.tops();
        for top in &tops {
            let link = self.path.join(top);
            if is_our_link(&link) && !is_link_of(&link) {
                remove(&link);
            }
            if !is_link_of(&link) {
                // it fails where another program has put a file there since the version was written
                symlink(Path::new(DATA).join(top), &link).told("cannot make the symlink", &link)?;
            }
        }
        for entry in fs::read_dir(&self.path).told("cannot read", &self.path)?.flatten() {
            let file = entry.file_name();
            let is_gone = file.to_str().is_some_and(|file| !tops.contains(file));
            if is_gone && is_our_link(&entry.path()) {
                remove(&entry.path());
            }
        }
        self.sync_folder(&self.path)
    }
}

/// Whether the symlink leads through the one that is swapped to the file of its own name.
pub(super) fn is_link_of(link: &Path) -> bool {
    fs::read_link(link).is_ok_and(|to| to == Path::new(DATA).join(name(link)))
}

/// Whether it is a symlink through which a folder is swapped.
pub(super) fn is_our_link(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|to| to.starts_with(DATA))
}
