//! Tells the service manager how this process is doing: datagrams to the Unix socket that systemd names in `NOTIFY_SOCKET`
//! (sd_notify(3), `Type=notify` of a unit). Without that variable nothing is told.
//!
//! Nothing waits for the service manager longer than [`PATIENCE`], and no failure to tell it changes what the sidecar does.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How long a message may wait for room in the socket of the service manager, which reads quickly.
const PATIENCE: Duration = Duration::from_millis(500);
/// The variable that says for which process the watchdog is meant. Absent, it is meant for any.
pub(crate) const WATCHDOG_PID: &str = "WATCHDOG_PID";
/// The longest status that is told.
const STATUS_BYTES: usize = 512;

/// The service manager. `None`: there is none, or it does not want to be told.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager(Option<Told>);

#[derive(Debug)]
struct Told {
    socket: UnixDatagram,
    to: SocketAddr,
    /// Whether the process must say regularly that it is well.
    has_watchdog: bool,
}

/// What is told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum News<'a> {
    /// The sidecar serves, after the start or a reload. The status says on which addresses, or what was refused.
    Ready {
        status: &'a str,
    },
    Reloading,
    Stopping,
    /// It is well, for `WatchdogSec=` of the unit.
    Well,
    /// Another process of the service serves in its place. systemd accepts this from the main process alone.
    Successor {
        pid: u32,
    },
}

/// What systemd gives to the process.
#[derive(Debug, Default)]
struct Environment {
    socket: Option<OsString>,
    watchdog_usec: Option<OsString>,
    watchdog_pid: Option<OsString>,
}

impl ServiceManager {
    /// The service manager that the environment of this process names.
    pub(crate) fn of_environment() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self::named(&Environment {
            socket: variable("NOTIFY_SOCKET"),
            watchdog_usec: variable("WATCHDOG_USEC"),
            watchdog_pid: variable(WATCHDOG_PID),
        })
    }

    fn named(environment: &Environment) -> Self {
        let Some(name) = &environment.socket else { return Self(None) };
        match Told::open(name, environment.has_watchdog()) {
            Ok(told) => Self(Some(told)),
            Err(error) => {
                let socket = name.display();
                tracing::warn!(%error, %socket, "the service manager cannot be told that the sidecar is ready (NOTIFY_SOCKET)");
                Self(None)
            }
        }
    }

    pub(crate) fn tell(&self, news: News<'_>) {
        let Some(told) = &self.0 else { return };
        if matches!(news, News::Well) && !told.has_watchdog {
            return;
        }
        let text = text(news, monotonic_usec());
        if let Err(error) = told.socket.send_to_addr(text.as_bytes(), &told.to) {
            tracing::warn!(%error, "the service manager cannot be told: {}", text.replace('\n', " "));
        }
    }
}

impl Environment {
    /// A watchdog that is meant for another process is none.
    fn has_watchdog(&self) -> bool {
        let own = std::process::id().to_string();
        self.watchdog_usec.is_some() && self.watchdog_pid.as_ref().is_none_or(|pid| *pid == *own)
    }
}

impl Told {
    fn open(name: &OsStr, has_watchdog: bool) -> io::Result<Self> {
        let to = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::other("it is neither a path nor an abstract address")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, to, has_watchdog })
    }
}

/// Microseconds of CLOCK_MONOTONIC, by which systemd orders a reload and the signal that asked for it.
fn monotonic_usec() -> u128 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_micros())
}

fn text(news: News<'_>, monotonic_usec: u128) -> String {
    match news {
        News::Ready { status } => format!("READY=1\n{}", told(status)),
        News::Reloading => {
            format!("RELOADING=1\nMONOTONIC_USEC={monotonic_usec}\n{}", told("reading the configuration"))
        }
        News::Stopping => format!("STOPPING=1\n{}", told("draining")),
        News::Well => "WATCHDOG=1".to_owned(),
        News::Successor { pid } => format!("MAINPID={pid}"),
    }
}

/// A status has one line.
fn told(status: &str) -> String {
    let line = status.lines().next().unwrap_or_default();
    let end = line.floor_char_boundary(STATUS_BYTES);
    format!("STATUS={}", line.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use pillion_testkit::Scratch;

    use super::*;

    /// The next message to the socket.
    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 2048];
        let length = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    fn named(socket: &str, watchdog_pid: Option<u32>) -> ServiceManager {
        let watchdog_pid = watchdog_pid.map(|pid| pid.to_string().into());
        let watchdog_usec = watchdog_pid.is_some().then(|| "1000000".into());
        ServiceManager::named(&Environment { socket: Some(socket.into()), watchdog_usec, watchdog_pid })
    }

    #[test]
    fn news_come_to_a_socket_with_a_path_and_to_an_abstract_one() {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let scratch = Scratch::new();
        let path = scratch.path("notify").display().to_string();
        let abstract_name = format!("pillion-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let abstract_address = SocketAddr::from_abstract_name(&abstract_name).expect("a name");
        for (listening, name) in [
            (UnixDatagram::bind(&path), path.clone()),
            (UnixDatagram::bind_addr(&abstract_address), format!("@{abstract_name}")),
        ] {
            let (listening, own) = (listening.expect("a free name"), std::process::id());
            let manager = named(&name, Some(own));
            manager.tell(News::Ready { status: "ready admin=127.0.0.1:15000\nsecond line" });
            assert_eq!(heard(&listening), "READY=1\nSTATUS=ready admin=127.0.0.1:15000");
            manager.tell(News::Reloading);
            let reloading = heard(&listening);
            let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
            let usec: u128 = usec.split('\n').next().expect("a line").parse().expect("a number");
            assert!(usec > 0 && usec <= monotonic_usec());
            manager.tell(News::Well);
            assert_eq!(heard(&listening), "WATCHDOG=1");
            manager.tell(News::Stopping);
            assert_eq!(heard(&listening), "STOPPING=1\nSTATUS=draining");
            manager.tell(News::Successor { pid: 7 });
            assert_eq!(heard(&listening), "MAINPID=7");
        }
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_fed() {
        let scratch = Scratch::new();
        let path = scratch.path("notify").display().to_string();
        let listening = UnixDatagram::bind(&path).expect("a free name");
        for watchdog in [None, Some(std::process::id() + 1)] {
            let manager = named(&path, watchdog);
            manager.tell(News::Well);
            manager.tell(News::Stopping);
            assert!(heard(&listening).starts_with("STOPPING=1"), "the first message");
        }
    }

    #[test]
    fn a_service_manager_that_is_missing_or_gone_changes_nothing() {
        let scratch = Scratch::new();
        let path = scratch.path("notify").display().to_string();
        let gone = named(&path, None);
        gone.tell(News::Ready { status: "" });
        for name in ["vsock:2:1234", "relative"] {
            assert!(named(name, None).0.is_none(), "{name}");
        }
        assert!(ServiceManager::named(&Environment::default()).0.is_none());
        ServiceManager::default().tell(News::Stopping);
    }

    #[test]
    fn a_long_status_is_cut_between_two_characters() {
        let long = "ä".repeat(400);
        assert_eq!(told(&long), format!("STATUS={}", "ä".repeat(STATUS_BYTES / 2)));
    }
}
