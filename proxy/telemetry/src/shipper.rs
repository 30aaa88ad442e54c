//! Writes finished lines to a sink that may be slow, blocked or full. The caller never waits for the sink.
//!
//! Lines are copied into a buffer; a thread swaps it for an empty one and writes it. Waking the thread costs more than
//! a line, so under load the thread checks the buffer every [`LINGER`] by itself. It is woken only if it sleeps because
//! there were no lines, or if the buffer fills up.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pillion_model::telemetry::LogPath;

use super::family::IntCounter;

/// The most bytes of waiting lines: a tenth of a second at 80,000 requests a second. The bound keeps the sidecar small.
const MOST_WAITING: usize = 4 << 20;
/// With this many bytes the thread is woken early.
const MANY_WAITING: usize = MOST_WAITING / 2;
/// The capacity that each of the two buffers keeps after a burst: most batches fit without growing it again.
const KEPT: usize = 256 << 10;
/// The longest time that a line waits under load before it is written.
const LINGER: Duration = Duration::from_millis(20);
/// The time between attempts to open a file again, and between checks whether the file was moved away.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// The time between attempts to write to a full sink that another program made non-blocking.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// The handle of the callers. Its owner must close it.
pub struct Shipper(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    /// Wakes the thread for lines or for closing.
    wake: Condvar,
    /// Wakes the caller of `close` when the thread has ended.
    ended: Condvar,
    dropped: IntCounter,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
    /// Whether the thread sleeps until it is woken.
    asleep: bool,
    /// Whether the sink shall be opened again.
    reopening: bool,
    closing: bool,
    ended: bool,
}

impl Shipper {
    /// # Errors
    /// The thread cannot be started.
    pub fn start(sink: Sink, dropped: IntCounter) -> io::Result<Self> {
        let (waiting, wake, ended) = Default::default();
        let shared = Arc::new(Shared { waiting, wake, ended, dropped });
        let theirs = shared.clone();
        thread::Builder::new().name("access-log".to_owned()).spawn(move || theirs.carry(sink))?;
        Ok(Self(shared))
    }

    /// Copies `line`, which ends in a line feed. If the buffer is full, the line is dropped and counted.
    pub fn send(&self, line: &[u8]) {
        match self.0.waiting.lock().push(line) {
            Pushed::Quietly => {}
            Pushed::Wake => drop(self.0.wake.notify_one()),
            Pushed::Dropped => self.0.dropped.inc(),
        }
    }

    /// Asks for the file to be opened again. Lines that were sent before may go to the old file.
    pub fn reopen(&self) {
        self.0.waiting.lock().reopening = true;
        self.0.wake.notify_one();
    }

    /// Accepts no more lines. Returns true once every accepted line was written, and false if `patience` ran out.
    pub fn close(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut waiting = self.0.waiting.lock();
        let first = !mem::replace(&mut waiting.closing, true);
        self.0.wake.notify_one();
        // a second caller does not wait, because the first one has waited already
        while first && !waiting.ended && !self.0.ended.wait_until(&mut waiting, deadline).timed_out() {}
        waiting.ended
    }
}

enum Pushed {
    Quietly,
    Wake,
    Dropped,
}

impl Waiting {
    fn push(&mut self, line: &[u8]) -> Pushed {
        let before = self.bytes.len();
        if self.closing || before + line.len() > MOST_WAITING {
            return Pushed::Dropped;
        }
        self.bytes.extend_from_slice(line);
        self.lines += 1;
        let filling = before < MANY_WAITING && self.bytes.len() >= MANY_WAITING;
        if mem::take(&mut self.asleep) || filling { Pushed::Wake } else { Pushed::Quietly }
    }
}

impl Shared {
    fn carry(&self, mut sink: Sink) {
        let mut batch = Vec::new();
        while let Some((lines, reopening)) = self.next(&mut batch) {
            let failed_before = sink.failed;
            if reopening {
                sink.open_again();
            }
            if let Err(error) = sink.write(&batch, Instant::now()) {
                self.dropped.inc_by(lines);
                log_first_failure(failed_before, sink.path.as_deref(), &error);
            }
            batch.clear();
            batch.shrink_to(KEPT);
            self.linger();
        }
        self.waiting.lock().ended = true;
        self.ended.notify_all();
    }

    /// Swaps the waiting lines for the empty `batch`. Returns how many there are, and whether the sink shall be opened
    /// again before they are written. Sleeps while there is nothing to do. `None`: the shipper is closed.
    fn next(&self, batch: &mut Vec<u8>) -> Option<(u64, bool)> {
        let mut waiting = self.waiting.lock();
        while waiting.bytes.is_empty() && !waiting.reopening {
            if waiting.closing {
                return None;
            }
            waiting.asleep = true;
            self.wake.wait(&mut waiting);
        }
        waiting.asleep = false;
        mem::swap(&mut waiting.bytes, batch);
        Some((mem::take(&mut waiting.lines), mem::take(&mut waiting.reopening)))
    }

    fn linger(&self) {
        let mut waiting = self.waiting.lock();
        if !waiting.closing && waiting.bytes.len() < MANY_WAITING {
            self.wake.wait_for(&mut waiting, LINGER);
        }
    }
}

/// Logs only the first failure of a broken sink; the counter shows the rest.
fn log_first_failure(failed_before: bool, path: Option<&Path>, error: &io::Error) {
    if !failed_before {
        let path = path.map(|path| path.display().to_string());
        tracing::warn!(path, %error, "the access log cannot be written: its lines are lost and counted");
    }
}

/// The sink: a file, standard output or standard error.
pub struct Sink {
    file: File,
    /// The file to open again. `None` for standard output and standard error.
    path: Option<PathBuf>,
    look_at: Instant,
    failed: bool,
    /// Whether the last line was written in part. Then the next line must not continue it.
    torn: bool,
}

impl Sink {
    /// Opens a file for appending. A file that does not exist is created, readable by its owner and its group.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &LogPath) -> io::Result<Self> {
        match path {
            LogPath::Stdout => Ok(Self::stream(io::stdout().as_fd().try_clone_to_owned()?.into())),
            LogPath::Stderr => Ok(Self::stream(io::stderr().as_fd().try_clone_to_owned()?.into())),
            LogPath::File(path) => Ok(Self { path: Some(path.clone()), ..Self::stream(open_file(path)?) }),
        }
    }

    fn stream(file: File) -> Self {
        Self { file, path: None, look_at: Instant::now(), failed: false, torn: false }
    }

    /// Opens the file again. A file that cannot be opened leaves the old one in use.
    fn open_again(&mut self) {
        let Some(path) = &self.path else { return };
        match open_file(path) {
            Ok(file) => {
                self.torn &= !is_other(path, &self.file); // the new file has no line that ends in the middle
                (self.file, self.failed) = (file, false);
                tracing::info!(path = %path.display(), "the access log was opened again");
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the access log cannot be opened again: the old file stays in use");
            }
        }
    }

    fn write(&mut self, lines: &[u8], now: Instant) -> io::Result<()> {
        self.reopen(now)?;
        let written = self.write_whole(lines);
        self.failed = written.is_err();
        written
    }

    /// Opens the file again after a failure, or if the path leads to another file because rotation moved the old one
    /// away.
    fn reopen(&mut self, now: Instant) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if now < self.look_at {
            return if self.failed { Err(ErrorKind::NotConnected.into()) } else { Ok(()) };
        }
        self.look_at = now + REOPEN_PAUSE;
        if !self.failed && !is_other(path, &self.file) {
            return Ok(());
        }
        match open_file(path) {
            Ok(file) => self.file = file,
            // a file that was moved away can still be written to
            Err(error) if self.failed => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }

    fn write_whole(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.torn {
            write_all(&mut self.file, b"\n", &mut 0)?;
            self.torn = false;
        }
        let mut done = 0;
        let written = write_all(&mut self.file, lines, &mut done);
        self.torn =
            written.is_err() && done.checked_sub(1).is_some_and(|last| lines.get(last) != Some(&b'\n'));
        written
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn is_other(path: &Path, file: &File) -> bool {
    let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    path.metadata().map(identity).ok() != file.metadata().map(identity).ok()
}

/// Writes like the standard function, but reports how many bytes were written, and waits if a full sink does not block.
fn write_all(sink: &mut impl Write, bytes: &[u8], done: &mut usize) -> io::Result<()> {
    while let Some(rest) = bytes.get(*done..).filter(|rest| !rest.is_empty()) {
        match sink.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(taken) => *done += taken,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader, PipeReader, Read};
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::Metrics;

    fn dropped() -> IntCounter {
        Metrics::new(100).access_log_dropped()
    }

    fn pipe() -> (PipeReader, Sink) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (reader, Sink::stream(File::from(OwnedFd::from(writer))))
    }

    /// A path for this test, removed when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("pillion-shipper-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_file(&self.0).unwrap_or_default();
        }
    }

    #[test]
    fn a_sink_that_is_not_read_delays_no_caller_and_accepted_lines_arrive_later() {
        let (reader, sink) = pipe();
        let dropped = dropped();
        let shipper = Shipper::start(sink, dropped.clone()).expect("starts");
        let line = [&[b'x'; 999][..], b"\n"].concat();
        // more bytes than the buffer, the batch and the pipe can hold together
        let sent = 3 * MOST_WAITING / line.len();
        (0..sent).for_each(|_| shipper.send(&line));
        assert!(dropped.get() > 0);
        assert!(!shipper.close(Duration::ZERO), "the pipe has not been read yet");
        let arrived =
            BufReader::new(reader).lines().map_while(Result::ok).filter(|line| line.len() == 999).count();
        assert_eq!(arrived as u64, sent as u64 - dropped.get());
    }

    #[test]
    fn a_closed_shipper_has_written_every_line_and_counts_later_lines() {
        let (mut reader, sink) = pipe();
        let dropped = dropped();
        let shipper = Shipper::start(sink, dropped.clone()).expect("starts");
        shipper.send(b"one\n");
        shipper.send(b"two\n");
        assert!(shipper.close(Duration::from_secs(60)));
        shipper.send(b"late\n");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("reads");
        assert_eq!((text.as_str(), dropped.get()), ("one\ntwo\n", 1));
        assert!(shipper.close(Duration::ZERO), "closing twice is fine");
    }

    #[test]
    fn a_line_sent_to_an_idle_shipper_arrives_without_a_further_line() {
        let (reader, sink) = pipe();
        let shipper = Shipper::start(sink, dropped()).expect("starts");
        let mut lines = BufReader::new(reader).lines();
        for line in ["one", "two", "three"] {
            shipper.send(format!("{line}\n").as_bytes());
            assert_eq!(lines.next().and_then(Result::ok).as_deref(), Some(line));
        }
    }

    #[test]
    fn lines_for_a_broken_sink_are_counted_as_lost() {
        let (reader, sink) = pipe();
        drop(reader);
        let dropped = dropped();
        let shipper = Shipper::start(sink, dropped.clone()).expect("starts");
        (0..10).for_each(|_| shipper.send(b"line\n"));
        assert!(shipper.close(Duration::from_secs(60)));
        assert_eq!(dropped.get(), 10);
    }

    #[test]
    fn a_file_that_was_moved_away_is_followed_by_a_new_one() {
        let (path, moved) = (Scratch::new("rotated"), Scratch::new("rotated-away"));
        let mut sink = Sink::open(&LogPath::File(path.0.clone())).expect("opens");
        let start = sink.look_at;
        sink.write(b"one\n", start).expect("writes");
        fs::rename(&path.0, &moved.0).expect("moves");
        sink.write(b"two\n", start + REOPEN_PAUSE / 2).expect("writes");
        sink.write(b"three\n", start + REOPEN_PAUSE).expect("writes");
        let read = |path: &Scratch| fs::read_to_string(&path.0).expect("reads");
        assert_eq!((read(&moved), read(&path)), ("one\ntwo\n".to_owned(), "three\n".to_owned()));
    }

    #[test]
    fn a_file_is_opened_again_when_it_is_asked_for_also_without_lines() {
        let (path, moved) = (Scratch::new("asked"), Scratch::new("asked-away"));
        let sink = Sink::open(&LogPath::File(path.0.clone())).expect("opens");
        let shipper = Shipper::start(sink, dropped()).expect("starts");
        fs::rename(&path.0, &moved.0).expect("moves");
        shipper.reopen();
        while !path.0.exists() {
            thread::yield_now();
        }
        shipper.send(b"one\n");
        assert!(shipper.close(Duration::from_secs(60)));
        assert_eq!(fs::read_to_string(&path.0).expect("reads"), "one\n");
        assert_eq!(fs::read_to_string(&moved.0).expect("reads"), "");
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_stays_in_use() {
        let path = Scratch::new("kept");
        let mut sink = Sink::open(&LogPath::File(path.0.clone())).expect("opens");
        sink.path = Some(PathBuf::from("/proc/no/such/place"));
        sink.open_again();
        sink.write(b"one\n", sink.look_at - REOPEN_PAUSE).expect("writes");
        assert_eq!(fs::read_to_string(&path.0).expect("reads"), "one\n");
    }

    #[test]
    fn after_a_failure_a_file_is_opened_again_once_the_pause_is_over() {
        let path = Scratch::new("failed");
        let mut sink = Sink::open(&LogPath::File(path.0.clone())).expect("opens");
        let start = sink.look_at;
        sink.write(b"one\n", start).expect("writes");
        sink.file = File::open(&path.0).expect("opens");
        for (pause, written) in [(0, false), (500, false), (1_000, true), (1_001, true)] {
            let now = start + Duration::from_millis(pause);
            assert_eq!(sink.write(b"line\n", now).is_ok(), written, "after {pause} ms");
        }
        assert_eq!(fs::read_to_string(&path.0).expect("reads"), "one\nline\nline\n");
    }

    #[test]
    fn a_partly_written_line_is_ended_before_the_next_one() {
        /// Accepts five bytes, then fails.
        struct Short(usize);
        impl Write for Short {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let taken = bytes.len().min(self.0);
                self.0 -= taken;
                if taken == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(taken) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut done = 0;
        assert!(write_all(&mut Short(5), b"one\ntwo\n", &mut done).is_err());
        assert_eq!(done, 5);
        let path = Scratch::new("torn");
        let mut sink = Sink::open(&LogPath::File(path.0.clone())).expect("opens");
        sink.file.write_all(b"one\nt").expect("writes");
        sink.torn = true;
        sink.write(b"three\n", sink.look_at).expect("writes");
        assert_eq!(fs::read_to_string(&path.0).expect("reads"), "one\nt\nthree\n");
    }
}
