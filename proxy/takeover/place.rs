//! The file of the Unix socket at which a sidecar waits for its successor.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

/// Successors that may wait to be accepted.
const BACKLOG: i32 = 16;

/// A file that a listener of this process serves.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Device and number of the file, by which it is known from another one at the same path.
    file: Option<(u64, u64)>,
}

impl Place {
    /// The file that is there already.
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), file: number(path) }
    }

    /// Removes the file if it is still the same.
    pub(super) fn remove(&self) {
        if self.file.is_some() && number(&self.path) == self.file {
            drop(fs::remove_file(&self.path)); // a file that stays is found to be served by no process
        }
    }
}

fn number(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Listens at `path`, in place of a socket that no process serves any more. Only this user can connect from the start:
/// the socket has its permissions before it has a name, and gets the name in one step.
///
/// # Errors
/// The folder does not exist or cannot be written, or the file is not a socket.
pub(super) fn serve(path: &Path) -> io::Result<(UnixListener, Place)> {
    if fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists, and is not a socket"));
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let first = path.with_file_name(name);
    drop(fs::remove_file(&first)); // of a process that had the same number
    let listener = bound(&first)?;
    fs::rename(&first, path).inspect_err(|_| drop(fs::remove_file(&first)))?;
    Ok((listener, Place::at(path)))
}

fn bound(path: &Path) -> io::Result<UnixListener> {
    const OWNER: u32 = 0o600;
    let file = File::from(socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?);
    file.set_permissions(Permissions::from_mode(OWNER))?;
    let socket = OwnedFd::from(file);
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use pillion_testkit::Scratch;

    use super::*;

    #[test]
    fn the_socket_belongs_to_its_user_alone_replaces_a_stale_one_and_is_removed_once() {
        let scratch = Scratch::new();
        let path = scratch.path("takeover.sock");
        drop(UnixListener::bind(&path).expect("a stale socket"));
        let (_listener, place) = serve(&path).expect("a socket");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).expect("it listens");
        let (_later, other) = serve(&path).expect("a socket in its place");
        place.remove();
        UnixStream::connect(&path).expect("the file of another socket stays");
        other.remove();
        assert!(!path.exists());
        assert_eq!(fs::read_dir(scratch.path(".")).expect("a folder").count(), 0, "nothing else is left");
    }

    #[test]
    fn another_file_is_never_replaced() {
        let scratch = Scratch::new();
        let path = scratch.path("takeover.sock");
        fs::write(&path, "precious").expect("a file");
        let error = serve(&path).expect_err("not a socket");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("a file"), "precious");
    }
}
