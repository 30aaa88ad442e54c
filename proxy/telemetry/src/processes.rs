//! Finds processes by their names and by the ports on which they listen, in `/proc`. In a pod that is those of the other
//! containers, too, where they share their processes (`shareProcessNamespace`).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel shows processes. Tests write a folder of their own.
pub const PROC: &str = "/proc";
/// What the kernel keeps of a name.
const KEPT: usize = 15;

/// The processes with this name that were not started by a process with this name: of a server with workers, the one that
/// started them. The name is that of the program or of the script, without its folder. Never this process itself.
pub fn named(proc: &Path, name: &str) -> Vec<i32> {
    let found: Vec<i32> = all(proc).into_iter().filter(|id| has_name(proc, *id, name)).collect();
    topmost(proc, found)
}

/// Whether the process with this number has this name.
pub fn is_named(proc: &Path, process: u32, name: &str) -> bool {
    i32::try_from(process).is_ok_and(|process| has_name(proc, process, name))
}

/// Why the kernel does not show which process it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Hidden {
    #[error(
        "the kernel does not show its descriptors to this user: run the sidecar as the same user, or give it the capability SYS_PTRACE"
    )]
    Denied,
    #[error(
        "a process listens on the port that is not among those that the sidecar sees: write shareProcessNamespace: true in the pod"
    )]
    Elsewhere,
}

/// The process that listens on this port, in the network of this one; of several, the one that started the others. `None`:
/// nothing listens there.
///
/// # Errors
/// A process listens there, and the kernel does not show which.
pub fn listening(proc: &Path, port: u16) -> Result<Option<i32>, Hidden> {
    let mut sockets = HashSet::new();
    for table in ["net/tcp", "net/tcp6"] {
        let text = fs::read_to_string(proc.join(table)).unwrap_or_default();
        sockets.extend(text.lines().filter_map(|line| listener(line, port)));
    }
    if sockets.is_empty() {
        return Ok(None);
    }
    let (mut holders, mut why) = (Vec::new(), Hidden::Elsewhere);
    for id in all(proc) {
        match holds(&proc.join(id.to_string()).join("fd"), &sockets) {
            Ok(true) => holders.push(id),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => why = Hidden::Denied,
            Err(_it_has_ended) => {}
        }
    }
    topmost(proc, holders).first().map(|id| Some(*id)).ok_or(why)
}

/// When a process was started, in ticks since the kernel was: two processes with one number differ in it. `None`: there is
/// no such process any more.
pub fn started(proc: &Path, process: i32) -> Option<u64> {
    field(proc, process, 22)?.parse().ok()
}

/// All processes but this one.
fn all(proc: &Path) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).ok();
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let entries = fs::read_dir(proc).into_iter().flatten();
    entries.filter_map(number).filter(|id| proc != Path::new(PROC) || Some(*id) != own).collect()
}

fn has_name(proc: &Path, process: i32, name: &str) -> bool {
    let folder = proc.join(process.to_string());
    let comm = fs::read_to_string(folder.join("comm")).unwrap_or_default();
    let comm = comm.trim_end_matches('\n');
    if comm == name {
        return true;
    }
    // a longer name is cut, and threads may give their process another one
    let is_cut = comm.len() == KEPT && name.starts_with(comm);
    let words = fs::read(folder.join("cmdline")).unwrap_or_default();
    let program = words.split(|byte| *byte == 0).next().unwrap_or_default();
    let program = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    program == name.as_bytes() || is_cut && program.is_empty()
}

/// Those whose parent is not one of them.
fn topmost(proc: &Path, mut found: Vec<i32>) -> Vec<i32> {
    let every = found.clone();
    let parent = |id: i32| -> Option<i32> { field(proc, id, 4)?.parse().ok() };
    found.retain(|id| parent(*id).is_none_or(|parent| !every.contains(&parent)));
    found.sort_unstable();
    found
}

/// Field `number` of `/proc/ID/stat`, as proc(5) counts them, from 3 on. The name before them may have any character.
fn field(proc: &Path, process: i32, number: usize) -> Option<String> {
    let stat = fs::read_to_string(proc.join(process.to_string()).join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(number.checked_sub(3)?).map(str::to_owned)
}

/// The inode of the socket in this line of `/proc/net/tcp`, if it listens on the port.
fn listener(line: &str, port: u16) -> Option<u64> {
    const LISTENS: &str = "0A";
    let mut words = line.split_whitespace();
    let (local, state) = (words.nth(1)?, words.nth(1)?);
    let (_, local) = local.rsplit_once(':')?;
    let is_it = state == LISTENS && u16::from_str_radix(local, 16).ok()? == port;
    is_it.then(|| words.nth(5)?.parse().ok())?
}

/// Whether a descriptor in this folder is one of the sockets.
fn holds(folder: &Path, sockets: &HashSet<u64>) -> io::Result<bool> {
    let inode = |link: PathBuf| -> Option<u64> {
        let link = fs::read_link(link).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    for entry in fs::read_dir(folder)? {
        if inode(entry?.path()).is_some_and(|inode| sockets.contains(&inode)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A folder like `/proc`, which is removed with it.
    struct Proc(PathBuf);

    impl Drop for Proc {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    impl Proc {
        fn new() -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("pillion-proc-{}-{count}", std::process::id()));
            fs::create_dir_all(path.join("net")).unwrap();
            Self(path)
        }

        fn add(&self, id: i32, parent: i32, comm: &str, words: &str) {
            let folder = self.0.join(id.to_string());
            fs::create_dir_all(folder.join("fd")).unwrap();
            fs::write(folder.join("comm"), format!("{comm}\n")).unwrap();
            fs::write(folder.join("cmdline"), words.replace(' ', "\0")).unwrap();
            let zeros = "0 ".repeat(17);
            fs::write(folder.join("stat"), format!("{id} (a) b) S {parent} {zeros}4200 0\n")).unwrap();
        }

        fn open(&self, id: i32, fd: u32, inode: u64) {
            symlink(format!("socket:[{inode}]"), self.0.join(format!("{id}/fd/{fd}"))).unwrap();
        }
    }

    #[test]
    fn a_name_is_that_of_the_program_or_of_the_script() {
        let proc = Proc::new();
        proc.add(10, 1, "java", "/usr/bin/java -jar app.jar");
        proc.add(11, 1, "configuration-s", "/srv/configuration-server --port 1");
        proc.add(12, 1, "MainThread", "gunicorn app:app");
        proc.add(13, 1, "configuration-s", "");
        assert_eq!(named(&proc.0, "java"), [10]);
        assert_eq!(named(&proc.0, "configuration-server"), [11, 13]);
        assert_eq!(named(&proc.0, "gunicorn"), [12]);
        assert_eq!(named(&proc.0, "jav"), [0_i32; 0]);
        assert!(
            is_named(&proc.0, 10, "java") && !is_named(&proc.0, 10, "node") && !is_named(&proc.0, 99, "java")
        );
    }

    #[test]
    fn of_a_server_with_workers_the_one_that_started_them_is_found() {
        let proc = Proc::new();
        proc.add(20, 1, "nginx", "");
        proc.add(21, 20, "nginx", "");
        proc.add(22, 20, "nginx", "");
        proc.add(30, 1, "nginx", "");
        assert_eq!(named(&proc.0, "nginx"), [20, 30]);
        assert_eq!((started(&proc.0, 20), started(&proc.0, 99)), (Some(4200), None));
    }

    #[test]
    fn the_process_that_listens_on_a_port_is_found_by_its_socket() {
        let proc = Proc::new();
        let line = |port: &str, state: &str, inode: u64| {
            format!(
                "   0: 0100007F:{port} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 100 0 0 10 0\n"
            )
        };
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        fs::write(
            proc.0.join("net/tcp"),
            format!("{head}{}{}", line("1F90", "01", 5), line("1F91", "0A", 6)),
        )
        .unwrap();
        fs::write(proc.0.join("net/tcp6"), line("1F90", "0A", 7)).unwrap();
        proc.add(20, 1, "app", "");
        proc.add(21, 20, "app", "");
        for id in [20, 21] {
            proc.open(id, 3, 7);
        }
        assert_eq!(listening(&proc.0, 8080).unwrap(), Some(20));
        assert_eq!(listening(&proc.0, 8081), Err(Hidden::Elsewhere), "its process is in another container");
        assert_eq!(listening(&proc.0, 9).unwrap(), None);
    }
}
