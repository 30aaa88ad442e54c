//! One version of what a source has: a file, or the files of a folder. Its bounds and its names are checked here, before
//! anything is written.

use std::collections::HashSet;
use std::path::Path;

use bytes::Bytes;
use pillion_model::text::shortened;
use pillion_tls::sha256;

/// 16 MiB for all files of a version: it is in memory while it is written. A value of Consul has at most 512 KiB, one of
/// etcd 1.5 MiB.
pub(crate) const MOST_BYTES: usize = 16 << 20;
/// The files of a folder.
pub(crate) const MOST_FILES: usize = 1000;
/// Folders within folders.
const DEEPEST: usize = 8;
/// What Linux takes as one part of a path.
const LONGEST_NAME: usize = 255;

/// The SHA-256 of a version, by which two versions are compared.
pub(crate) type Digest = [u8; 32];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    File(Bytes),
    Folder(Folder),
}

/// Files by their names, which may have slashes. Made by [`Folder::new`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder(Vec<(String, Bytes)>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadVersion {
    #[error("it has more than {mib} MiB", mib = MOST_BYTES >> 20)]
    TooLong,
    #[error("it has more than {MOST_FILES} files")]
    TooMany,
    #[error("the name {0} cannot be a file in the folder")]
    Name(String),
    #[error("{0} is a file and a folder")]
    Both(String),
    #[error("{0} stands there twice")]
    Twice(String),
}

impl Content {
    pub(crate) fn file(bytes: Bytes) -> Result<Self, BadVersion> {
        if bytes.len() > MOST_BYTES { Err(BadVersion::TooLong) } else { Ok(Self::File(bytes)) }
    }

    pub(crate) fn digest(&self) -> Digest {
        match self {
            Self::File(bytes) => sha256(bytes),
            Self::Folder(Folder(files)) => {
                let mut all = vec![b'/']; // a folder without files is not an empty file
                for (name, bytes) in files {
                    all.extend_from_slice(name.as_bytes());
                    all.push(0);
                    all.extend_from_slice(&sha256(bytes));
                }
                sha256(&all)
            }
        }
    }
}

impl Folder {
    /// The same files make the same folder, in whatever order they come: stores order names by their bytes, and walks by the
    /// parts of paths.
    pub(crate) fn new(mut files: Vec<(String, Bytes)>) -> Result<Self, BadVersion> {
        if files.len() > MOST_FILES {
            return Err(BadVersion::TooMany);
        }
        if files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > MOST_BYTES {
            return Err(BadVersion::TooLong);
        }
        let mut names = HashSet::new();
        for (name, _) in &files {
            if !is_sound(name) {
                return Err(BadVersion::Name(quoted(name)));
            }
            if !names.insert(name.as_str()) {
                return Err(BadVersion::Twice(quoted(name)));
            }
        }
        for (name, _) in &files {
            let both =
                name.match_indices('/').map(|(end, _)| &name[..end]).find(|above| names.contains(above));
            if let Some(both) = both {
                return Err(BadVersion::Both(quoted(both)));
            }
        }
        files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Self(files))
    }

    pub(crate) fn files(&self) -> &[(String, Bytes)] {
        &self.0
    }

    /// What stands in the folder itself, each once: files, and folders of files.
    pub(crate) fn tops(&self) -> HashSet<&str> {
        let mut tops = HashSet::new();
        for (name, _) in &self.0 {
            tops.insert(name.split('/').next().unwrap_or(name));
        }
        tops
    }
}

/// Whether the name leads to a file within the folder. Names that begin with two dots are those by which a folder is
/// swapped.
fn is_sound(name: &str) -> bool {
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= LONGEST_NAME;
    !name.starts_with("..")
        && !name.contains('\0')
        && name.split('/').count() <= DEEPEST
        && name.split('/').all(is_part)
}

/// A name that a peer has chosen, on one line of a log.
pub(crate) fn quoted(name: &str) -> String {
    format!("{:?}", shortened(name))
}

/// The name of a file relative to a folder. `None`: it is not UTF-8, or not below the folder.
pub(crate) fn name_below(folder: &Path, file: &Path) -> Option<String> {
    file.strip_prefix(folder).ok()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folder(names: &[&str]) -> Result<Folder, BadVersion> {
        Folder::new(names.iter().map(|name| ((*name).to_owned(), Bytes::from_static(b"x"))).collect())
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_refused() {
        for name in [
            "",
            "/etc/passwd",
            "../a",
            "a/../b",
            "a/..",
            "a//b",
            "a/",
            "./a",
            ".",
            "..",
            "..data",
            "..x",
            "a\0b",
        ] {
            assert!(matches!(folder(&[name]), Err(BadVersion::Name(_))), "{name:?}");
        }
        assert!(folder(&["a", ".b", "a.b/c..d", "a b/ü", "c/..d"]).is_ok());
        assert!(folder(&[&"a/".repeat(8), &"x".repeat(256)]).is_err());
    }

    #[test]
    fn a_name_cannot_be_a_file_and_a_folder() {
        assert_eq!(folder(&["a", "a-b", "a/b"]), Err(BadVersion::Both("\"a\"".to_owned())));
        assert_eq!(folder(&["a", "a"]), Err(BadVersion::Twice("\"a\"".to_owned())));
        assert_eq!(folder(&["a/b", "a/c", "ab"]).unwrap().tops(), HashSet::from(["a", "ab"]));
    }

    #[test]
    fn the_order_in_which_files_come_makes_no_other_version() {
        assert_eq!(folder(&["conf-local", "conf/x"]), folder(&["conf/x", "conf-local"]));
    }

    #[test]
    fn a_version_is_bounded_in_bytes_and_in_files() {
        let many: Vec<String> = (0..=MOST_FILES).map(|nth| format!("{nth:04}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(folder(&many), Err(BadVersion::TooMany));
        assert!(folder(many.get(1..).unwrap()).is_ok());
        let half = Bytes::from(vec![0; MOST_BYTES / 2 + 1]);
        let two = ["a", "b"].map(|name| (name.to_owned(), half.clone()));
        assert_eq!(Folder::new(two.to_vec()), Err(BadVersion::TooLong));
        assert_eq!(Content::file(vec![0; MOST_BYTES + 1].into()), Err(BadVersion::TooLong));
    }

    #[test]
    fn names_and_contents_have_different_digests_when_they_are_shifted() {
        let of = |name: &str, bytes: &'static str| {
            Content::Folder(Folder::new(vec![(name.to_owned(), bytes.into())]).unwrap()).digest()
        };
        assert_ne!(of("ab", "c"), of("a", "bc"));
        let empty = Content::Folder(Folder::new(vec![]).unwrap());
        assert_ne!(Content::File("".into()).digest(), empty.digest());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_name_that_is_taken_stays_below_its_folder(name in "[a./\0-]{0,12}") {
            if folder(&[&name]).is_ok() {
                let mut depth = 0_i32;
                for part in Path::new(&name).components() {
                    prop_assert!(matches!(part, std::path::Component::Normal(_)), "{name:?}");
                    depth += 1;
                }
                prop_assert!(depth > 0);
            }
        }
    }
}
