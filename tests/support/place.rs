//! Where a server runs: here, on loopback; or in a pod, on every address that it has, as somebody who may do nothing.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use tokio::net::TcpStream;

use super::backend::free;
use super::namespace::Namespace;
use super::tools::run;

/// The application's user in a pod.
pub(crate) const APPLICATION: &str = "nobody";

#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Where it answers: on loopback, as seen from where it runs.
    pub(crate) address: SocketAddr,
    /// A command that ends by running the words behind its own; nothing here.
    prefix: Vec<OsString>,
}

impl Place {
    /// A free port.
    pub(crate) fn here() -> Self {
        Self { address: free(), prefix: Vec::new() }
    }

    pub(crate) fn in_pod(host: &Namespace, port: u16) -> Self {
        let enter = host.enter();
        let prefix = std::iter::once(enter.get_program()).chain(enter.get_args()).map(OsString::from);
        Self { address: (Ipv4Addr::LOCALHOST, port).into(), prefix: prefix.collect() }
    }

    pub(crate) fn is_pod(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// The same command where it is to run.
    pub(crate) fn entered(&self, command: &Command) -> Command {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let mut all = self.prefix.iter().map(OsString::as_os_str).chain(words);
        let mut entered = Command::new(all.next().expect("a program"));
        entered.args(all);
        entered.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        entered
    }

    pub(crate) async fn answers(&self) -> bool {
        if !self.is_pod() {
            return TcpStream::connect(self.address).await.is_ok();
        }
        let mut connect = Command::new("bash");
        connect.args(["-c", &format!(": </dev/tcp/{}/{}", self.address.ip(), self.address.port())]);
        let mut entered = self.entered(&connect);
        entered.stderr(Stdio::null());
        run(entered).await.status.success()
    }
}
