//! The `pillion_application_*` families: what the process of the application uses, for applications that tell it nowhere
//! themselves.
//!
//! The process is looked for in `/proc` when metrics are collected, and kept while it lives.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pillion_model::telemetry::ProcessMetrics;

use super::family::{About, Exposition, MetricKind};
use super::process;
use super::processes::{self, Hidden};

/// Between two searches for a process that was not found: each reads the descriptors of all processes.
const AGAIN: Duration = Duration::from_secs(5);

#[rustfmt::skip] // one table, read by columns
const FAMILIES: [(About, MetricKind); 4] = [
    (About { name: "pillion_application_cpu_seconds_total", help: "CPU time that the process of the application used, user and system." }, MetricKind::Counter),
    (About { name: "pillion_application_resident_memory_bytes", help: "Memory in RAM of the process of the application." }, MetricKind::Gauge),
    (About { name: "pillion_application_open_fds", help: "Open file descriptors of the process of the application." }, MetricKind::Gauge),
    (About { name: "pillion_application_threads", help: "Threads of the process of the application." }, MetricKind::Gauge),
];

/// Adds the families. They are absent while there is no such process.
pub(super) fn tell(by: &ProcessMetrics, to: &Exposition) {
    let search = Mutex::new(Search::new(by.clone(), processes::PROC.into()));
    to.sampled(FAMILIES, move || search.lock().usage(Instant::now()));
}

/// The search for the process, and what it has found.
struct Search {
    by: ProcessMetrics,
    proc: PathBuf,
    /// The process and when it was started: another one may get its number.
    found: Option<(i32, u64)>,
    /// When it was looked for in vain.
    missed: Option<Instant>,
    /// What was told last, so that each state is told once.
    told: Option<String>,
}

impl Search {
    const fn new(by: ProcessMetrics, proc: PathBuf) -> Self {
        Self { by, proc, found: None, missed: None, told: None }
    }

    /// The values in the order of [`FAMILIES`].
    fn usage(&mut self, now: Instant) -> [Option<f64>; 4] {
        let Some((id, _)) = self.current(now) else { return [None; 4] };
        let folder = self.proc.join(id.to_string());
        let values = process::application(&folder);
        let is_shown = values.iter().all(Option::is_some);
        let problem = (!is_shown).then(|| format!("process {id} may not be read: {}", Hidden::Denied));
        self.tell(problem, Some(id));
        values
    }

    /// The process that was found, if it lives, or else the one that is found now.
    fn current(&mut self, now: Instant) -> Option<(i32, u64)> {
        let lives = |(id, started): &(i32, u64)| processes::started(&self.proc, *id) == Some(*started);
        if let Some(found) = self.found.filter(lives) {
            return Some(found);
        }
        self.found = None;
        if self.missed.is_some_and(|missed| now.saturating_duration_since(missed) < AGAIN) {
            return None;
        }
        self.missed = None;
        match search(&self.by, &self.proc) {
            Ok(Some(id)) => self.found = processes::started(&self.proc, id).map(|started| (id, started)),
            Ok(None) => self.tell(None, None),
            Err(hidden) => self.tell(Some(hidden.to_string()), None),
        }
        if self.found.is_none() {
            self.missed = Some(now);
        }
        self.found
    }

    fn tell(&mut self, problem: Option<String>, found: Option<i32>) {
        if problem == self.told {
            return;
        }
        match (&problem, found) {
            (Some(why), _) => {
                tracing::warn!(by = %self.by, "the metrics of the application's process are incomplete: {why}")
            }
            (None, Some(process)) => {
                tracing::info!(by = %self.by, process, "the application's process can be read")
            }
            (None, None) => {}
        }
        self.told = problem;
    }
}

fn search(by: &ProcessMetrics, proc: &Path) -> Result<Option<i32>, Hidden> {
    match by {
        ProcessMetrics::Port(port) => processes::listening(proc, *port),
        ProcessMetrics::Name(name) => Ok(processes::named(proc, name).first().copied()),
    }
}

/// Held while a test starts a program, which has copies of all descriptors until it is that program.
#[cfg(test)]
pub(crate) static STARTING: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A program that is killed at the end of the test.
    struct Program(Child);

    impl Drop for Program {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    fn search(by: ProcessMetrics) -> Search {
        Search::new(by, processes::PROC.into())
    }

    /// Starts a program whose name no other process has.
    fn named(name: &str) -> Program {
        let path = std::env::temp_dir().join(name);
        // a copy cannot be executed while another test has forked a process that still has it open for writing
        std::os::unix::fs::symlink("/bin/sleep", &path).unwrap();
        let program = {
            let _starting = STARTING.lock();
            Program(Command::new(&path).arg("1000").spawn().unwrap())
        };
        // the kernel lets this process go on before the new program has its name
        let comm = format!("/proc/{}/comm", program.0.id());
        while std::fs::read_to_string(&comm).unwrap().trim() != name {
            std::thread::yield_now();
        }
        std::fs::remove_file(path).unwrap();
        program
    }

    #[test]
    fn a_process_is_found_by_its_name_and_found_anew_when_it_is_another_one() {
        let name = format!("papp{}", std::process::id());
        let mut search = search(ProcessMetrics::Name(name.clone()));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(search.usage(at(0)), [None; 4]);
        let first = named(&name);
        assert_eq!(search.usage(at(1)), [None; 4], "it is not looked for all the time");
        let values = search.usage(at(6));
        assert!(values.iter().all(|value| value.is_some_and(|value| value >= 0.0)), "{values:?}");
        assert_eq!(values[3], Some(1.0));
        let found = search.found.unwrap();
        assert_eq!(found.0, i32::try_from(first.0.id()).unwrap());
        drop(first);
        assert_eq!(search.usage(at(7)), [None; 4]);
        let second = named(&name);
        assert!(search.usage(at(20)).iter().all(Option::is_some));
        assert_eq!(search.found.unwrap().0, i32::try_from(second.0.id()).unwrap());
    }

    #[test]
    fn a_process_is_found_by_the_port_on_which_it_listens() {
        let _starting = STARTING.lock();
        // the child has the listener as its standard input, and this process is never the application
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut search = search(ProcessMetrics::Port(port));
        let sleep = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .spawn();
        let program = Program(sleep.unwrap());
        assert!(search.usage(Instant::now()).iter().all(Option::is_some));
        assert_eq!(search.found.unwrap().0, i32::try_from(program.0.id()).unwrap());
    }

    #[test]
    fn a_process_that_may_not_be_read_is_told_once() {
        let _starting = STARTING.lock();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut search = search(ProcessMetrics::Port(listener.local_addr().unwrap().port()));
        let start = Instant::now();
        assert_eq!(search.usage(start), [None; 4], "only this process has the listener");
        let told = search.told.clone();
        assert!(told.as_ref().is_some_and(|told| told.contains("shareProcessNamespace")), "{told:?}");
        assert_eq!(search.usage(start + AGAIN), [None; 4]);
        assert_eq!(search.told, told);
    }
}
