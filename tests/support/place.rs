//! Where a server runs: on this host on loopback, or in a pod on every address, as a user without privileges.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use tokio::net::TcpStream;

use super::backend::free;
use super::namespace::Namespace;
use super::tools::run;

/// The user of applications in a pod.
pub(crate) const APPLICATION: &str = "nobody";

#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The address where the server answers: on loopback, as seen from the place.
    pub(crate) address: SocketAddr,
    /// A prefix that runs the command in its arguments. Empty on this host.
    prefix: Vec<OsString>,
}

impl Place {
    /// This host, with a free port.
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

    /// The command as it must be run in this place.
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
