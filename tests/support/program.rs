//! A program that runs beside a test. Its output is read line by line, and it ends with its owner.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::tools::printed;
use super::{eventually, soon};

pub(crate) struct Program {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    errors: Arc<Mutex<String>>,
    description: String,
}

impl Program {
    pub(crate) fn start(command: Command) -> Self {
        Self::begin(command, Stdio::null())
    }

    /// With a standard input that the test writes.
    pub(crate) fn with_input(command: Command) -> Self {
        Self::begin(command, Stdio::piped())
    }

    fn begin(mut command: Command, input: Stdio) -> Self {
        let description = format!("{command:?}");
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| unreachable!("{description}: {error}"));
        let (sender, lines) = mpsc::unbounded_channel();
        each_line(child.stdout.take().expect("a pipe"), move |line| drop(sender.send(line)));
        let errors = Arc::new(Mutex::new(String::new()));
        let to = errors.clone();
        each_line(child.stderr.take().expect("a pipe"), move |line| *to.lock() += &(line + "\n"));
        Self { child, lines, errors, description }
    }

    /// A script of this directory, run by Python through `prefix`.
    pub(crate) fn script(mut prefix: Command, name: &str, arguments: &[&str]) -> Command {
        let path = format!("{}/tests/support/{name}", env!("CARGO_MANIFEST_DIR"));
        prefix.args(["python3", "-u"]).arg(path).args(arguments);
        prefix
    }

    /// The next line of standard output; there must be one.
    pub(crate) async fn line(&mut self) -> String {
        let line = soon(&self.description, self.lines.recv()).await;
        line.unwrap_or_else(|| unreachable!("{} ended; {}", self.description, self.errors.lock()))
    }

    /// Whether it has printed nothing that is still unread.
    pub(crate) fn is_silent(&self) -> bool {
        self.lines.is_empty()
    }

    /// The next line, which is a JSON value.
    pub(crate) async fn event(&mut self) -> serde_json::Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|error| unreachable!("{error}: {line}"))
    }

    /// Waits until this text is in its log.
    pub(crate) async fn has_logged(&self, text: &str) {
        eventually(text, async || self.errors().contains(text).then_some(())).await;
    }

    /// What it has written to standard error so far.
    pub(crate) fn errors(&self) -> String {
        self.errors.lock().clone()
    }

    /// Writes to its standard input.
    pub(crate) fn write(&mut self, text: &str) {
        let input = self.child.stdin.as_mut().expect("an input that the test writes");
        input.write_all(text.as_bytes()).expect("a running program");
    }

    pub(crate) async fn signal(&self, name: &str) {
        let mut kill = Command::new("sh");
        kill.args(["-c", &format!("kill -{name} {}", self.pid())]);
        printed(kill).await;
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of standard output. `None` when the program has ended.
    pub(crate) async fn next_line(&mut self) -> Option<String> {
        soon(&self.description, self.lines.recv()).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.description, self.errors.lock());
        }
    }
}

/// Reads a pipe to its end on a thread of its own: a full pipe would stop the program.
fn each_line(pipe: impl Read + Send + 'static, mut hears: impl FnMut(String) + Send + 'static) {
    std::thread::spawn(move || BufReader::new(pipe).lines().map_while(Result::ok).for_each(&mut hears));
}
