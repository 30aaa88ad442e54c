//! A service whose endpoints are in SRV records: the sidecar asks the name server of its resolv.conf.

use super::hosts;
use crate::support::namespace::{Hosts, families};
use crate::support::program::Program;
use crate::support::tools::printed;

const PORTS: [(&str, u16); 3] = [("heavy", 9001), ("light", 9002), ("reserve", 9003)];

/// Two records of priority 10 and one of 20. All targets are at the address of the host `world`.
fn zone() -> Vec<String> {
    let world = families()[0].world;
    let records = ["srv/10/3/9001/a.test.", "srv/10/1/9002/b.test.", "srv/20/1/9003/b.test."].join(",");
    vec![format!("_http._tcp.orders.test.={records}"), format!("a.test.={world}"), format!("b.test.={world}")]
}

#[tokio::test]
async fn requests_go_to_the_endpoints_of_srv_records_by_priority_and_weight() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    let address = families()[0].world;
    let words = [vec![format!("{address}:53"), "--".to_owned()], zone()].concat();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut names = Program::start(Program::script(world.enter(), "name_server.py", &words));
    assert_eq!(names.line().await, "ready");
    let servers = PORTS.map(|(name, port)| format!("http:{name}@{address}:{port}"));
    let words: Vec<&str> = servers.iter().map(String::as_str).collect();
    let mut servers = Program::start(Program::script(world.enter(), "servers.py", &words));
    assert_eq!(servers.line().await, "ready");
    pod.resolve_by(&format!("nameserver {address}\nsearch test\n"));
    let sidecar = pod
        .sidecar(
            "inbound: off\nservices:\n  orders: { listen: 127.0.0.1:0, load_balancer: round_robin, endpoints: { srv: _http._tcp.orders } }\n",
        )
        .await;
    let url = format!("http://{}/", sidecar.address("service.orders"));
    let mut curl = pod.enter();
    curl.args(["curl", "--silent", "--show-error", "--fail", &format!("{url}[1-40]")]);
    let answers = printed(curl).await;
    let times = |name: &str| answers.lines().filter(|line| *line == name).count();
    assert_eq!(PORTS.map(|(name, _)| times(name)), [30, 10, 0], "{answers}");
}
