//! What is at the place of a target: whether it is a version that was written here, and whether it is still as it was.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use pillion_model::sync::Owner;

use super::super::version::{Content, Digest, Folder, MOST_BYTES, MOST_FILES, name_below};
use super::super::walk::{self, DATA, WalkFault};
use super::Target;
use super::disk::{name, read};
use super::folder::{is_link_of, is_our_link};

/// What is at the place, as far as metadata shows it: the file; or the symlinks of a folder and each of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    path: PathBuf,
    file: (u64, u64),
    size: u64,
    times: [(i64, i64); 2],
}

impl Part {
    fn of(path: PathBuf) -> Option<Self> {
        let metadata = path.symlink_metadata().ok()?;
        Some(Self::new(path, &metadata))
    }

    fn new(path: PathBuf, metadata: &fs::Metadata) -> Self {
        Self {
            path,
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            times: [(metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec())],
        }
    }
}

impl Target {
    /// The content of the place, if it was written with the mode and the owner that are asked for.
    pub(crate) fn existing(&self) -> Option<Digest> {
        self.digest(|metadata| self.is_as_asked(metadata)).ok().flatten()
    }

    /// The content of the place, with whatever mode and owner: some file systems keep neither. `None`: it is nothing that was
    /// written here.
    ///
    /// # Errors
    /// It cannot be read: it may belong to another user, as was asked for.
    pub(crate) fn content(&self) -> io::Result<Option<Digest>> {
        self.digest(|_metadata| true)
    }

    fn digest(&self, is_good: impl Fn(&fs::Metadata) -> bool) -> io::Result<Option<Digest>> {
        if self.is_folder {
            return self.digest_of_folder(is_good);
        }
        let metadata = self.path.symlink_metadata()?;
        if !metadata.is_file() || !is_good(&metadata) {
            return Ok(None);
        }
        let content = read(&self.path, MOST_BYTES)?.and_then(|bytes| Content::file(bytes).ok());
        Ok(content.map(|content| content.digest()))
    }

    fn digest_of_folder(&self, is_good: impl Fn(&fs::Metadata) -> bool) -> io::Result<Option<Digest>> {
        let data = self.path.join(DATA);
        let (mut files, mut left) = (Vec::new(), MOST_BYTES);
        let all = match walk::own_files(&data) {
            Ok(all) => all,
            Err(WalkFault::Io(_, error)) => return Err(error),
            Err(_it_was_not_written_here) => return Ok(None),
        };
        for (path, metadata) in all {
            let bytes = if is_good(&metadata) { read(&path, left)? } else { None };
            let (Some(bytes), Some(name)) = (bytes, name_below(&data, &path)) else { return Ok(None) };
            left -= bytes.len();
            files.push((name, bytes));
        }
        let folder = Folder::new(files).ok().filter(|folder| self.is_linked(folder));
        Ok(folder.map(|folder| Content::Folder(folder).digest()))
    }

    /// Whether each name leads to its file, and no other link was left: a process may have been killed between the swap and
    /// the links.
    fn is_linked(&self, folder: &Folder) -> bool {
        let tops = folder.tops();
        let links = self.links().unwrap_or_default();
        let is_of_version = |link: &PathBuf| tops.contains(name(link).as_str()) && is_link_of(link);
        links.len() == tops.len() && links.iter().all(is_of_version)
    }

    /// The symlinks that were made here, in the order of their paths. `None`: they cannot be read, or are too many.
    fn links(&self) -> Option<Vec<PathBuf>> {
        let mut links = Vec::new();
        for entry in fs::read_dir(&self.path).ok()?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) && is_our_link(&entry.path()) {
                links.push(entry.path());
            }
            (links.len() <= MOST_FILES).then_some(())?;
        }
        links.sort_unstable();
        Some(links)
    }

    fn is_as_asked(&self, metadata: &fs::Metadata) -> bool {
        let is_owned = |owner: Owner| {
            metadata.uid() == owner.user && owner.group.is_none_or(|group| metadata.gid() == group)
        };
        metadata.mode() & 0o7777 == self.mode && self.owner.is_none_or(is_owned)
    }

    /// What shows later that another program has changed or removed what was written.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        if !self.is_folder {
            return Some(Stamp(vec![Part::of(self.path.clone())?]));
        }
        let data = self.path.join(DATA);
        let files =
            walk::own_files(&data).ok()?.into_iter().map(|(path, metadata)| Part::new(path, &metadata));
        let links = std::iter::once(data).chain(self.links()?);
        let mut parts = links.map(Part::of).collect::<Option<Vec<_>>>()?;
        parts.extend(files);
        Some(Stamp(parts))
    }

    /// When the version at work was written.
    pub(crate) fn written_at(&self) -> Option<SystemTime> {
        let path = if self.is_folder { &self.path.join(DATA) } else { &self.path };
        path.symlink_metadata().ok()?.modified().ok()
    }
}
