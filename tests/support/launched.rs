//! The built binary, started through another program: in a namespace as another user, or with fewer descriptors.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use super::certs::Authority;
use super::program::Program;
use super::{Scratch, eventually};

/// A running sidecar, which is killed at the end of the test.
pub(crate) struct Launched {
    program: Program,
    /// The ready line.
    ready: String,
    scratch: Scratch,
}

impl Launched {
    /// Starts it with exactly this configuration; an empty one means the defaults. `prefix` is a command that runs the
    /// command in its arguments. With `--core-dumps`, an ordinary user can read its /proc/PID/fd.
    pub(crate) async fn start(prefix: Command, yaml: &str, identity: Option<(&Authority, &str)>) -> Self {
        Self::start_as(prefix, &["run", "--core-dumps", "-c"], yaml, identity).await
    }

    /// Starts it as [`Self::start`] does, as operators start it.
    pub(crate) async fn start_private(
        prefix: Command,
        yaml: &str,
        identity: Option<(&Authority, &str)>,
    ) -> Self {
        Self::start_as(prefix, &["run", "-c"], yaml, identity).await
    }

    async fn start_as(
        mut prefix: Command,
        words: &[&str],
        yaml: &str,
        identity: Option<(&Authority, &str)>,
    ) -> Self {
        let scratch = Scratch::new();
        let mut yaml = yaml.to_owned();
        if let Some((authority, account)) = identity {
            authority.issue_into(&scratch.path().join("certs"), account);
            yaml += "\nidentity: { directory: certs }\n";
        }
        let yaml = if yaml.is_empty() { "{}".to_owned() } else { yaml };
        let config = scratch.write("pillion.yaml", yaml);
        prefix.arg(binary()).args(words).arg(config);
        let mut program = Program::start(prefix);
        let ready = program.line().await;
        Self { program, ready, scratch }
    }

    /// The first address of a kind that the ready line names.
    pub(crate) fn address(&self, kind: &str) -> SocketAddr {
        let words = self.ready.split(' ').filter_map(|word| word.split_once('='));
        let found = words.filter(|(name, _)| *name == kind).find_map(|(_, list)| list.split(',').next());
        let found = found.unwrap_or_else(|| unreachable!("no {kind} in {}", self.ready));
        found.parse().expect("an address")
    }

    /// Renews its certificate.
    pub(crate) fn renew(&self, authority: &Authority, account: &str) {
        authority.issue_into(&self.scratch.path().join("certs"), account);
    }

    /// Waits until the log contains this text.
    pub(crate) async fn has_logged(&self, text: &str) {
        self.program.has_logged(text).await;
    }

    /// The log so far.
    pub(crate) fn errors(&self) -> String {
        self.program.errors()
    }

    /// Replaces the configuration file.
    pub(crate) fn rewrite(&self, yaml: &str) {
        let next = self.scratch.write("next.yaml", yaml); // never half of it
        std::fs::rename(next, self.scratch.path().join("pillion.yaml")).expect("the test's directory");
    }

    pub(crate) async fn signal(&self, name: &str) {
        self.program.signal(name).await;
    }

    /// Sends SIGTERM, and waits for the end.
    pub(crate) async fn terminated(&self) {
        self.signal("TERM").await;
        eventually("the end of the sidecar", async || self.has_ended().then_some(())).await;
    }

    /// Whether the process has ended with all its threads, reaped or not. The last one closes its ports.
    fn has_ended(&self) -> bool {
        let process = format!("/proc/{}", self.pid());
        let stat = std::fs::read_to_string(format!("{process}/stat"));
        let threads = std::fs::read_dir(format!("{process}/task")).map_or(0, Iterator::count);
        threads <= 1
            && stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }
}

/// The binary to test. `PILLION_TEST_BINARY` names another build, for measurements with a release build.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("PILLION_TEST_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_pillion").into(), PathBuf::from)
}
