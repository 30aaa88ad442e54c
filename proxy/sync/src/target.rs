//! Writes a version: whole, or not at all.
//!
//! A file is written beside its place, and renamed. A folder is swapped by one symlink, as Kubernetes does with ConfigMaps:
//! `..data` leads to the folder of a version, and each name leads through `..data`. The folder of the version before
//! stays, so that a reader who has opened it reads it to its end.

mod disk;
mod folder;
mod marks;
mod place;
mod tidy;

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use pillion_model::sync::{Owner, Sync};
use pillion_tls::sha256;
use rustix::fs::CWD;

use super::version::{Content, Digest};
pub(crate) use disk::WriteFault;
use disk::{Told as _, make_file, name, parent, remove};
pub(crate) use place::Stamp;

/// What the names of our own files begin with while they are written; of folders, with [`FOLDERS`].
const FILES: &str = ".pillion-";
const FOLDERS: &str = "..pillion-";

/// Where versions are written, and how.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    is_folder: bool,
    mode: u32,
    owner: Option<Owner>,
    /// The digest of what the source is: the same content of another one is not known.
    from: Digest,
    /// Makes the names of versions differ, also from those of a process before this one that had the same number.
    began: u128,
    count: u64,
    /// Whether another sidecar has this process number, as the one does that this one replaces.
    is_sidecar: fn(u32) -> bool,
    /// Has a file or a folder written to the disk.
    pub(crate) sync: fn(&File) -> io::Result<()>,
}

/// A version that is written and not published. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Written {
    /// What a check gets.
    pub(crate) path: PathBuf,
    is_published: bool,
}

impl Drop for Written {
    fn drop(&mut self) {
        if !self.is_published {
            remove(&self.path);
        }
    }
}

impl Target {
    pub(crate) fn new(sync: &Sync, is_sidecar: fn(u32) -> bool) -> Self {
        let Sync { to, from, mode, owner, .. } = sync;
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self {
            path: to.clone(),
            is_folder: from.is_folder(),
            mode: *mode,
            owner: *owner,
            from: sha256(format!("{:?}", from.source).as_bytes()), // with the query, which is not shown
            began,
            count: 0,
            is_sidecar,
            sync: disk::sync,
        }
    }

    /// Writes the version beside its place.
    pub(crate) fn write(&mut self, content: &Content) -> Result<Written, WriteFault> {
        self.count += 1;
        let number = format!("{}-{}-{}", std::process::id(), self.began, self.count);
        match content {
            Content::File(bytes) => {
                let folder = parent(&self.path);
                fs::create_dir_all(&folder).told("cannot make the folder", &folder)?;
                if self.path.is_dir() {
                    let why = io::Error::from(io::ErrorKind::IsADirectory);
                    return Err(why).told("the source has one file, and `to` cannot be", &self.path);
                }
                let written = Written {
                    path: folder.join(format!("{FILES}{number}.{}", name(&self.path))),
                    is_published: false,
                };
                let file = make_file(CWD, &written.path, &written.path)?;
                self.write_file(file, &written.path, bytes)?;
                Ok(written)
            }
            Content::Folder(folder) => {
                fs::create_dir_all(&self.path).told("cannot make the folder", &self.path)?;
                self.refuse_strangers(folder)?;
                let written =
                    Written { path: self.path.join(format!("{FOLDERS}{number}")), is_published: false };
                self.write_folder(&written.path, folder)?;
                Ok(written)
            }
        }
    }

    /// Puts a version in its place. From the rename on it is there: what fails after that is given back beside it, and to be
    /// repaired.
    pub(crate) fn publish(
        &self,
        mut written: Written,
        content: &Content,
    ) -> Result<Option<WriteFault>, WriteFault> {
        match content {
            Content::File(_) => {
                fs::rename(&written.path, &self.path).told("cannot replace", &self.path)?;
                written.is_published = true;
                Ok(self.sync_folder(&parent(&self.path)).err())
            }
            Content::Folder(folder) => self.swap(&mut written, folder),
        }
    }

    /// Tries again what has failed after the version was in its place.
    pub(crate) fn finish(&self, content: &Content) -> Result<(), WriteFault> {
        match content {
            Content::File(_) => self.sync_folder(&parent(&self.path)),
            Content::Folder(folder) => self.link(folder),
        }
    }

    fn write_file(&self, mut file: File, path: &Path, bytes: &Bytes) -> Result<(), WriteFault> {
        file.write_all(bytes).told("cannot write", path)?;
        self.give(&file, self.mode, path)
    }

    /// Gives a file or a folder its mode, its owner, and its place on the disk. The owner comes last, because only an owner
    /// may set the mode without the capability FOWNER.
    fn give(&self, file: &File, mode: u32, path: &Path) -> Result<(), WriteFault> {
        file.set_permissions(Permissions::from_mode(mode)).told("cannot set the `mode` of", path)?;
        if let Some(Owner { user, group }) = self.owner {
            fchown(file, Some(user), group).told("cannot give the `owner` to", path)?;
        }
        (self.sync)(file).told("cannot write", path)
    }

    /// A rename lasts over a loss of power when its folder is written.
    fn sync_folder(&self, path: &Path) -> Result<(), WriteFault> {
        File::open(path).and_then(|folder| (self.sync)(&folder)).told("cannot write", path)
    }
}

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| since.as_secs().try_into().ok()).unwrap_or_default()
}
#[cfg(test)]
mod tests;
