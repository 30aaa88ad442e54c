//! What clients choose is no label: series stay few, however many paths, hosts and methods they send.

use super::backend::OK;
use super::mesh::{A, Mesh, settle};

#[tokio::test(start_paused = true)]
async fn thousands_of_paths_hosts_and_methods_add_no_series() {
    const MANY: usize = 3000;
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    let mut after_few = 0;
    for number in 0..MANY {
        for (method, host) in
            [("GET", format!("h{number}.example")), (&*format!("M{number}"), "orders".to_owned())]
        {
            let answer =
                client.ask(&format!("{method} /p{number}?q={number} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
            assert!([200, 404].contains(&answer.status().unwrap_or_default()), "{}", answer.head);
        }
        if number == 10 {
            settle().await;
            after_few = sidecar.metrics.encode().lines().count();
        }
    }
    settle().await;
    let text = sidecar.metrics.encode();
    assert_eq!(text.lines().count(), after_few, "{text}");
    assert!(!text.contains("example") && !text.contains("M7") && !text.contains("/p7"), "{text}");
    assert_eq!(sidecar.sum("pillion_requests_total method=other status=200"), MANY as u64);
}
