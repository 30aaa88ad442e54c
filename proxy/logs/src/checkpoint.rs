//! How far each file was delivered to each sink, kept in one file over restarts.
//!
//! It is JSON, written to a temporary file that replaces the old one, so that it is whole whenever the process ends.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::rotation::{Head, Identity, TAIL};

/// The name of the file in the folder of `logs.checkpoint`.
const NAME: &str = "checkpoint.json";
const LOCK: &str = "lock";
/// 16 MiB: a file and its sinks take 300 bytes.
const LONGEST: u64 = 16 * 1024 * 1024;
/// The size of the largest file that there can be: a place behind it is none.
const LARGEST: u64 = i64::MAX.cast_unsigned();

/// What is kept of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) identity: Identity,
    pub(crate) head: Head,
    /// The id of its records.
    pub(crate) id: u128,
    /// How often it was truncated.
    pub(crate) generation: u32,
    /// The path that its records have.
    pub(crate) path: PathBuf,
    /// The folder in which it stood, without links.
    pub(crate) folder: PathBuf,
    pub(crate) source: String,
    pub(crate) size: u64,
    /// By the name of the sink.
    pub(crate) places: BTreeMap<String, Place>,
}

/// How far a sink has got a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    /// The hash of up to 64 bytes before it, and how many these are.
    pub(crate) tail: u64,
    pub(crate) tail_length: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("has more than {} MiB", LONGEST / 1024 / 1024)]
    Long,
    #[error("is not what a checkpoint looks like")]
    Malformed,
    #[error("is a link, or no regular file")]
    NoFile,
}

/// Makes the folder, and locks it for as long as the returned file is open. `None`: another process has locked it.
pub(crate) fn lock(folder: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(folder)?;
    let mut writing = fs::OpenOptions::new();
    let file = open(writing.write(true).create(true), &folder.join(LOCK))?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{LOCK} is no regular file")));
    }
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Opens a file, but through no link: another one who may write in the folder must not choose what is read or written. A named
/// pipe must not stop the thread.
fn open(how: &mut fs::OpenOptions, path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    how.custom_flags(flags.bits().cast_signed()).open(path)
}

/// Whether a folder cannot be locked for as long as it is what it is, so that nothing is won by waiting: it is not to be written
/// by this process, or its file system has no locks.
pub(crate) fn is_never_locked(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let never = [
        Errno::ROFS,
        Errno::ACCESS,
        Errno::PERM,
        Errno::NOLCK,
        Errno::NOTSUP,
        Errno::OPNOTSUPP,
        Errno::NOSYS,
    ];
    never.iter().any(|never| error.raw_os_error() == Some(never.raw_os_error()))
}

/// The file in a folder.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

/// Reads a checkpoint. Without a file it is empty.
pub(crate) fn read(path: &Path) -> Result<Vec<Kept>, CheckpointError> {
    let file = match open(fs::OpenOptions::new().read(true), path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(CheckpointError::NoFile);
        }
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(CheckpointError::NoFile);
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(CheckpointError::Long);
    }
    parse(&bytes).ok_or(CheckpointError::Malformed)
}

/// Puts a checkpoint that cannot be used aside.
pub(crate) fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = path.with_extension("json.bad");
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Writes a checkpoint. When this returns it is on disk.
pub(crate) fn write(path: &Path, files: &[Kept]) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = open(fs::OpenOptions::new().write(true).create_new(true), &temporary)?;
    file.write_all(&text(files))?;
    file.sync_data()?;
    drop(file);
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn text(files: &[Kept]) -> Vec<u8> {
    let files: Vec<Value> = files.iter().map(spelled).collect();
    let mut text = json!({ "version": 1, "files": files }).to_string();
    text.push('\n');
    text.into_bytes()
}

fn spelled(file: &Kept) -> Value {
    let place = |of: &Place| json!([of.offset, format!("{:016x}", of.tail), of.tail_length]);
    let places: Map<String, Value> = file.places.iter().map(|(sink, of)| (sink.clone(), place(of))).collect();
    json!({
        "device": file.identity.device,
        "inode": file.identity.inode,
        "head": [file.head.length, format!("{:016x}", file.head.hash)],
        "id": format!("{:032x}", file.id),
        "generation": file.generation,
        "path": file.path.to_string_lossy(),
        "folder": file.folder.to_string_lossy(),
        "source": file.source,
        "size": file.size,
        "sinks": places,
    })
}

fn parse(bytes: &[u8]) -> Option<Vec<Kept>> {
    let root: Value = serde_json::from_slice(bytes).ok()?;
    (root["version"] == 1).then_some(())?;
    root["files"].as_array()?.iter().map(kept).collect()
}

fn kept(of: &Value) -> Option<Kept> {
    let hex = |value: &Value| u64::from_str_radix(value.as_str()?, 16).ok();
    let length = |value: &Value| usize::try_from(value.as_u64()?).ok();
    let bytes = |value: &Value| value.as_u64().filter(|bytes| *bytes <= LARGEST);
    let place = |value: &Value| {
        let offset = bytes(&value[0])?;
        let tail_length = length(&value[2]).filter(|length| *length <= TAIL && *length as u64 <= offset)?;
        Some(Place { offset, tail: hex(&value[1])?, tail_length })
    };
    let mut places = BTreeMap::new();
    for (sink, value) in of["sinks"].as_object()? {
        places.insert(sink.clone(), place(value)?);
    }
    Some(Kept {
        identity: Identity { device: of["device"].as_u64()?, inode: of["inode"].as_u64()? },
        head: Head { length: length(&of["head"][0])?, hash: hex(&of["head"][1])? },
        id: u128::from_str_radix(of["id"].as_str()?, 16).ok()?,
        generation: u32::try_from(of["generation"].as_u64()?).ok()?,
        path: of["path"].as_str()?.into(),
        folder: of["folder"].as_str()?.into(),
        source: of["source"].as_str()?.to_owned(),
        size: bytes(&of["size"])?,
        places,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Kept {
        let place = Place { offset: LARGEST, tail: 7, tail_length: 64 };
        Kept {
            identity: Identity { device: 3, inode: u64::MAX },
            head: Head::of(b"begins so"),
            id: u128::MAX,
            generation: 2,
            path: "/var/log/app/a \"b\".log".into(),
            folder: "/var/log/app".into(),
            source: "app".to_owned(),
            size: 12,
            places: [("box".to_owned(), place), ("hook".to_owned(), Place::default())].into(),
        }
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_written() {
        let folder = std::env::temp_dir().join(format!(
            "pillion-checkpoint-{}-{}",
            std::process::id(),
            fastrand::u64(..)
        ));
        fs::create_dir_all(&folder).unwrap();
        let path = path(&folder);
        assert_eq!(read(&path).unwrap(), []);
        for files in [vec![], vec![file()], vec![file(), file()]] {
            write(&path, &files).unwrap();
            assert_eq!(read(&path).unwrap(), files);
        }
        fs::write(&path, &fs::read(&path).unwrap()[..99]).unwrap();
        assert!(matches!(read(&path), Err(CheckpointError::Malformed)));
        assert!(put_aside(&path).unwrap().exists() && read(&path).unwrap().is_empty());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no temporary file stays");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn one_process_at_a_time_has_the_folder() {
        let folder =
            std::env::temp_dir().join(format!("pillion-lock-{}-{}", std::process::id(), fastrand::u64(..)));
        let lock = lock(&folder).unwrap();
        assert!(lock.is_some() && super::lock(&folder).unwrap().is_none());
        drop(lock);
        assert!(super::lock(&folder).unwrap().is_some());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn no_link_is_followed() {
        let folder =
            std::env::temp_dir().join(format!("pillion-links-{}-{}", std::process::id(), fastrand::u64(..)));
        fs::create_dir_all(&folder).unwrap();
        let victim = folder.join("victim");
        fs::write(&victim, "precious").unwrap();
        let path = path(&folder);
        for link in [folder.join(LOCK), path.clone(), path.with_extension("json.new")] {
            std::os::unix::fs::symlink(&victim, link).unwrap();
        }
        assert!(lock(&folder).is_err_and(|error| !is_never_locked(&error)));
        assert!(matches!(read(&path), Err(CheckpointError::NoFile)));
        write(&path, &[file()]).unwrap();
        assert_eq!(read(&path).unwrap(), [file()]);
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn only_a_folder_that_can_never_be_locked_is_used_without_a_lock() {
        use rustix::io::Errno;
        let is_never = |errno: Errno| is_never_locked(&errno.into());
        assert!([Errno::ROFS, Errno::ACCESS, Errno::NOLCK].into_iter().all(is_never));
        assert!(![Errno::MFILE, Errno::IO, Errno::NOSPC].into_iter().any(is_never));
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        for text in ["", "{}", "[]", r#"{"version":2,"files":[]}"#, r#"{"version":1,"files":[{}]}"#] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_place_that_no_file_has_is_refused() {
        for (offset, tail_length, expected) in
            [(3, 3, true), (3, 4, false), (99, 65, false), (u64::MAX, 0, false)]
        {
            let place = Place { offset, tail: 7, tail_length };
            let file = Kept { places: [("hook".to_owned(), place)].into(), ..file() };
            assert_eq!(parse(&text(&[file])).is_some(), expected, "{place:?}");
        }
    }
}
