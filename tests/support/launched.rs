//! The built binary behind another program: in a namespace under a user of its own, or with fewer descriptors.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use super::certs::Authority;
use super::program::Program;
use super::tools::printed;
use super::{Scratch, eventually};

/// A sidecar at work; killed with the test.
pub(crate) struct Launched {
    program: Program,
    /// The line that said so.
    ready: String,
    #[allow(dead_code, reason = "the files stay as long as the process")]
    scratch: Scratch,
}

impl Launched {
    /// Exactly this configuration; an empty one is the defaults. `prefix` is a command that ends by running the words behind its own.
    pub(crate) async fn start(mut prefix: Command, yaml: &str, identity: Option<(&Authority, &str)>) -> Self {
        let scratch = Scratch::new();
        let mut yaml = yaml.to_owned();
        if let Some((authority, account)) = identity {
            authority.issue_into(&scratch.path().join("certs"), account);
            yaml += "\nidentity: { directory: certs }\n";
        }
        let yaml = if yaml.is_empty() { "{}".to_owned() } else { yaml };
        let config = scratch.write("pillion.yaml", yaml);
        prefix.arg(binary()).args(["run", "-c"]).arg(config);
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

    /// Waits until its log has this.
    pub(crate) async fn has_told(&self, text: &str) {
        eventually(text, async || self.program.errors().contains(text).then_some(())).await;
    }

    /// Its log so far.
    pub(crate) fn errors(&self) -> String {
        self.program.errors()
    }

    /// SIGTERM, and its end.
    pub(crate) async fn terminated(&self) {
        let mut kill = Command::new("sh");
        kill.args(["-c", &format!("kill -TERM {}", self.pid())]);
        printed(kill).await;
        eventually("the end of the sidecar", async || self.has_ended().then_some(())).await;
    }

    /// Gone, or waiting to be reaped.
    fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }
}

/// `PILLION_TEST_BINARY` names another build, so that figures can be those of a release.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("PILLION_TEST_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_pillion").into(), PathBuf::from)
}
