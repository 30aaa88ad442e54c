//! The file of the Unix socket at which a sidecar waits for its successor.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// Successors that may wait to be accepted.
const BACKLOG: i32 = 16;
/// How often the lock of the folder is tried, and the time between two tries. Another sidecar holds it for a moment.
const TRIES: usize = 50;
const TRY_EVERY: Duration = Duration::from_millis(20);

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
/// the socket has its permissions before it has a name, and gets the name in one step. Sidecars that start at the same time do
/// so one after the other, because they lock the folder: those in two containers may have the same process number.
///
/// # Errors
/// The folder does not exist or cannot be written, the file is not a socket, or another process serves there.
pub(super) fn serve(path: &Path) -> io::Result<(UnixListener, Place)> {
    if fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists, and is not a socket"));
    }
    let _locked = locked(path)?;
    if is_served(path)? {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another sidecar has started there meanwhile"));
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let first = path.with_file_name(name);
    drop(fs::remove_file(&first)); // of a process that had the same number, and ended before it was renamed
    let listener = bound(&first)?;
    fs::rename(&first, path).inspect_err(|_| drop(fs::remove_file(&first)))?;
    Ok((listener, Place::at(path)))
}

/// Locks the folder of `path`. The lock ends with the file.
fn locked(path: &Path) -> io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or_else(|| Path::new(".")))?;
    lock(&folder)?;
    Ok(folder)
}

fn lock(folder: &File) -> io::Result<()> {
    for _ in 0..TRIES {
        match folder.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(TRY_EVERY),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "another program keeps its folder locked"))
}

/// Whether a process listens at the path. A full queue is one that a process has.
fn is_served(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
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
        let (listener, place) = serve(&path).expect("a socket");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).expect("it listens");
        let refused = serve(&path).expect_err("a process serves there");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        let (_later, other) = serve(&path).expect("a socket in its place");
        place.remove();
        UnixStream::connect(&path).expect("the file of another socket stays");
        other.remove();
        assert!(!path.exists());
        assert_eq!(fs::read_dir(scratch.path(".")).expect("a folder").count(), 0, "nothing else is left");
    }

    /// Each of them finds the stale socket, and all have the same process number. One replaces it, and the others find that one.
    #[test]
    fn of_sidecars_that_start_at_the_same_time_one_gets_the_path() {
        let scratch = Scratch::new();
        let path = scratch.path("takeover.sock");
        drop(UnixListener::bind(&path).expect("a stale socket"));
        let start = || serve(&path);
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let refused = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        let mut served = all.into_iter().filter_map(|served| served.map_err(refused).ok());
        let (listener, _place) = served.next().expect("one of them");
        assert!(served.next().is_none());
        let _client = UnixStream::connect(&path).expect("it listens");
        listener.set_nonblocking(true).expect("a socket");
        listener.accept().expect("the file is that of this listener");
    }

    /// The other sidecar is between the two steps, and has the same process number.
    #[test]
    fn the_unfinished_socket_of_another_sidecar_stays_while_that_one_has_the_lock() {
        let scratch = Scratch::new();
        let path = scratch.path("takeover.sock");
        let unfinished = scratch.path(&format!("takeover.sock.{}", std::process::id()));
        let _locked = locked(&path).expect("a folder");
        let _other = bound(&unfinished).expect("a socket");
        assert_eq!(serve(&path).expect_err("the folder is locked").kind(), io::ErrorKind::TimedOut);
        UnixStream::connect(&unfinished).expect("it listens");
    }

    #[test]
    fn a_socket_whose_queue_is_full_is_not_replaced() {
        let scratch = Scratch::new();
        let path = scratch.path("takeover.sock");
        let (_listener, _place) = serve(&path).expect("a socket");
        let mut waiting = Vec::new();
        let full = loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket");
            match connect(&socket, &SocketAddrUnix::new(&path).expect("an address")) {
                Ok(()) => waiting.push(socket),
                Err(error) => break error,
            }
            assert!(waiting.len() < 64, "the queue is bounded");
        };
        assert_eq!(full, Errno::AGAIN);
        assert_eq!(serve(&path).err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
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
