//! Finds the files that globs name.
//!
//! `*`, `?` and `[a-z]` stand for characters of one name, `**` as a whole name for any number of folders. Names that begin
//! with a dot are found only by a glob that has the dot. Symbolic links are followed, because Kubernetes has them.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The most files that one glob finds. Each takes a descriptor.
const MOST: usize = 4096;
/// The most entries of folders that one search looks at.
const MOST_ENTRIES: usize = 100_000;
/// The most folders that are watched and searched.
const MOST_FOLDERS: usize = 1000;
/// How deep `**` goes: links may lead round.
const DEEPEST: usize = 16;

/// What a search has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) files: Vec<PathBuf>,
    /// The folders in which they may appear.
    pub(crate) folders: HashSet<PathBuf>,
    /// Whether a bound has ended the search.
    pub(crate) is_cut: bool,
    /// Whether a folder or a file could not be looked at, so that what was not found may be there.
    pub(crate) is_blind: bool,
    entries: usize,
    /// The folders that `**` has been in, by device and inode, and how many names of the glob were left there.
    visited: HashSet<(u64, u64, usize)>,
}

/// Adds the paths that fit a glob, which begins with a slash, and the folders that were looked at. Through links, a file may be
/// found twice.
pub(crate) fn search(glob: &str, found: &mut Found) {
    found.visited.clear();
    descend(Path::new("/"), &names(glob), 0, found);
}

/// Whether a search by this glob would find a file at this path.
pub(crate) fn covers(glob: &str, path: &Path) -> bool {
    path.to_str().is_some_and(|path| all_fit(&names(glob), &names(path)))
}

fn names(path: &str) -> Vec<&str> {
    path.split('/').filter(|name| !name.is_empty()).collect()
}

fn all_fit(patterns: &[&str], path: &[&str]) -> bool {
    let Some((pattern, patterns_left)) = patterns.split_first() else { return path.is_empty() };
    let Some((name, path_left)) = path.split_first() else { return false };
    match *pattern {
        "**" => all_fit(patterns_left, path) || !name.starts_with('.') && all_fit(patterns, path_left),
        pattern if is_pattern(pattern) => fits(pattern, name) && all_fit(patterns_left, path_left),
        literal => literal == *name && all_fit(patterns_left, path_left),
    }
}

fn descend(folder: &Path, names: &[&str], depth: usize, found: &mut Found) {
    let Some((name, rest)) = names.split_first() else { return };
    if !is_pattern(name) {
        let path = folder.join(name);
        return if rest.is_empty() {
            if note_folder(folder, found) {
                add(path, found);
            }
        } else {
            descend(&path, rest, depth, found);
        };
    }
    if *name == "**" {
        descend(folder, rest, depth, found);
    }
    if !note_folder(folder, found) {
        return;
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return note_failure(error.kind(), found),
    };
    for entry in entries {
        found.entries += 1;
        if found.entries > MOST_ENTRIES || found.files.len() >= MOST {
            found.is_cut = true;
            return;
        }
        let Ok(entry) = entry else { return found.is_blind = true };
        let file = entry.file_name();
        let Some(text) = file.to_str() else { continue };
        let path = folder.join(&file);
        if *name == "**" {
            if depth < DEEPEST && !text.starts_with('.') && is_new_folder(&path, names.len(), found) {
                descend(&path, names, depth + 1, found);
            }
        } else if fits(name, text) {
            if rest.is_empty() { add(path, found) } else { descend(&path, rest, depth, found) }
        }
    }
}

fn add(path: PathBuf, found: &mut Found) {
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => found.files.push(path),
        Ok(_) => {}
        Err(error) => note_failure(error.kind(), found),
    }
}

/// Whether a path is that of a folder in which `**` has not been: links may lead to one that encloses them.
fn is_new_folder(path: &Path, left: usize, found: &mut Found) -> bool {
    match fs::metadata(path) {
        Ok(of) => of.is_dir() && found.visited.insert((of.dev(), of.ino(), left)),
        Err(error) => {
            note_failure(error.kind(), found);
            false
        }
    }
}

fn note_failure(kind: ErrorKind, found: &mut Found) {
    found.is_blind |= !matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory);
}

/// Returns whether the folder is searched.
fn note_folder(folder: &Path, found: &mut Found) -> bool {
    if found.folders.contains(folder) {
        return true;
    }
    if found.folders.len() >= MOST_FOLDERS {
        found.is_cut = true;
        return false;
    }
    found.folders.insert(folder.to_owned())
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// Whether a name fits a pattern.
fn fits(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // where the last star stands, and how much of the name it has taken
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if let Some(next) = one(&pattern, p, name[n]) {
            (p, n) = (next, n + 1);
        } else if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, n) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|char| *char == '*')
}

/// Where the pattern goes on after a character. `None`: the character does not fit, or a star stands here.
fn one(pattern: &[char], at: usize, char: char) -> Option<usize> {
    match pattern.get(at)? {
        '*' => None,
        '?' => Some(at + 1),
        '[' => match class(pattern, at) {
            Some((end, is_negated)) => {
                let within = &pattern[at + 1 + usize::from(is_negated)..end];
                (is_in(within, char) != is_negated).then_some(end + 1)
            }
            None => (char == '[').then_some(at + 1),
        },
        literal => (*literal == char).then_some(at + 1),
    }
}

/// The end of a class, and whether it begins with `!` or `^`.
fn class(pattern: &[char], at: usize) -> Option<(usize, bool)> {
    let is_negated = matches!(pattern.get(at + 1), Some('!' | '^'));
    let first = at + 1 + usize::from(is_negated);
    let end = pattern.iter().skip(first + 1).position(|char| *char == ']')? + first + 1;
    Some((end, is_negated))
}

fn is_in(within: &[char], char: char) -> bool {
    let mut at = 0;
    while let Some(first) = within.get(at) {
        match (within.get(at + 1), within.get(at + 2)) {
            (Some('-'), Some(last)) => {
                if (*first..=*last).contains(&char) {
                    return true;
                }
                at += 3;
            }
            _ if *first == char => return true,
            _ => at += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_fits_a_pattern() {
        for (pattern, name, expected) in [
            ("*.log", "app.log", true),
            ("*.log", "app.log.1", false),
            ("*.log*", "app.log.1", true),
            ("app-?.log", "app-1.log", true),
            ("app-?.log", "app-12.log", false),
            ("app-[0-9a].log", "app-a.log", true),
            ("app-[!0-9].log", "app-1.log", false),
            ("[", "[", true),
            ("a[]", "a[]", true),
            ("*", ".hidden", false),
            (".*", ".hidden", true),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("", "", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn files_are_found_in_folders_through_links() {
        let root = tempdir();
        fs::create_dir_all(root.join("pods/a/web")).unwrap();
        fs::create_dir_all(root.join("links")).unwrap();
        fs::write(root.join("pods/a/web/0.log"), "x").unwrap();
        fs::write(root.join("pods/a/web/0.log.1"), "x").unwrap();
        std::os::unix::fs::symlink(root.join("pods/a/web/0.log"), root.join("links/web.log")).unwrap();
        std::os::unix::fs::symlink(root.join("nowhere"), root.join("links/gone.log")).unwrap();
        for (glob, expected) in [
            ("pods/*/*/*.log", vec!["pods/a/web/0.log"]),
            ("pods/**/*.log", vec!["pods/a/web/0.log"]),
            ("**/0.log", vec!["pods/a/web/0.log"]),
            ("links/*.log", vec!["links/web.log"]),
            ("pods/a/web/0.log.1", vec!["pods/a/web/0.log.1"]),
            ("absent/*.log", vec![]),
        ] {
            let mut found = Found::default();
            search(&format!("{}/{glob}", root.display()), &mut found);
            let files: Vec<_> =
                found.files.iter().map(|file| file.strip_prefix(&root).unwrap().to_str().unwrap()).collect();
            assert_eq!(files, expected, "{glob}");
            assert!(!found.is_cut && !found.folders.is_empty());
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn links_that_lead_round_and_folders_without_number_have_an_end() {
        let root = tempdir();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/0.log"), "x").unwrap();
        for nth in 0..4 {
            std::os::unix::fs::symlink(&root, root.join(format!("a/b/round-{nth}"))).unwrap();
        }
        let mut found = Found::default();
        search(&format!("{}/**/*.log", root.display()), &mut found);
        assert_eq!(found.files.len(), 1, "{:?}", found.files);
        assert!(!found.is_cut && found.entries < 100);
        for nth in 0..MOST_FOLDERS {
            fs::create_dir(root.join(format!("folder-{nth}"))).unwrap();
        }
        let mut found = Found::default();
        search(&format!("{}/*/*.log", root.display()), &mut found);
        assert!(found.is_cut && found.folders.len() == MOST_FOLDERS);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_glob_covers_the_paths_that_it_finds() {
        for (glob, path, expected) in [
            ("/var/log/*.log", "/var/log/a.log", true),
            ("/var/log/*.log", "/var/log/a.log.1", false),
            ("/var/log/*.log", "/var/log/b/a.log", false),
            ("/var/**/*.log", "/var/a.log", true),
            ("/var/**/*.log", "/var/b/c/a.log", true),
            ("/var/**/*.log", "/var/.b/a.log", false),
            ("/var/a.log", "/var/a.log", true),
            ("/var/a.log", "/var", false),
        ] {
            assert_eq!(covers(glob, Path::new(path)), expected, "{glob} {path}");
        }
    }

    fn tempdir() -> PathBuf {
        let root =
            std::env::temp_dir().join(format!("pillion-glob-{}-{}", std::process::id(), fastrand::u64(..)));
        fs::create_dir_all(&root).unwrap();
        root
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_pattern_makes_it_panic(pattern in r"[a\-*?\[\]!^]{0,12}", name in r"[a\-\[\]!]{0,12}") {
            fits(&pattern, &name);
        }

        #[test]
        fn a_name_fits_itself_and_a_star(name in "[a-z.]{1,9}") {
            prop_assert!(fits(&name, &name));
            prop_assert!(name.starts_with('.') || fits("*", &name));
        }
    }
}
