//! What other hosts send: to the port they meant, to no port that the application kept to itself.

use super::{at, dial, get, hear, hosts, next, say, serve};
use crate::support::certs::Authority;
use crate::support::namespace::{Hosts, families};

/// Everywhere, on the pod's address alone, and on loopback alone.
fn servers() -> Vec<String> {
    let in_family = |family: crate::support::namespace::Family| {
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
async fn a_redirected_connection_reaches_the_port_it_meant() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_incoming();
    let mut servers = serve(&pod, &servers()).await;
    let _sidecar = pod.sidecar("outbound: off\ninbound: { app: 127.0.0.1:6000 }").await;
    for family in families() {
        for (port, name) in [(8080, "web\n"), (8081, "pod\n")] {
            // The Host is the application's business, whatever it names.
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
        let told = dial(world.enter(), at(family.pod, 6001), &["--send", "\\x00ping\\n"]).await;
        assert!(told.received.is_empty() && ["eof", "reset"].contains(&&*told.end), "{told:?}");
        assert_eq!(get(world.enter(), at(family.pod, 8080), "x").await.0, 200);
        assert_eq!(
            next(&mut servers, "accepted").await["server"],
            "web",
            "the first connection that came through"
        );
    }
}

#[tokio::test]
async fn redirected_to_loopback_such_a_port_is_reached() {
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

/// A server that speaks first must not be made to speak to somebody who was never admitted.
#[tokio::test]
async fn at_a_strict_port_a_plaintext_client_hears_nothing_and_the_application_sees_nobody() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_incoming();
    let mut servers = serve(&pod, &servers()).await;
    let authority = Authority::new();
    let quick = "outbound: off\nlimits: { header_timeout: 1s, idle_timeout: 1s }";
    let _sidecar = pod.identified_sidecar(quick, &authority, "orders").await;
    for family in families() {
        for words in [&[][..], &["--send", "\\x00ping\\n"]] {
            let told = dial(world.enter(), at(family.pod, 3306), words).await;
            assert!(
                told.received.is_empty() && ["eof", "reset"].contains(&&*told.end),
                "{words:?}: {told:?}"
            );
        }
        let (status, body) = get(world.enter(), at(family.pod, 8080), "x").await;
        assert_eq!(status, 403, "{body}");
    }
    assert_eq!(hear(pod.enter(), at(families()[0].pod, 3306)).await, "greeter\n");
    let first = next(&mut servers, "accepted").await;
    assert_eq!(first["peer"], families()[0].pod.to_string(), "nobody before the pod's own");
}
