//! What is wrong around a running sidecar: the checks of `/checks` and `pillion check --live`.
//!
//! [`Subject::check`] gathers facts and judges them. Each file below has one subject, with a pure judgement over its facts
//! and, where facts are not there already, what gathers them. Every wait has a bound, and no request of the data path
//! notices a check: it makes connections of its own, a bounded number. Deliberately absent: changes, and questions to
//! applications beyond a connection that is opened and closed.

mod application;
mod certificates;
mod endpoints;
mod process;
mod redirect;
mod resolver;
mod sockets;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::listening::Listening;
pub(crate) use certificates::{Certificate, CertificateOwner};
use pillion_base::net::Network;
use pillion_sidecar::state::Snapshot;
use pillion_telemetry::process::usage;
use redirect::Redirect;

/// The time for all facts together. Each wait is shorter by itself.
const LONGEST: Duration = Duration::from_millis(4500);
/// The time for the programs that list the rules of the kernel.
const RULES: Duration = Duration::from_secs(2);

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Warning,
    Bad,
}

impl Verdict {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Bad => "failed",
        }
    }
}

/// The result of a check, in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    check: &'static str,
    verdict: Verdict,
    /// What was found.
    what: String,
    /// What to do about it.
    help: Option<&'static str>,
}

impl Line {
    fn good(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Good, what: what.into(), help: None }
    }

    fn warning(check: &'static str, what: impl Into<String>, help: &'static str) -> Self {
        Self { check, verdict: Verdict::Warning, what: what.into(), help: Some(help) }
    }

    fn bad(check: &'static str, what: impl Into<String>, help: &'static str) -> Self {
        Self { check, verdict: Verdict::Bad, what: what.into(), help: Some(help) }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "check": self.check, "result": self.verdict.as_str(), "what": self.what, "help": self.help })
    }
}

/// A sidecar at one moment.
pub(crate) struct Subject {
    pub(crate) network: Network,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) listening: Vec<Listening>,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) why_not_ready: Option<String>,
    /// Why the last configuration or the last certificates were refused.
    pub(crate) refusal: Option<String>,
    /// Whether a redirected connection has ever come, inbound and outbound.
    pub(crate) redirected: [bool; 2],
}

impl Subject {
    /// Gathers the facts and judges them. It takes [`LONGEST`] and a little at most. `turn` is kept until the programs have
    /// ended too, even if the client leaves earlier.
    pub(crate) async fn check(self, turn: OwnedSemaphorePermit) -> Vec<Line> {
        let turn = Arc::new(turn);
        let held = turn.clone();
        let config = self.snapshot.config.clone();
        let (wanted, left_out) = endpoints::wanted(&self.snapshot, Instant::now());
        let blocking = spawn_blocking(move || {
            let _held = held;
            (pillion_init::redirects(Instant::now() + RULES), sockets::listening(), usage())
        });
        let (facts, servers, services, remote) = tokio::join!(
            timeout(LONGEST, blocking),
            timeout(LONGEST, resolver::ask(&self.network, resolver::servers(&config))),
            timeout(LONGEST, endpoints::try_all(&self.network, wanted)),
            timeout(LONGEST, application::try_remote(&self.network, config.inbound.as_ref())),
        );
        let is_late = facts.is_err() || servers.is_err() || services.is_err() || remote.is_err();
        let (rules, sockets, usage) = facts.ok().and_then(Result::ok).unwrap_or_else(|| {
            let late = || "it takes too long".to_owned();
            (Err(late()), Err(std::io::ErrorKind::TimedOut.into()), Default::default())
        });
        let redirect = Redirect { rules, listening: &self.listening, seen: self.redirected };
        let (inbound, is_captured) = (config.inbound.as_ref(), redirect.captures_inbound());
        let now = SystemTime::now();
        let mut lines = vec![
            process::ready(self.why_not_ready.as_deref()),
            process::configuration(self.refusal.as_deref()),
        ];
        lines.extend(redirect.judge());
        lines.extend(application::judge(
            inbound,
            sockets.as_deref().ok(),
            remote.ok().flatten(),
            is_captured,
        ));
        lines.extend(sockets.iter().flat_map(|all| application::clashes(&self.listening, all)));
        lines.extend(certificates::judge(&self.certificates, config.identity.is_some(), seconds(now)));
        lines.extend(servers.ok().and_then(|found| resolver::judge(&found, resolver::is_needed(&config))));
        lines.extend(services.ok().map(|found| endpoints::judge(&found, left_out)).unwrap_or_default());
        lines.push(process::descriptors(usage.open_descriptors, usage.max_descriptors));
        if is_late {
            lines.push(Line::warning(
                "time",
                "a part of the check took too long and is left out",
                "ask again; this host is very busy",
            ));
        }
        drop(turn);
        lines
    }
}

fn seconds(now: SystemTime) -> i64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
