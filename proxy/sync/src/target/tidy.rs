//! Removes what is of no use any more: what ended processes have left, and versions before the last but one.

use std::fs;
use std::path::Path;

use super::super::walk::DATA;
use super::disk::{name, parent, remove};
use super::{FILES, FOLDERS, Target};

impl Target {
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
