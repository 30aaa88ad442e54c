//! `metrics.merge`: names that occur twice, too many sources, and a source that is the sidecar itself.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::fault::Faults;
use crate::path::Trail;
use crate::telemetry::{MergeSource, Metrics};

/// `admin`: where the admin port listens, which serves the same metrics.
pub(super) fn validate(metrics: &Metrics, admin: &[SocketAddr], at: &Trail<'_>, faults: &mut Faults) {
    let at = at.key("merge");
    if metrics.merge.len() > MergeSource::MOST {
        faults
            .error(
                &at,
                format!("has {} sources, and at most {} are merged", metrics.merge.len(), MergeSource::MOST),
            )
            .help("let Prometheus scrape the others itself");
    }
    let mut names: HashSet<&str> = HashSet::new();
    for (nth, MergeSource { name, url, timeout }) in metrics.merge.iter().enumerate() {
        let source = at.index(nth);
        if !names.insert(name) {
            faults
                .error(&source, format!("is called `{name}`, as an earlier source is"))
                .help("give it a name of its own: { name: jvm, url: \"http://127.0.0.1:9404/metrics\" }")
                .depends_on(&at);
        }
        if *timeout > MergeSource::LONGEST_TIMEOUT || *timeout == Duration::ZERO {
            faults
                .error(&source.key("timeout"), "is not between 1ms and 4s")
                .help("scrapers wait for 10s by default, for all sources and the sidecar")
                .depends_on(&at);
        }
        if metrics.listen.iter().chain(admin).any(|own| is_same(*own, url.address)) {
            faults
                .error(&source, format!("is {}, where the sidecar itself serves its metrics", url.address))
                .help("write the port at which the application serves its metrics")
                .depends_on(&at);
        }
    }
}

/// Whether a connection to `to` reaches a listener at `own`.
fn is_same(own: SocketAddr, to: SocketAddr) -> bool {
    let is_reached = own.ip() == to.ip() || own.ip().is_unspecified() && to.ip().is_loopback();
    own.port() != 0 && own.port() == to.port() && is_reached
}
