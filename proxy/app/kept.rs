//! The last good configuration, kept on disk (`run --snapshot PATH`) for a start at which the new one is bad or absent.
//!
//! The kept file is the text of the original, with its variables, below comments that say what it is and where the original
//! stands: relative paths in it start at the folder of the original.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pillion_config::{Fault, Given};
use pillion_model::Config;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// The beginning of the line that names the original, as a text of JSON.
const ORIGINAL: &str = "# original: ";
/// The file may contain secrets.
const MODE: u32 = 0o600;
/// How long the end of the process waits for a disk.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct Kept {
    path: PathBuf,
    /// The original as the command line names it, and from the root.
    original: PathBuf,
    absolute: String,
    /// The text that the file has, as far as this process knows.
    written: Option<Arc<str>>,
    /// The text that a thread writes: a disk may take seconds, and nothing may wait for it.
    writing: Option<Writing>,
    /// The text that is written after it.
    next: Option<Arc<str>>,
    /// The number of texts that this process has begun to write.
    begun: u64,
    /// Whether the path belongs to a successor now. A thread that writes looks at it, too.
    is_left: Arc<AtomicBool>,
}

struct Writing {
    text: Arc<str>,
    done: oneshot::Receiver<io::Result<()>>,
}

/// A kept configuration that was read.
pub struct Restored {
    pub config: Config,
    pub warnings: Vec<Fault>,
    pub text: String,
}

impl Kept {
    /// # Errors
    /// The two are the same file, or the path of the original is not UTF-8.
    pub fn new(path: PathBuf, original: &Path) -> anyhow::Result<Self> {
        let is_same = match (fs::canonicalize(&path), fs::canonicalize(original)) {
            (Ok(path), Ok(original)) => path == original,
            _ => path == original,
        };
        if is_same {
            bail!("--snapshot needs a file of its own, and {} is the configuration", path.display());
        }
        let absolute = std::path::absolute(original)?.into_os_string().into_string();
        let absolute = absolute
            .map_err(|of| anyhow::anyhow!("--snapshot needs a configuration whose path is UTF-8: {of:?}"))?;
        let original = original.to_owned();
        let is_left = Arc::default();
        Ok(Self { path, original, absolute, written: None, writing: None, next: None, begun: 0, is_left })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the kept configuration.
    ///
    /// # Errors
    /// There is none, or it is not valid. The text has all faults.
    pub fn restore(&self, given: &Given) -> anyhow::Result<Restored> {
        let text = pillion_config::read(&self.path).map_err(|errors| anyhow::anyhow!("{errors}"))?;
        let folder = self.folder(&text)?;
        let read = pillion_config::parse_file(&self.path, &text, &folder, given);
        let (config, warnings) = read.map_err(|errors| anyhow::anyhow!("{errors}"))?;
        Ok(Restored { config, warnings, text })
    }

    /// The folder at which relative paths start. It is spelled as for the original where that is the same, so that a reload
    /// of the original finds the same paths.
    fn folder(&self, text: &str) -> anyhow::Result<PathBuf> {
        let named = original_of(text).with_context(|| {
            format!(
                "{} has no line `{ORIGINAL}\"PATH\"`, with which kept configurations begin",
                self.path.display()
            )
        })?;
        let original = if named == self.absolute { self.original.as_path() } else { Path::new(&named) };
        Ok(original.parent().unwrap_or_else(|| Path::new("")).to_owned())
    }

    /// Keeps this text of the original, in one step: a reader finds the old text or the new one, also after a power failure.
    /// [`Self::wrote`] is to be awaited then. A failure is logged.
    pub(super) fn keep(&mut self, text: &Arc<str>) {
        if self.is_left.load(SeqCst) {
            return;
        }
        let writing = self.writing.as_ref().map(|writing| &writing.text);
        if self.next.as_ref().or(writing).or(self.written.as_ref()) != Some(text) {
            self.next = Some(text.clone());
            self.write_next();
        }
    }

    /// Leaves the path to a successor, which writes its own text when it knows that this process has handed over. A text that
    /// is being written is dropped unless it has its name already.
    pub(super) fn leave(&mut self) {
        self.is_left.store(true, SeqCst);
        self.next = None;
    }

    fn write_next(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let Some(text) = self.next.take() else { return };
        let whole = format!("{}{}", header(&self.absolute), text.strip_prefix('\u{feff}').unwrap_or(&text));
        self.begun += 1;
        let unfinished = format!("new.{}.{}", std::process::id(), self.begun);
        let (path, unfinished) = (self.path.clone(), self.path.with_added_extension(unfinished));
        let ((tell, done), is_left) = (oneshot::channel(), self.is_left.clone());
        let write = move || {
            let replaced = replace(&path, &unfinished, &whole, &is_left);
            drop(tell.send(replaced)); // this process may be about to end
        };
        match thread::Builder::new().name("snapshot".into()).spawn(write) {
            Ok(_detached) => self.writing = Some(Writing { text, done }),
            Err(error) => self.tell_failure(&error),
        }
    }

    /// Waits until a text is written, and begins with the next one. Never returns while there is none to write. May be
    /// dropped and called again.
    pub(super) async fn wrote(&mut self) {
        let Some(Writing { text, done }) = &mut self.writing else { return std::future::pending().await };
        match done.await.unwrap_or_else(|_ended| Err(io::Error::other("the thread that writes it has ended")))
        {
            Ok(()) => self.written = Some(text.clone()),
            Err(error) => self.tell_failure(&error),
        }
        self.writing = None;
        self.write_next();
    }

    /// Waits for a bounded time until everything is written, because the process ends.
    pub(super) async fn finish(&mut self) {
        let all = async {
            while self.writing.is_some() {
                self.wrote().await;
            }
        };
        if timeout(PATIENCE, all).await.is_err() {
            self.tell_failure(&io::Error::new(io::ErrorKind::TimedOut, "the disk takes too long"));
        }
    }

    fn tell_failure(&self, error: &io::Error) {
        tracing::error!(
            path = %self.path.display(),
            %error,
            "the configuration cannot be kept; the next start would have an older one, or none"
        );
    }
}

fn header(original: &str) -> String {
    format!(
        "# The last good configuration, kept by `pillion run --snapshot`. It is written anew after each good start and reload,\n\
         # and used at a start where the original is bad or absent. Change the original, not this file. Relative paths start at the\n\
         # folder of the original.\n\
         {ORIGINAL}{}\n",
        serde_json::Value::from(original)
    )
}

/// The original that the comments at the beginning name.
fn original_of(text: &str) -> Option<String> {
    let comments = text.lines().take_while(|line| line.starts_with('#'));
    let named = comments.filter_map(|line| line.strip_prefix(ORIGINAL)).next()?;
    serde_json::from_str(named).ok()
}

/// Writes the file `unfinished` beside the path, whose name no other process uses, and renames it, unless the path was left
/// meanwhile.
fn replace(path: &Path, unfinished: &Path, text: &str, is_left: &AtomicBool) -> io::Result<()> {
    let written = write(unfinished, text).and_then(|()| match is_left.load(SeqCst) {
        true => fs::remove_file(unfinished),
        false => fs::rename(unfinished, path),
    });
    written.inspect_err(|_| drop(fs::remove_file(unfinished)))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {} // it may be of a process that had the same number, and ended while it wrote
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use pillion_testkit::Scratch;

    use super::*;

    #[tokio::test]
    async fn the_kept_text_is_read_as_that_of_the_original() {
        let scratch = Scratch::new();
        let (original, path) = (scratch.path("p.yaml"), scratch.path("kept.yaml"));
        let text = "\u{feff}identity: { directory: certs }\ninbound: off\n";
        fs::write(&original, text).unwrap();
        let mut kept = Kept::new(path.clone(), &original).unwrap();
        assert!(kept.restore(&Given::default()).is_err(), "there is none yet");
        kept.keep(&text.into());
        kept.finish().await;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let restored = kept.restore(&Given::default()).unwrap();
        assert_eq!(restored.config, pillion_config::load(&original).unwrap().0);
        let elsewhere = Kept::new(path.clone(), &scratch.path("sub/other.yaml")).unwrap();
        assert_eq!(
            elsewhere.restore(&Given::default()).unwrap().config,
            restored.config,
            "the folder is that of the original"
        );
        for later in ["inbound: on\n", "outbound: off\n", "inbound: off\n"] {
            kept.keep(&later.into()); // the first is being written, and the last one is what counts
        }
        kept.finish().await;
        assert!(kept.restore(&Given::default()).unwrap().config.identity.is_none());
        assert_eq!(fs::read_dir(scratch.path(".")).unwrap().count(), 2, "no unfinished file is left");
    }

    /// The successor may write the same path at the same time.
    #[tokio::test]
    async fn a_former_process_leaves_the_path_and_unfinished_files_to_its_successor() {
        let scratch = Scratch::new();
        let (path, of_another) = (scratch.path("kept.yaml"), scratch.path("kept.yaml.new"));
        fs::write(&of_another, "half of a text").unwrap();
        let mut kept = Kept::new(path.clone(), &scratch.path("p.yaml")).unwrap();
        kept.keep(&"inbound: off\n".into());
        kept.finish().await;
        assert_eq!(fs::read_to_string(&of_another).unwrap(), "half of a text");

        fs::write(&path, "of the successor").unwrap();
        let unfinished = scratch.path("kept.yaml.new.1.2");
        replace(&path, &unfinished, "late", &AtomicBool::new(true)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "of the successor");
        assert!(!unfinished.exists());

        kept.keep(&"inbound: on\n".into());
        kept.keep(&"outbound: off\n".into());
        kept.leave();
        kept.keep(&"workers: 1\n".into());
        kept.finish().await;
        let now = fs::read_to_string(&path).unwrap();
        assert!(!now.contains("outbound: off") && !now.contains("workers: 1"), "{now}");
    }

    #[test]
    fn a_file_that_was_not_kept_by_a_sidecar_is_refused() {
        let scratch = Scratch::new();
        let (original, path) = (scratch.path("p.yaml"), scratch.path("kept.yaml"));
        let kept = Kept::new(path.clone(), &original).unwrap();
        for (text, expected) in [
            ("inbound: off\n", "has no line `# original: "),
            ("# original: nonsense\ninbound: off\n", "has no line `# original: "),
            ("inbound: off\n# original: \"/p.yaml\"\n", "has no line `# original: "),
            ("# original: \"/p.yaml\"\ninbund: off\n", "kept.yaml:2:1: error: the file has no key `inbund`"),
        ] {
            fs::write(&path, text).unwrap();
            let said =
                kept.restore(&Given::default()).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(expected), "{said}");
        }
        assert!(Kept::new(original.clone(), &original).is_err());
    }
}
