//! Finds the files that globs name.
//!
//! `*`, `?` and `[a-z]` stand for characters of one name, `**` as a whole name for any number of folders. Names that begin
//! with a dot are found only by a glob that has the dot. Symbolic links are followed, because Kubernetes has them.

use std::fs;
use std::path::{Path, PathBuf};

/// The most files that one glob finds. Each takes a descriptor.
const MOST: usize = 4096;
/// The most entries of folders that one search looks at.
const MOST_ENTRIES: usize = 100_000;
/// How deep `**` goes: links may lead round.
const DEEPEST: usize = 16;

/// What a search has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) files: Vec<PathBuf>,
    /// The folders in which they may appear.
    pub(crate) folders: Vec<PathBuf>,
    /// Whether a bound has ended the search.
    pub(crate) is_cut: bool,
    entries: usize,
}

/// Adds the paths that fit a glob, which begins with a slash, and the folders that were looked at. Through links, a file may be
/// found twice.
pub(crate) fn search(glob: &str, found: &mut Found) {
    let names: Vec<&str> = glob.split('/').filter(|name| !name.is_empty()).collect();
    descend(Path::new("/"), &names, 0, found);
}

fn descend(folder: &Path, names: &[&str], depth: usize, found: &mut Found) {
    let Some((name, rest)) = names.split_first() else { return };
    if !is_pattern(name) {
        let path = folder.join(name);
        return if rest.is_empty() {
            note_folder(folder, found);
            add(path, found);
        } else {
            descend(&path, rest, depth, found);
        };
    }
    if *name == "**" {
        descend(folder, rest, depth, found);
    }
    note_folder(folder, found);
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        found.entries += 1;
        if found.entries > MOST_ENTRIES || found.files.len() >= MOST {
            found.is_cut = true;
            return;
        }
        let file = entry.file_name();
        let Some(text) = file.to_str() else { continue };
        let path = folder.join(&file);
        if *name == "**" {
            if depth < DEEPEST && !text.starts_with('.') && path.is_dir() {
                descend(&path, names, depth + 1, found);
            }
        } else if fits(name, text) {
            if rest.is_empty() { add(path, found) } else { descend(&path, rest, depth, found) }
        }
    }
}

fn add(path: PathBuf, found: &mut Found) {
    if path.is_file() {
        found.files.push(path);
    }
}

fn note_folder(folder: &Path, found: &mut Found) {
    if !found.folders.iter().any(|known| known == folder) {
        found.folders.push(folder.to_owned());
    }
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
