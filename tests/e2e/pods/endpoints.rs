//! One of two endpoint pods stops: no request fails that may be sent again.

use super::{HTTP, http_app};
use crate::support::certs::Authority;
use crate::support::launched::Launched;
use crate::support::pod::{Node, Pod, Variant, Version, service};
use crate::support::program::Program;

/// Far more requests than are under way before a test notices a change, also where the test is stopped for seconds.
const REQUESTS: usize = 20_000;
/// So many answers of the other pod, one after the other, show that a pod is asked no more.
const ENOUGH: usize = 300;

/// How a pod ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The application and its sidecar are killed.
    Crash,
    /// The sidecar gets SIGTERM, as the kubelet sends it, and serves until its drain is over.
    Drain,
}

struct Endpoint {
    sidecar: Launched,
    app: Program,
}

impl Endpoint {
    async fn start(pod: &Pod, name: &str, authority: &Authority) -> Self {
        let app = http_app(pod, name).await;
        let sidecar = pod.sidecar("drain: { delay: 100ms, timeout: 5s }\n", authority, "orders").await;
        Self { sidecar, app }
    }

    async fn end(self, end: End) {
        if let End::Drain = end {
            self.sidecar.terminated().await;
        }
        drop(self.sidecar);
        drop(self.app);
    }
}

/// One client on a keep-alive connection, request after request.
fn client(pod: &Pod, version: Version) -> Program {
    let mut curl = pod.enter();
    curl.args([
        "curl",
        "--disable",
        "--no-buffer",
        "--silent",
        "--show-error",
        "--globoff",
        "--max-time",
        "60",
    ]);
    curl.args(["--noproxy", "*", "--write-out", "%{http_code}\\n"]);
    curl.args(std::iter::repeat_n(format!("http://{}/", version.service(HTTP[0])), REQUESTS));
    Program::start(curl)
}

async fn is_not_noticed(variant: Variant, version: Version, end: End) {
    let Some(node) = Node::new(variant) else { return };
    let (caller, two, three) = (node.pod(1).await, node.pod(2).await, node.pod(3).await);
    let authority = Authority::new();
    let one = Endpoint::start(&two, "stays", &authority).await;
    let mut other = Some(Endpoint::start(&three, "stops", &authority).await);
    let services = service("orders", HTTP[0], &[&two, &three], HTTP[1], "orders");
    let _ours = caller
        .sidecar(
            &format!("defaults: {{ load_balancer: round_robin }}\nservices:\n{services}"),
            &authority,
            "web",
        )
        .await;

    let mut client = client(&caller, version);
    let (mut answers, mut by_the_other, mut last_by_the_other) = (0, 0, 0);
    while let Some(body) = client.next_line().await {
        let status = client.line().await;
        answers += 1;
        assert_eq!(status, "200", "answer {answers}: {body}");
        if body == "stops" {
            (by_the_other, last_by_the_other) = (by_the_other + 1, answers);
        }
        if by_the_other >= 20
            && let Some(other) = other.take()
        {
            other.end(end).await;
        }
        if other.is_none() && answers - last_by_the_other >= ENOUGH {
            drop(one);
            return;
        }
    }
    unreachable!(
        "{answers} answers, {by_the_other} of the pod that stops, the last one {last_by_the_other}: {}",
        client.errors()
    );
}

#[tokio::test]
async fn a_pod_that_crashes() {
    is_not_noticed(Variant::redirect("nft"), Version::V4, End::Crash).await;
}

#[tokio::test]
async fn a_pod_that_drains() {
    is_not_noticed(Variant::redirect("nft"), Version::V6, End::Drain).await;
}

#[tokio::test]
async fn a_pod_that_crashes_behind_tproxy() {
    is_not_noticed(Variant::tproxy("nft"), Version::V4, End::Crash).await;
}
