//! Children of this process that one part of it waits for, while another part, the parent of an application in `pillion
//! exec`, collects every child that ends. Its end is passed on to those who wait.

use std::io;
use std::process::{Child, Command, ExitStatus};

use parking_lot::Mutex;

/// The children that are waited for, and how they have ended where another part of the process collected them.
static WAITED_FOR: Mutex<Vec<(u32, Option<ExitStatus>)>> = Mutex::new(Vec::new());

/// A child that is waited for.
#[derive(Debug)]
pub struct Kept(Child);

/// Starts a program.
///
/// # Errors
/// It cannot be started.
pub fn spawn(command: &mut Command) -> io::Result<Kept> {
    let mut all = WAITED_FOR.lock(); // held, so that its end is not collected before it is known here
    let child = command.spawn()?;
    all.push((child.id(), None));
    Ok(Kept(child))
}

/// Takes the end of a child that another part of the process has collected.
pub fn collected(id: u32, status: ExitStatus) {
    for (_, end) in WAITED_FOR.lock().iter_mut().filter(|(kept, _)| *kept == id) {
        *end = Some(status);
    }
}

impl Kept {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it has ended. `None`: it runs.
    ///
    /// # Errors
    /// It is no child of this process, which cannot happen.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match self.0.try_wait() {
            Ok(status) => Ok(status),
            Err(error) => {
                let id = self.0.id();
                let known = WAITED_FOR.lock().iter().find(|(kept, _)| *kept == id).and_then(|(_, end)| *end);
                known.map(Some).ok_or(error)
            }
        }
    }

    /// Collects its end on a thread of its own. It must have been killed.
    pub fn collect_later(mut self) {
        if !matches!(self.try_wait(), Ok(None)) {
            return;
        }
        let collecting = std::thread::Builder::new().name("collector".into());
        drop(collecting.spawn(move || drop(self.0.wait())));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let id = self.0.id();
        WAITED_FOR.lock().retain(|(kept, _)| *kept != id);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn ended(mut child: Kept) -> ExitStatus {
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return status;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_end_of_a_child_is_found() {
        let child = spawn(Command::new("sh").args(["-c", "exit 3"])).expect("sh");
        assert_eq!(ended(child).code(), Some(3));
    }

    #[test]
    fn the_end_that_another_part_has_collected_is_passed_on() {
        let child = spawn(&mut Command::new("true")).expect("true");
        let id = child.id();
        collected(id, ExitStatus::from_raw(5 << 8));
        let known = WAITED_FOR.lock().iter().find(|(kept, _)| *kept == id).and_then(|(_, end)| *end);
        assert_eq!(known.and_then(|end| end.code()), Some(5));
        drop(child);
        assert!(WAITED_FOR.lock().iter().all(|(kept, _)| *kept != id));
    }
}
