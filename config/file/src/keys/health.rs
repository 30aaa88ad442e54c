//! `health_check`: how the endpoints of a service are asked whether they are well.

use std::time::Duration;

use pillion_model::Cluster;
use pillion_model::listener::Question;
use pillion_model::policy::HealthCheck;
use serde_json::Value;

use super::{Block, OffOrBlock, Static, field, off_or_block};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading};
use crate::schema::or_off;
use crate::spell;
use crate::value::{Opt, Positive};
use crate::words::{GrpcService, ProbePath};

/// The block as it is written: one of three questions, and when it is asked.
struct Written {
    http: Option<String>,
    tcp: Option<bool>,
    grpc: Option<String>,
    interval: Duration,
    timeout: Duration,
    healthy: u32,
    unhealthy: u32,
}

static HEALTH_CHECK: Static<Written> = Static::new(|| {
    Block::new(|| Written::over(&HealthCheck::of(Question::Tcp)))
        .word::<Opt<ProbePath>>(
            "http",
            field!(http),
            "The path of a GET request; a 2xx or 3xx status passes.",
        )
        .word::<Opt<bool>>(
            "tcp",
            field!(tcp),
            "An open connection passes, with its TLS handshake where there is one.",
        )
        .word::<Opt<GrpcService>>(
            "grpc",
            field!(grpc),
            "A service of gRPC's health checking protocol; SERVING passes. \"\" asks about the whole server.",
        )
        .word::<Duration>(
            "interval",
            field!(interval),
            "The time between two checks of one endpoint, at least 100ms.",
        )
        .word::<Duration>("timeout", field!(timeout), "The time of one check, TCP and TLS included.")
        .word::<Positive>(
            "healthy",
            field!(healthy),
            "Passed checks in a row after which an unhealthy endpoint gets traffic again.",
        )
        .word::<Positive>(
            "unhealthy",
            field!(unhealthy),
            "Failed checks in a row after which an endpoint gets no traffic; the first check decides alone.",
        )
});

impl Written {
    /// The times and thresholds of `check`, and no question.
    const fn over(check: &HealthCheck) -> Self {
        let HealthCheck { interval, timeout, healthy, unhealthy, asks: _ } = *check;
        Self { http: None, tcp: None, grpc: None, interval, timeout, healthy, unhealthy }
    }
}

pub(super) fn schema() -> Option<Value> {
    or_off(HEALTH_CHECK.schema())
}

/// Reads over what `defaults` say: keys one by one, and a question in place of theirs.
pub(super) fn read(cluster: &mut Cluster, node: &Node<'_>, reading: &mut Reading<'_>) {
    match off_or_block(node, reading) {
        None => {}
        Some(OffOrBlock::Off) => cluster.health_check = None,
        Some(OffOrBlock::Block) => cluster.health_check = block(cluster.health_check.take(), node, reading),
    }
}

fn block(below: Option<HealthCheck>, node: &Node<'_>, reading: &mut Reading<'_>) -> Option<HealthCheck> {
    let below_asks = below.as_ref().map(|below| below.asks.clone());
    let mut written = Written::over(&below.unwrap_or_else(|| HealthCheck::of(Question::Tcp)));
    HEALTH_CHECK.read(&mut written, node, reading);
    let Written { http, tcp, grpc, interval, timeout, healthy, unhealthy } = written;
    let asks = question(http, tcp, grpc, below_asks, node, reading)?;
    Some(HealthCheck { asks, interval, timeout, healthy, unhealthy })
}

fn question(
    http: Option<String>,
    tcp: Option<bool>,
    grpc: Option<String>,
    below: Option<Question>,
    node: &Node<'_>,
    reading: &mut Reading<'_>,
) -> Option<Question> {
    let http = http.map(|path| Question::Http { path });
    let tcp = tcp.filter(|asked| *asked).map(|_| Question::Tcp);
    let grpc = grpc.map(|service| Question::Grpc { service });
    let mut written = [http, tcp, grpc].into_iter().flatten();
    match (written.next(), written.next(), below) {
        (Some(one), None, _) | (None, _, Some(one)) => Some(one),
        (None, _, None) => {
            node.remark("asks nothing", reading)
                .help("write one of http: /healthz, tcp: true, grpc: shop.Orders");
            None
        }
        (Some(_), Some(_), _) => {
            node.remark("has more than one of `http`, `tcp` and `grpc`", reading).help("keep one");
            None
        }
    }
}

pub(super) fn tell(cluster: &Cluster, at: &Scopes<'_>, page: &mut Page<'_>) {
    let at = at.key("health_check");
    let Some(check) = &cluster.health_check else { return page.tell(&at, "off") };
    match &check.asks {
        Question::Http { path } => page.tell(&at.key("http"), path.as_str()),
        Question::Tcp => page.tell(&at.key("tcp"), "on"),
        Question::Grpc { service } => page.tell(&at.key("grpc"), service.as_str()),
    }
    page.tell(&at.key("interval"), spell::duration(check.interval));
    page.tell(&at.key("timeout"), spell::duration(check.timeout));
    page.tell(&at.key("healthy"), check.healthy);
    page.tell(&at.key("unhealthy"), check.unhealthy);
}
