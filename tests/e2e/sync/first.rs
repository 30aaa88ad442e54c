//! As the first process of a container, to which the kernel gives the orphans of every program.

use super::{has, shown_at};
use crate::support::consul::Consul;
use crate::support::launched::Launched;
use crate::support::tools::{alone, has_namespace_of_processes};
use crate::support::{Scratch, eventually};

/// The processes that a process has started or was given, also those that have ended and were not collected.
fn children(parent: u32) -> Vec<u32> {
    let is_child = |id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let of = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(1)?.parse().ok());
        of == Some(parent)
    };
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// Each check leaves one process in its group, which is killed, and one that has left the group and ends by itself.
#[tokio::test]
async fn what_programs_leave_behind_is_collected_and_their_own_ends_are_known() {
    if !has_namespace_of_processes().await {
        return;
    }
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let path = scratch.path().join("settings");
    consul.put("k", "good");
    let script = "setsid sleep 0.01 & sleep 1000 & grep -q good $0";
    let sidecar = Launched::start_private(
        alone(),
        &format!(
            "inbound: off\noutbound: off\nadmin: {{ listen: 127.0.0.1:0 }}\nmetrics: off\nsync:\n  settings:\n    \
             from: \"consul://{}/k\"\n    to: {}\n    required: on\n    \
             check: {{ exec: [sh, -c, \"{script}\", \"{{file}}\"] }}\n",
            consul.address,
            path.display()
        ),
        None,
    )
    .await;
    for number in 0..20 {
        let text = format!("good {number}");
        consul.put("k", text.as_str());
        has(&path, &text).await;
    }
    consul.put("k", "bad");
    sidecar.has_logged("ended with code 1").await;
    assert_eq!(shown_at(sidecar.address("admin")).await["up"], false);
    assert!(!sidecar.errors().contains("cannot be started"), "{}", sidecar.errors());
    let first = children(sidecar.pid());
    assert_eq!(first.len(), 1, "the sidecar");
    eventually("no process is left", async || children(first[0]).is_empty().then_some(())).await;
}
