//! Connections from other hosts reach the port to which they were sent, and no port that the application keeps private.

use super::{at, dial, get, hear, hosts, next, say, serve};
use crate::support::certs::Authority;
use crate::support::namespace::{Family, Hosts, families};
use crate::support::program::Program;

/// Servers on every address, on the pod's address alone, and on loopback alone.
fn servers() -> Vec<String> {
    let in_family = |family: Family| {
        let everywhere = if family.pod.is_ipv4() { "0.0.0.0" } else { "::" };
        [
            format!("http:web@{}", at(everywhere.parse().expect("an address"), 8080)),
            format!("http:pod@{}", at(family.pod, 8081)),
            format!("banner:greeter@{}", at(family.pod, 3306)),
            format!("echo:raw@{}", at(family.pod, 7000)),
            format!("http:private@{}", at(family.loopback, 6000)),
            format!("echo:whisper@{}", at(family.loopback, 6001)),
        ]
    };
    families().into_iter().flat_map(in_family).collect()
}

#[tokio::test]
async fn a_redirected_connection_reaches_its_original_port() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_incoming();
    let mut servers = serve(&pod, &servers()).await;
    let _sidecar = pod.sidecar("outbound: off\ninbound: { app: 127.0.0.1:6000 }").await;
    for family in families() {
        for (port, name) in [(8080, "web\n"), (8081, "pod\n")] {
            // The sidecar does not interpret the Host header here; the application may.
            let answer = get(world.enter(), at(family.pod, port), "127.0.0.1:6000").await;
            assert_eq!(answer, (200, name.to_owned()), "{family:?}");
            let request = next(&mut servers, "request").await;
            let head = request["head"].as_str().expect("text").to_lowercase();
            assert!(head.contains("host: 127.0.0.1:6000\r\n"), "{head}");
        }
        assert_eq!(hear(world.enter(), at(family.pod, 3306)).await, "greeter\n", "{family:?}");
        assert_eq!(say(world.enter(), at(family.pod, 7000)).await, "raw:\0ping\n", "{family:?}");
        let direct = get(world.enter(), at(family.pod, 15006), "x").await;
        assert_eq!(direct, (200, "private\n".to_owned()), "not redirected: to `app`");
        assert_eq!(next(&mut servers, "request").await["server"], "private");
    }
}

#[tokio::test]
async fn a_port_that_the_application_bound_to_loopback_alone_stays_private() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_incoming();
    let mut servers = serve(&pod, &servers()).await;
    let _sidecar = pod.sidecar("outbound: off").await;
    for family in families() {
        let (status, body) = get(world.enter(), at(family.pod, 6000), "x").await;
        assert_eq!(status, 502, "{body}");
        assert!(!body.contains("private"), "{body}");
        let result = dial(world.enter(), at(family.pod, 6001), &["--send", "\\x00ping\\n"]).await;
        assert!(result.received.is_empty() && result.is_closed(), "{result:?}");
        assert_eq!(get(world.enter(), at(family.pod, 8080), "x").await.0, 200);
        assert_eq!(
            next(&mut servers, "accepted").await["server"],
            "web",
            "the first connection that came through"
        );
    }
}

#[tokio::test]
async fn redirected_to_loopback_a_port_on_loopback_is_reached() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_incoming();
    let _servers = serve(&pod, &servers()).await;
    let _sidecar = pod.sidecar("outbound: off\ninbound: { redirect_to: loopback }").await;
    for family in families() {
        assert_eq!(
            get(world.enter(), at(family.pod, 6000), "x").await,
            (200, "private\n".to_owned()),
            "{family:?}"
        );
        assert_eq!(say(world.enter(), at(family.pod, 6001)).await, "whisper:\0ping\n", "{family:?}");
    }
}

/// A client that is not admitted must not cause a server that speaks first to send its greeting.
#[tokio::test]
async fn at_a_strict_port_a_plaintext_client_gets_nothing_and_the_application_sees_no_connection() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_incoming();
    let mut servers = serve(&pod, &servers()).await;
    let sidecar = pod.identified_sidecar("outbound: off", &Authority::new(), "orders").await;
    let mut silent = Vec::new();
    for family in families() {
        let (ip, words) = (family.pod.to_string(), ["3306", "--line", "--greet"]);
        let dial = Program::script(world.enter(), "dial.py", &[&[&*ip], &words[..]].concat());
        let mut client = Program::start(dial);
        assert_eq!(client.line().await, "connected");
        silent.push(client);
    }
    // Connections of several programs come and go meanwhile, which is long enough for a wrong dial to show.
    for family in families() {
        let result = dial(world.enter(), at(family.pod, 3306), &["--send", "\\x00ping\\n"]).await;
        assert!(result.received.is_empty() && result.is_closed(), "{result:?}");
        let (status, body) = get(world.enter(), at(family.pod, 8080), "x").await;
        assert_eq!(status, 403, "{body}");
    }
    drop(sidecar);
    for client in &mut silent {
        let result = client.event().await;
        assert!(result["received"] == "" && result["end"] != "line", "{result}");
    }
    assert_eq!(hear(pod.enter(), at(families()[0].pod, 3306)).await, "greeter\n");
    let first = next(&mut servers, "accepted").await;
    assert_eq!(first["peer"], families()[0].pod.to_string(), "no connection before the pod's own");
}
