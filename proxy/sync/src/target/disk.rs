//! Files and folders on the disk, with what failed and where.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::libc::{EINVAL, EOPNOTSUPP};
use rustix::fs::{Mode, OFlags, mkdirat, openat};

use super::super::walk::{self, shown};

#[derive(Debug, thiserror::Error)]
#[error("{what} {path}: {why}", path = shown(path))]
pub(crate) struct WriteFault {
    what: &'static str,
    path: PathBuf,
    #[source]
    why: io::Error,
}

/// Says what could not be done with which path.
pub(super) trait Told<T> {
    fn told(self, what: &'static str, path: &Path) -> Result<T, WriteFault>;
}

impl<T> Told<T> for io::Result<T> {
    fn told(self, what: &'static str, path: &Path) -> Result<T, WriteFault> {
        self.map_err(|why| WriteFault { what, path: path.to_owned(), why })
    }
}

/// Makes a folder by its name in one that is open, and opens it. `path`: how it is told.
pub(super) fn make_folder(folder: impl AsFd, name: &Path, path: &Path) -> Result<File, WriteFault> {
    let make = || -> io::Result<File> {
        mkdirat(&folder, name, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&folder, name, flags, Mode::empty())?.into())
    };
    make().told("cannot make the folder", path)
}

/// Makes a file, too, with no more rights than needed until it has its owner.
pub(super) fn make_file(folder: impl AsFd, name: &Path, path: &Path) -> Result<File, WriteFault> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC; // it follows no symlink
    let file = openat(folder, name, flags, Mode::RUSR | Mode::WUSR).map_err(io::Error::from);
    Ok(file.told("cannot make", path)?.into())
}

pub(super) fn remove(path: &Path) {
    let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = shown(path), "an old file of `sync` cannot be removed: {error}");
    }
}

pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().map_or_else(|| Path::new("/").to_owned(), Path::to_owned)
}

pub(super) fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Has a file or a folder written, so that it lasts over a loss of power. Some file systems of other hosts cannot be asked for
/// that, least of all for folders.
pub(super) fn sync(file: &File) -> io::Result<()> {
    let is_not_offered = |error: &io::Error| matches!(error.raw_os_error(), Some(EINVAL | EOPNOTSUPP));
    file.sync_all().or_else(|error| if is_not_offered(&error) { Ok(()) } else { Err(error) })
}

/// `None`: it has more bytes.
pub(super) fn read(path: &Path, most: usize) -> io::Result<Option<Bytes>> {
    let mut bytes = Vec::new();
    walk::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= most).then(|| bytes.into()))
}
