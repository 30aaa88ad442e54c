//! Files of this host as a source: looked at from time to time, and read when they may have changed.
//!
//! New content must be the same in two successive looks, because it may still be written. Looking at intervals notices
//! what file events miss: the symlinks that Kubernetes swaps, and writes by another host to a shared volume.

use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pillion_model::sync::Files;

use super::version::{BadVersion, Content, Digest, Folder, MOST_BYTES, name_below};
use super::walk::{self, WalkFault, shown};

/// A file that was changed within this time is read again at each look: clocks of file systems tick as slowly as every two
/// seconds.
const YOUNG: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    #[error("{path} cannot be read: {why}", path = shown(.0), why = .1)]
    Io(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Version(#[from] BadVersion),
    #[error("{path} is a folder: write a slash at its end", path = shown(.0))]
    Folder(PathBuf),
    #[error("a file in {path} has a name that is not UTF-8", path = shown(.0))]
    NotUtf8(PathBuf),
    #[error(transparent)]
    Walk(#[from] WalkFault),
}

impl Unread {
    /// Whether there is a version that cannot be taken, because of its size, its names or its symlinks.
    pub(crate) const fn is_of_version(&self) -> bool {
        match self {
            Self::Version(_) | Self::NotUtf8(_) => true,
            Self::Walk(fault) => !matches!(fault, WalkFault::Io(..)),
            Self::Io(..) | Self::Folder(_) => false,
        }
    }

    fn is_not_found(&self) -> bool {
        match self {
            Self::Io(_, error) | Self::Walk(WalkFault::Io(_, error)) => {
                error.kind() == io::ErrorKind::NotFound
            }
            _ => false,
        }
    }
}

/// What a look has found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing new, or new content that may still be written.
    Same,
    Absent,
    Version(Content),
}

pub(crate) struct Looks {
    files: Files,
    /// The metadata with which the files were last read.
    read_at: Option<Vec<Stamp>>,
    seen: Option<Digest>,
    known: Option<Digest>,
    /// Whether the last look has found content that the next one is to confirm. Files that are another content at each look are
    /// looked at soon every second time alone.
    is_to_confirm: bool,
}

/// The metadata that shows, without a read, whether a file is another one or was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    file: (u64, u64),
    size: u64,
    times: [(i64, i64); 2],
}

impl Looks {
    pub(crate) const fn new(files: Files) -> Self {
        Self { files, read_at: None, seen: None, known: None, is_to_confirm: false }
    }

    /// Forgets what is known, so that the content is a new version.
    pub(crate) fn forget(&mut self) {
        (self.read_at, self.seen, self.known, self.is_to_confirm) = (None, None, None, false);
    }

    /// How many files the next look is at. 0 where it is to be soon.
    pub(crate) fn files(&self) -> usize {
        self.read_at.as_ref().filter(|_| !self.is_to_confirm).map_or(0, Vec::len)
    }

    /// Blocks on file IO.
    pub(crate) fn look(&mut self, now: SystemTime) -> Result<Look, Unread> {
        let stamps = match self.stamps() {
            Err(why) if why.is_not_found() => return Ok(self.absent()),
            stamps => stamps?,
        };
        let is_calm = self.seen.is_some() && self.seen == self.known && !is_young(&stamps, now);
        if is_calm && self.read_at.as_ref() == Some(&stamps) {
            return Ok(Look::Same);
        }
        let content = match self.read(&stamps) {
            Err(why) if why.is_not_found() => return Ok(self.absent()),
            content => content?,
        };
        self.read_at = Some(stamps);
        let Some(content) = content else { return Ok(self.absent()) };
        let digest = content.digest();
        let stands_still = self.seen.replace(digest) == Some(digest);
        self.is_to_confirm = !stands_still && !self.is_to_confirm;
        if !stands_still || self.known == Some(digest) {
            return Ok(Look::Same);
        }
        self.known = Some(digest);
        Ok(Look::Version(content))
    }

    /// There is nothing. The same content is a new version when it comes back.
    fn absent(&mut self) -> Look {
        self.forget();
        Look::Absent
    }

    /// The files, in the order of their paths.
    fn stamps(&self) -> Result<Vec<Stamp>, Unread> {
        let path = &self.files.path;
        if self.files.is_folder {
            let files = walk::files(path)?;
            return Ok(files.into_iter().map(|(path, metadata)| stamp(path, &metadata)).collect());
        }
        let failed = |error| Unread::Io(path.to_owned(), error);
        let metadata = path.metadata().map_err(failed)?;
        match (metadata.is_file(), metadata.is_dir()) {
            (true, _) => Ok(vec![stamp(path.clone(), &metadata)]),
            (_, true) => Err(Unread::Folder(path.clone())),
            _ => Err(failed(io::Error::other("it is not a regular file"))),
        }
    }

    /// The content of the files. `None`: a folder without a file.
    fn read(&self, stamps: &[Stamp]) -> Result<Option<Content>, Unread> {
        let folder = &self.files.path;
        // a single file may be a symlink to another one beside it, as Kubernetes mounts it, and nowhere else
        let root = if self.files.is_folder { folder } else { folder.parent().unwrap_or(folder) };
        let root = root.canonicalize().map_err(|error| Unread::Io(root.to_owned(), error))?;
        let mut left = MOST_BYTES;
        let mut files = Vec::with_capacity(stamps.len());
        for Stamp { path, .. } in stamps {
            let bytes = match read(&root, path, left) {
                Err(why) if self.files.is_folder && why.is_not_found() => continue, // it has just been removed
                bytes => bytes?,
            };
            left -= bytes.len();
            if !self.files.is_folder {
                return Ok(Some(Content::file(bytes)?));
            }
            let name = name_below(folder, path).ok_or_else(|| Unread::NotUtf8(folder.clone()))?;
            files.push((name, bytes));
        }
        Ok(if files.is_empty() { None } else { Some(Content::Folder(Folder::new(files)?)) })
    }
}

/// The metadata of a file, or of that to which a symlink leads.
fn stamp(path: PathBuf, metadata: &Metadata) -> Stamp {
    Stamp {
        path,
        file: (metadata.dev(), metadata.ino()),
        size: metadata.size(),
        times: [(metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec())],
    }
}

/// At most so many bytes of a file below the folder `root`.
fn read(root: &Path, path: &Path, most: usize) -> Result<Bytes, Unread> {
    let mut bytes = Vec::new();
    let read = walk::open_beneath(root, path)?.take(most as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Unread::Io(path.to_owned(), error))?;
    if bytes.len() > most { Err(BadVersion::TooLong.into()) } else { Ok(bytes.into()) }
}

/// A time far in the future is no sign of a recent change: a file may have it for years.
fn is_young(stamps: &[Stamp], now: SystemTime) -> bool {
    let is_near = |seconds: i64| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        now.duration_since(time).unwrap_or_else(|ahead| ahead.duration()) < YOUNG
    };
    stamps.iter().flat_map(|stamp| stamp.times).any(|(seconds, _)| is_near(seconds))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use pillion_testkit::Scratch;

    use super::*;

    fn file(text: &'static str) -> Look {
        Look::Version(Content::File(text.into()))
    }

    #[test]
    fn content_is_new_once_when_two_looks_agree_on_it() {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        let mut looks = Looks::new(Files { path: path.clone(), is_folder: false });
        let now = SystemTime::now();
        assert_eq!(looks.look(now).unwrap(), Look::Absent);
        for (text, expected) in [
            ("a", Look::Same),
            ("b", Look::Same),
            ("b", file("b")),
            ("b", Look::Same),
            ("c", Look::Same),
            ("c", file("c")),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(looks.look(now).unwrap(), expected, "{text}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(looks.look(now).unwrap(), Look::Absent);
        fs::write(&path, "c").unwrap();
        assert_eq!(
            [looks.look(now).unwrap(), looks.look(now).unwrap()],
            [Look::Same, file("c")],
            "a file that is back is a version, also with the content from before"
        );
        looks.forget();
        assert_eq!([looks.look(now).unwrap(), looks.look(now).unwrap()], [Look::Same, file("c")]);
    }

    #[test]
    fn a_link_that_leads_out_of_the_folder_is_not_read() {
        let scratch = Scratch::new();
        let secret = scratch.write("secret", "key");
        fs::create_dir(scratch.path("source")).unwrap();
        symlink(&secret, scratch.path("source/a")).unwrap();
        for (path, is_folder) in [(scratch.path("source/a"), false), (scratch.path("source"), true)] {
            let why = Looks::new(Files { path, is_folder }).look(SystemTime::now()).unwrap_err();
            assert!(why.to_string().contains("leads out of the folder") && why.is_of_version(), "{why}");
        }
    }

    #[test]
    fn a_name_that_is_not_utf8_is_refused_with_its_version() {
        let scratch = Scratch::new();
        fs::write(scratch.path("").join(OsStr::from_bytes(b"\xff")), "1").unwrap();
        let looks = Looks::new(Files { path: scratch.path(""), is_folder: true }).look(SystemTime::now());
        assert!(looks.is_err_and(|why| matches!(why, Unread::NotUtf8(_)) && why.is_of_version()));
    }

    #[test]
    fn a_folder_with_a_dangling_link_has_its_other_files() {
        let scratch = Scratch::new();
        scratch.write("a", "1");
        symlink("nowhere", scratch.path("b")).unwrap();
        let mut looks = Looks::new(Files { path: scratch.path(""), is_folder: true });
        let now = SystemTime::now();
        let files = Folder::new(vec![("a".to_owned(), "1".into())]).unwrap();
        let version = Look::Version(Content::Folder(files));
        assert_eq!([looks.look(now).unwrap(), looks.look(now).unwrap()], [Look::Same, version]);
    }

    #[test]
    fn a_time_in_the_future_makes_no_file_young() {
        let stamp = |seconds| Stamp { path: PathBuf::new(), file: (0, 0), size: 0, times: [(seconds, 0); 2] };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let young = [97, 98, 102, 103].map(|seconds| is_young(&[stamp(seconds)], now));
        assert_eq!(young, [false, true, true, false]);
    }

    #[test]
    fn an_old_file_is_not_read_again() {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        fs::write(&path, "a").unwrap();
        let mut looks = Looks::new(Files { path: path.clone(), is_folder: false });
        let later = SystemTime::now() + Duration::from_secs(60);
        assert_eq!((looks.look(later).unwrap(), looks.files()), (Look::Same, 0));
        assert_eq!((looks.look(later).unwrap(), looks.files()), (file("a"), 1));
        looks.seen = Some([0; 32]);
        looks.known = Some([0; 32]);
        assert_eq!(
            looks.look(later).unwrap(),
            Look::Same,
            "a read would find another digest, and change `seen`"
        );
        assert_eq!((looks.seen, looks.files()), (Some([0; 32]), 1));
    }

    #[test]
    fn files_that_change_all_the_time_are_not_read_all_the_time() {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        let mut looks = Looks::new(Files { path: path.clone(), is_folder: false });
        let now = SystemTime::now();
        let soon = ["a", "a", "a", "b", "b", "c", "d", "e", "f"].map(|text| {
            fs::write(&path, text).unwrap();
            looks.look(now).unwrap();
            looks.files() == 0
        });
        assert_eq!(
            soon,
            [true, false, false, true, false, true, false, true, false],
            "to confirm what is new"
        );
    }

    #[test]
    fn a_folder_as_kubernetes_mounts_it_is_read_without_its_hidden_folders() {
        let scratch = Scratch::new();
        let root = scratch.path("");
        for version in ["..1", "..2"] {
            fs::create_dir_all(root.join(version).join("deep")).unwrap();
            fs::write(root.join(version).join("a"), version).unwrap();
            fs::write(root.join(version).join("deep/b"), "b").unwrap();
        }
        let swap = |to: &str| {
            symlink(to, root.join("..next")).unwrap();
            fs::rename(root.join("..next"), root.join("..data")).unwrap();
        };
        swap("..1");
        symlink("..data/a", root.join("a")).unwrap();
        symlink("..data/deep", root.join("deep")).unwrap();
        let mut looks = Looks::new(Files { path: root.clone(), is_folder: true });
        let now = SystemTime::now();
        let version = |a: &'static str| {
            let files = vec![("a".to_owned(), a.into()), ("deep/b".to_owned(), "b".into())];
            Look::Version(Content::Folder(Folder::new(files).unwrap()))
        };
        assert_eq!([looks.look(now).unwrap(), looks.look(now).unwrap()], [Look::Same, version("..1")]);
        swap("..2");
        assert_eq!([looks.look(now).unwrap(), looks.look(now).unwrap()], [Look::Same, version("..2")]);
    }

    #[test]
    fn a_folder_without_a_slash_in_its_url_is_told() {
        let scratch = Scratch::new();
        let mut looks = Looks::new(Files { path: scratch.path(""), is_folder: false });
        assert!(matches!(looks.look(SystemTime::now()), Err(Unread::Folder(_))));
    }
}
