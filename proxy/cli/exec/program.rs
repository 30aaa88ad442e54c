//! Looks for the program of the application before the sidecar starts.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::application::NotStarted;

/// Where programs are looked for without the variable `PATH`.
const USUAL_PATH: &str = "/usr/local/bin:/bin:/usr/bin";

/// Looks for the program as its start will do (execvp(3)), so that nothing is done for one that cannot start. A script whose
/// interpreter is missing is found by the start alone.
///
/// # Errors
/// There is no such program, or this user may not execute it.
pub(super) fn look_for(words: &[OsString]) -> anyhow::Result<()> {
    let program = words.first().ok_or_else(|| anyhow::anyhow!("no command"))?;
    let path = std::env::var_os("PATH").unwrap_or_else(|| USUAL_PATH.into());
    executable(program, &path).map_err(|error| NotStarted::of(program, error).into())
}

fn executable(program: &OsStr, path: &OsStr) -> io::Result<()> {
    if program.as_encoded_bytes().contains(&b'/') {
        return may_execute(Path::new(program));
    }
    let mut why = io::Error::from(io::ErrorKind::NotFound);
    for folder in std::env::split_paths(path) {
        match may_execute(&folder.join(program)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => why = error,
            Err(_other) => {} // it is not in this folder
        }
    }
    Err(why)
}

fn may_execute(file: &Path) -> io::Result<()> {
    if file.metadata()?.is_dir() {
        return Err(Errno::ACCESS.into()); // as the kernel answers
    }
    match access(file, Access::EXEC_OK) {
        Err(error @ (Errno::ACCESS | Errno::NOENT)) => Err(error.into()),
        _ => Ok(()), // a kernel that does not tell it leaves it to the start
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use pillion_testkit::Scratch;

    use super::*;

    #[test]
    fn a_program_is_looked_for_as_its_start_does() {
        let scratch = Scratch::new();
        let (first, second) = (scratch.path("first"), scratch.path("second"));
        for (folder, name, mode) in
            [(&first, "text", 0o600), (&second, "both", 0o755), (&first, "both", 0o600)]
        {
            fs::create_dir_all(folder).expect("a folder");
            fs::write(folder.join(name), "#!/bin/sh\n").expect("a file");
            fs::set_permissions(folder.join(name), Permissions::from_mode(mode))
                .expect("a file of this user");
        }
        fs::create_dir(second.join("folder")).expect("a folder");
        let path = std::env::join_paths([&scratch.path("none"), &first, &second]).expect("a path");
        let whole = |folder: &Path, name| folder.join(name).into_os_string();
        for (program, code) in [
            ("both".into(), None),
            (whole(&second, "both"), None),
            (whole(&first, "both"), Some(126)),
            ("text".into(), Some(126)),
            ("folder".into(), Some(126)),
            ("none".into(), Some(127)),
            (whole(&second, "none"), Some(127)),
        ] {
            let found = executable(&program, &path).map_err(|error| NotStarted::of(&program, error).code());
            assert_eq!(found.err(), code, "{program:?}");
        }
    }
}
