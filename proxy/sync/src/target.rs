//! Writes a version: whole, or not at all.
//!
//! A file is written beside its place, and renamed. A folder is swapped by one symlink, as Kubernetes does with ConfigMaps:
//! `..data` leads to the folder of a version, and each name leads through `..data`. The folder of the version before
//! stays, so that a reader who has opened it reads it to its end.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, symlink,
};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use nix::libc::{EINVAL, EOPNOTSUPP, O_DIRECTORY, O_NOFOLLOW};
use pillion_model::sync::{Owner, Sync};

use super::version::{Content, Digest, Folder, MOST_BYTES, MOST_FILES, name_below};
use super::walk::{self, DATA, shown};

/// What the names of our own files begin with while they are written; of folders, with [`FOLDERS`].
const FILES: &str = ".pillion-";
const FOLDERS: &str = "..pillion-";

#[derive(Debug, thiserror::Error)]
#[error("{what} {path}: {why}", path = shown(path))]
pub(crate) struct WriteFault {
    what: &'static str,
    path: PathBuf,
    #[source]
    why: io::Error,
}

/// Says what could not be done with which path.
trait Told<T> {
    fn told(self, what: &'static str, path: &Path) -> Result<T, WriteFault>;
}

impl<T> Told<T> for io::Result<T> {
    fn told(self, what: &'static str, path: &Path) -> Result<T, WriteFault> {
        self.map_err(|why| WriteFault { what, path: path.to_owned(), why })
    }
}

/// Where versions are written, and how.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    is_folder: bool,
    mode: u32,
    owner: Option<Owner>,
    /// Makes the names of versions differ, also from those of a process before this one that had the same number.
    began: u128,
    count: u64,
    /// Whether another sidecar has this process number, as the one does that this one replaces.
    is_sidecar: fn(u32) -> bool,
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
    pub(crate) fn new(sync: &Sync, is_sidecar: fn(u32) -> bool) -> Self {
        let Sync { to, from, mode, owner, .. } = sync;
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self {
            path: to.clone(),
            is_folder: from.is_folder(),
            mode: *mode,
            owner: *owner,
            began,
            count: 0,
            is_sidecar,
        }
    }

    /// The content of the place, if it was written with the mode and the owner that are asked for.
    pub(crate) fn existing(&self) -> Option<Digest> {
        if self.is_folder {
            return self.existing_folder();
        }
        let metadata = self.path.symlink_metadata().ok()?;
        (metadata.is_file() && self.is_as_asked(&metadata)).then_some(())?;
        Some(Content::file(read(&self.path, MOST_BYTES)?).ok()?.digest())
    }

    fn existing_folder(&self) -> Option<Digest> {
        let data = self.path.join(DATA);
        let (mut files, mut left) = (Vec::new(), MOST_BYTES);
        for (path, metadata) in walk::own_files(&data).ok()? {
            self.is_as_asked(&metadata).then_some(())?;
            let bytes = read(&path, left)?;
            left -= bytes.len();
            files.push((name_below(&data, &path)?, bytes));
        }
        let folder = Folder::new(files).ok()?;
        self.is_linked(&folder).then(|| Content::Folder(folder).digest())
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

    /// Removes what processes have left that ended while they wrote.
    pub(crate) fn tidy(&self) {
        let (folder, prefix) = match self.is_folder {
            true => (self.path.clone(), FOLDERS.to_owned()),
            false => (parent(&self.path), FILES.to_owned()),
        };
        let end = if self.is_folder { String::new() } else { format!(".{}", name(&self.path)) };
        let at_work = fs::read_link(self.path.join(DATA)).ok();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let number = file.to_str().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(&end));
            // the name of another entry's file may end with the name of this one
            let is_left = number.is_some_and(|number| !number.contains('.') && self.is_left(number));
            if is_left && at_work.as_deref() != Some(Path::new(&file)) {
                remove(&entry.path());
            }
        }
    }

    /// Whether the number in a name is that of no other sidecar that is running.
    fn is_left(&self, number: &str) -> bool {
        let process = number.split('-').next().and_then(|process| process.parse().ok());
        process.is_some_and(|process| process == std::process::id() || !(self.is_sidecar)(process))
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
                self.write_file(&written.path, bytes)?;
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

    fn write_file(&self, path: &Path, bytes: &Bytes) -> Result<(), WriteFault> {
        // with no more rights than needed until it has its owner; a symlink in its place is not followed
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .told("cannot make", path)?;
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
        file.sync_all().told("cannot write", path)
    }

    fn write_folder(&self, root: &Path, folder: &Folder) -> Result<(), WriteFault> {
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
    fn refuse_strangers(&self, folder: &Folder) -> Result<(), WriteFault> {
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
                Ok(sync_folder(&parent(&self.path)).err())
            }
            Content::Folder(folder) => self.swap(&mut written, folder),
        }
    }

    /// One rename makes the new files those of all names. Names that are new are linked after it, and those that are gone
    /// are removed.
    fn swap(&self, written: &mut Written, folder: &Folder) -> Result<Option<WriteFault>, WriteFault> {
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

    fn link(&self, folder: &Folder) -> Result<(), WriteFault> {
        let tops = folder.tops();
        for top in &tops {
            let link = self.path.join(top);
            if is_our_link(&link) && !is_link_of(&link) {
                remove(&link);
            }
            if link.symlink_metadata().is_err() {
                symlink(Path::new(DATA).join(top), &link).told("cannot make", &link)?;
            }
        }
        for entry in fs::read_dir(&self.path).told("cannot read", &self.path)?.flatten() {
            let file = entry.file_name();
            let is_gone = file.to_str().is_some_and(|file| !tops.contains(file));
            if is_gone && is_our_link(&entry.path()) {
                remove(&entry.path());
            }
        }
        sync_folder(&self.path)
    }

    /// Removes the folders of versions but those two, and those of another sidecar.
    fn remove_older(&self, kept: [&Path; 2]) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let number = file.to_str().and_then(|name| name.strip_prefix(FOLDERS));
            if number.is_some_and(|number| self.is_left(number)) && !kept.contains(&Path::new(&file)) {
                remove(&entry.path());
            }
        }
    }

    /// The file that says which version `sync` has written, for the question whether a version is there after a restart
    /// while the source is away.
    fn mark(&self) -> PathBuf {
        parent(&self.path).join(format!("{FILES}mark.{}", name(&self.path)))
    }

    /// The file that says which version the application has not been told of yet.
    fn untold(&self) -> PathBuf {
        match self.is_folder {
            true => self.path.join(format!("{FOLDERS}untold")),
            false => parent(&self.path).join(format!("{FILES}untold.{}", name(&self.path))),
        }
    }

    /// Remembers that the application must be told of this version, also by a process after this one.
    pub(crate) fn set_untold(&self, digest: &Digest) {
        write_mark(&self.untold(), digest);
    }

    pub(crate) fn is_untold(&self, digest: &Digest) -> bool {
        is_mark(&self.untold(), digest)
    }

    pub(crate) fn set_told(&self) {
        remove(&self.untold());
    }

    /// Remembers beside a file that this content came from the source. A folder shows it by its symlink.
    pub(crate) fn set_mark(&self, digest: &Digest) {
        if self.is_folder || self.has_mark(digest) {
            return;
        }
        write_mark(&self.mark(), digest); // without it, the next start waits for the source
    }

    /// Whether this content came from the source once.
    pub(crate) fn has_mark(&self, digest: &Digest) -> bool {
        self.is_folder || is_mark(&self.mark(), digest)
    }
}

fn write_mark(mark: &Path, digest: &Digest) {
    remove(mark); // it may be a symlink, which is not followed
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(mark);
    if let Err(error) = new.and_then(|mut new| new.write_all(digest)) {
        tracing::debug!(path = %mark.display(), "a version cannot be remembered: {error}");
    }
}

fn is_mark(mark: &Path, digest: &Digest) -> bool {
    read(mark, digest.len()).is_some_and(|mark| mark == digest.as_slice())
}

fn make_folder(path: &Path) -> Result<PathBuf, WriteFault> {
    DirBuilder::new().mode(0o700).create(path).told("cannot make the folder", path)?;
    Ok(path.to_owned())
}

/// Whether the symlink leads through the one that is swapped to the file of its own name.
fn is_link_of(link: &Path) -> bool {
    fs::read_link(link).is_ok_and(|to| to == Path::new(DATA).join(name(link)))
}

/// Whether it is a symlink through which a folder is swapped.
fn is_our_link(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|to| to.starts_with(DATA))
}

fn remove(path: &Path) {
    let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), "an old file of `sync` cannot be removed: {error}");
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map_or_else(|| Path::new("/").to_owned(), Path::to_owned)
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A rename lasts over a loss of power when its folder is written. Some file systems of other hosts cannot be asked for that.
fn sync_folder(path: &Path) -> Result<(), WriteFault> {
    let written = File::open(path).and_then(|folder| folder.sync_all());
    let is_not_offered = |error: &io::Error| matches!(error.raw_os_error(), Some(EINVAL | EOPNOTSUPP));
    written
        .or_else(|error| if is_not_offered(&error) { Ok(()) } else { Err(error) })
        .told("cannot write", path)
}

/// `None`: it cannot be read, or has more bytes.
fn read(path: &Path, most: usize) -> Option<Bytes> {
    let mut bytes = Vec::new();
    walk::open(path).ok()?.take(most as u64 + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= most).then(|| bytes.into())
}

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| since.as_secs().try_into().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pillion_testkit::Scratch;

    use super::*;

    fn target(path: PathBuf, is_folder: bool) -> Target {
        Target {
            path,
            is_folder,
            mode: 0o640,
            owner: None,
            began: 0,
            count: 0,
            is_sidecar: |process| process == 8,
        }
    }

    fn file(text: &'static str) -> Content {
        Content::File(text.into())
    }

    fn folder(files: &[(&str, &'static str)]) -> Content {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())).collect();
        Content::Folder(Folder::new(files).unwrap())
    }

    fn put(target: &mut Target, content: &Content) -> Result<(), WriteFault> {
        let written = target.write(content)?;
        target.publish(written, content).map(|fault| assert!(fault.is_none(), "{fault:?}"))
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".."))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
        let scratch = Scratch::new();
        let path = scratch.path("new/settings.yaml");
        let mut target = target(path.clone(), false);
        assert_eq!(target.existing(), None);
        for text in ["one", "two"] {
            put(&mut target, &file(text)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
            assert_eq!(target.existing(), Some(file(text).digest()));
        }
        assert_eq!(names(path.parent().unwrap()), ["settings.yaml"]);
        target.mode = 0o600;
        assert_eq!(target.existing(), None, "another mode is asked for");
    }

    #[test]
    fn a_version_that_is_not_published_leaves_nothing() {
        let scratch = Scratch::new();
        let path = scratch.path("settings.yaml");
        fs::write(&path, "old").unwrap();
        let written = target(path.clone(), false).write(&file("new")).unwrap();
        assert!(
            written.path.to_str().unwrap().ends_with(".settings.yaml"),
            "a check knows a file by its end"
        );
        assert_eq!(fs::read_to_string(&written.path).unwrap(), "new");
        drop(written);
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), names(&scratch.path(""))),
            ("old", vec!["settings.yaml".to_owned()])
        );
    }

    #[test]
    fn what_another_program_did_with_the_file_shows() {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        let mut target = target(path.clone(), false);
        put(&mut target, &file("one")).unwrap();
        let stamp = target.stamp();
        assert_eq!(target.stamp(), stamp);
        fs::write(&path, "two!").unwrap();
        assert_ne!(target.stamp(), stamp);
        fs::remove_file(&path).unwrap();
        assert_eq!(target.stamp(), None);
    }

    #[test]
    fn a_folder_is_swapped_whole_and_names_come_and_go() {
        let scratch = Scratch::new();
        let root = scratch.path("conf");
        let mut target = target(root.clone(), true);
        let one = folder(&[("a", "1"), ("deep/b", "1"), ("gone", "1")]);
        put(&mut target, &one).unwrap();
        assert_eq!(target.existing(), Some(one.digest()));
        assert_eq!(names(&root), ["a", "deep", "gone"]);
        let first = fs::read_link(root.join(DATA)).unwrap();
        let two = folder(&[("a", "2"), ("deep/b", "2"), ("new", "2")]);
        put(&mut target, &two).unwrap();
        assert_eq!(names(&root), ["a", "deep", "new"]);
        for name in ["a", "deep/b", "new"] {
            assert_eq!(fs::read_to_string(root.join(name)).unwrap(), "2");
        }
        assert_eq!(fs::read_to_string(root.join(&first).join("a")).unwrap(), "1", "a reader may be in it");
        put(&mut target, &one).unwrap();
        assert!(!root.join(first).exists(), "two versions are kept");
        assert_eq!(root.join("deep").metadata().unwrap().mode() & 0o777, 0o750);
    }

    #[test]
    fn a_folder_is_known_again_whatever_its_names_are() {
        let scratch = Scratch::new();
        let mut target = target(scratch.path("conf"), true);
        let version = folder(&[("conf-local", "1"), ("conf.yaml", "2"), ("conf/x", "3")]); // in the order of a store
        put(&mut target, &version).unwrap();
        assert_eq!(target.existing(), Some(version.digest()));
    }

    /// Else the version would be written again and again, and the application told each time.
    #[test]
    fn a_file_system_that_cannot_write_a_folder_at_once_is_no_fault() {
        assert!(sync_folder(Path::new("/proc")).is_ok());
        assert!(sync_folder(Path::new("/no/such")).is_err());
    }

    #[test]
    fn a_name_that_a_source_has_chosen_stays_on_one_line_of_the_log() {
        let scratch = Scratch::new();
        scratch.write("a\nERROR b", "of the application");
        let why = put(&mut target(scratch.path(""), true), &folder(&[("a\nERROR b", "1")])).unwrap_err();
        assert!(!why.to_string().contains('\n'), "{why}");
    }

    #[test]
    fn what_another_program_did_with_a_folder_shows() {
        let scratch = Scratch::new();
        let root = scratch.path("conf");
        let mut target = target(root.clone(), true);
        let version = folder(&[("a", "1"), ("deep/b", "1")]);
        let undone: [fn(&Path); 4] = [
            |root| fs::write(root.join("a"), "2").unwrap(),
            |root| fs::remove_file(root.join("..data/deep/b")).unwrap(),
            |root| fs::remove_file(root.join("deep")).unwrap(), // as a kill between the swap and the links leaves it
            |root| symlink("..data/gone", root.join("gone")).unwrap(),
        ];
        for (nth, undo) in undone.into_iter().enumerate() {
            put(&mut target, &version).unwrap();
            let stamp = target.stamp();
            assert!(stamp.is_some() && target.stamp() == stamp);
            assert_eq!(target.existing(), Some(version.digest()));
            undo(&root);
            assert_ne!(target.stamp(), stamp, "{nth}");
            assert_ne!(target.existing(), Some(version.digest()), "{nth}");
        }
        put(&mut target, &version).unwrap();
        assert_eq!(target.existing(), Some(version.digest()));
    }

    #[test]
    fn a_version_that_was_not_told_is_known_to_the_next_process() {
        let scratch = Scratch::new();
        let digest = file("x").digest();
        for is_folder in [false, true] {
            let target = target(scratch.path(""), is_folder);
            assert!(!target.is_untold(&digest));
            target.set_untold(&digest);
            target.tidy();
            assert!(target.is_untold(&digest) && !target.is_untold(&file("y").digest()));
            target.set_told();
            assert!(!target.is_untold(&digest));
        }
    }

    #[test]
    fn a_file_that_was_not_made_here_is_never_replaced() {
        let scratch = Scratch::new();
        scratch.write("own", "of the application");
        let mut target = target(scratch.path(""), true);
        let why = put(&mut target, &folder(&[("a", "1"), ("own", "1")])).unwrap_err().to_string();
        assert!(why.contains("own"), "{why}");
        assert_eq!(names(&scratch.path("")), ["own"]);
        put(&mut target, &folder(&[("a", "1")])).unwrap();
        assert_eq!(names(&scratch.path("")), ["a", "own"]);
    }

    #[test]
    fn a_file_in_place_of_a_folder_is_told() {
        let scratch = Scratch::new();
        let why = put(&mut target(scratch.path(""), false), &file("x")).unwrap_err().to_string();
        assert!(why.contains("`to`"), "{why}");
    }

    #[test]
    fn what_killed_processes_left_is_removed_and_what_others_write_stays() {
        let scratch = Scratch::new();
        let own = scratch.path("file");
        for name in [
            ".pillion-7-1.file",
            ".pillion-7-1.x.file",
            ".pillion-8-1.file",
            ".pillion-7-1.other",
            ".pillion-x.file",
            "file",
        ] {
            scratch.write(name, "");
        }
        target(own, false).tidy();
        assert_eq!(
            names(&scratch.path("")),
            [".pillion-7-1.other", ".pillion-7-1.x.file", ".pillion-8-1.file", ".pillion-x.file", "file"]
        );
        let mut folders = target(scratch.path("conf"), true);
        put(&mut folders, &folder(&[("a", "1")])).unwrap();
        let at_work = fs::read_link(scratch.path("conf/..data")).unwrap();
        fs::create_dir_all(scratch.path("conf/..pillion-7-1/deep")).unwrap();
        folders.tidy();
        assert!(scratch.path("conf").join(at_work).exists() && !scratch.path("conf/..pillion-7-1").exists());
    }

    #[test]
    fn a_mark_says_that_the_content_came_from_the_source() {
        let scratch = Scratch::new();
        let target = target(scratch.path("file"), false);
        let digest = file("x").digest();
        assert!(!target.has_mark(&digest));
        target.set_mark(&digest);
        assert!(target.has_mark(&digest) && !target.has_mark(&file("y").digest()));
    }
}
