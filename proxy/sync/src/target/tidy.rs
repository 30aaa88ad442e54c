//! Removes what is of no use any more: what ended processes have left, and versions before the last but one.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::walk::DATA;
use super::disk::{name, parent, remove};
use super::{FILES, FOLDERS, Target};

impl Target {
    /// Removes what processes have left that ended while they wrote. The version before the one at work stays.
    pub(crate) fn tidy(&self) {
        let (folder, prefix) = match self.is_folder {
            true => (self.path.clone(), FOLDERS.to_owned()),
            false => (parent(&self.path), FILES.to_owned()),
        };
        let end = if self.is_folder { String::new() } else { format!(".{}", name(&self.path)) };
        let at_work = fs::read_link(self.path.join(DATA)).ok();
        let kept = [at_work.as_deref().and_then(|at_work| self.version_before(at_work)), at_work];
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let number = file.to_str().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(&end));
            // the name of another entry's file may end with the name of this one
            let is_left = number.is_some_and(|number| !number.contains('.') && self.is_left(number));
            if is_left && kept.iter().flatten().all(|kept| kept != Path::new(&file)) {
                remove(&entry.path());
            }
        }
    }

    /// The newest folder that is older than the one at work: a newer one was not written to its end.
    fn version_before(&self, at_work: &Path) -> Option<PathBuf> {
        let at_work = when(at_work)?;
        let all = fs::read_dir(&self.path).ok()?.flatten().map(|entry| PathBuf::from(entry.file_name()));
        all.filter(|file| when(file).is_some_and(|when| when < at_work)).max_by_key(|file| when(file))
    }

    /// Whether the number in a name is that of no other sidecar that is running.
    fn is_left(&self, number: &str) -> bool {
        let process = number.split('-').next().and_then(|process| process.parse().ok());
        process.is_some_and(|process| process == std::process::id() || !(self.is_sidecar)(process))
    }

    /// Removes the folders of versions but those two, and those of another sidecar.
    pub(super) fn remove_older(&self, kept: [&Path; 2]) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let number = file.to_str().and_then(|name| name.strip_prefix(FOLDERS));
            if number.is_some_and(|number| self.is_left(number)) && !kept.contains(&Path::new(&file)) {
                remove(&entry.path());
            }
        }
    }
}

/// When the folder of a version was written, by its name: when its process began, and which of its versions it is.
fn when(folder: &Path) -> Option<(u128, u64)> {
    let mut numbers = folder.to_str()?.strip_prefix(FOLDERS)?.split('-').skip(1);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
