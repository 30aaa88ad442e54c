//! An application that calls itself: through the address of its service, and directly at its own address.

use super::{at, everywhere, get, hear, hosts, next, peer_at, serve};
use crate::support::certs::{Authority, spiffe};
use crate::support::namespace::{Family, Hosts, families};

/// The call leaves through the outbound side with mTLS, enters through the inbound side, and reaches the application
/// once.
#[tokio::test]
async fn through_its_services_address_a_call_goes_out_and_comes_in() {
    let Some(Hosts { pod, world: _cable }) = hosts() else { return };
    let service = |family: Family, port: u16, to: u16| {
        let (address, endpoint) = (at(family.service, port), at(family.pod, to));
        format!("{{ addresses: [\"{address}\"], endpoints: [\"{endpoint}\"], tls: \"{}\" }}", spiffe("web"))
    };
    let [v4, v6] = families();
    let services =
        [(v4, 80, 8080), (v6, 80, 8080), (v4, 3306, 3306), (v6, 3306, 3306)].into_iter().enumerate();
    let services =
        services.map(|(nth, (family, port, to))| format!("  me{nth}: {}\n", service(family, port, to)));
    let yaml = format!("services:\n{}", services.collect::<String>());
    let servers = everywhere(&[("http:web", 8080), ("banner:greeter", 3306)], |family| family.pod);
    let mut servers = serve(&pod, &servers).await;
    for mode in ["redirect", "tproxy"] {
        pod.init(&["--mode", mode]);
        let sidecar = pod.identified_sidecar_for_tproxy(&yaml, &Authority::new(), "web").await;
        for (family, own) in families().into_iter().zip(["127.0.0.6", "::6"]) {
            let answer = get(pod.enter(), at(family.service, 80), "me").await;
            assert_eq!(answer, (200, "web\n".to_owned()), "{mode}, {family:?}");
            assert_eq!(peer_at(&mut servers, at(family.pod, 8080)).await, own, "{mode}");
            let request = next(&mut servers, "request").await;
            let head = request["head"].as_str().expect("text");
            assert!(head.contains(&format!("URI={}", spiffe("web"))), "{mode}: {head}");
            assert_eq!(hear(pod.enter(), at(family.service, 3306)).await, "greeter\n", "{mode}, {family:?}");
            assert_eq!(peer_at(&mut servers, at(family.pod, 3306)).await, own, "{mode}");
        }
        pod.counted(2, "pillion_requests_total", &[("direction", "inbound")]).await; // one request for each call
        pod.counted(2, "pillion_requests_total", &[("direction", "outbound")]).await;
        drop(sidecar);
    }
}

#[tokio::test]
async fn at_its_own_address_and_on_loopback_it_is_left_alone() {
    let Some(Hosts { pod, world: _cable }) = hosts() else { return };
    let mut servers =
        serve(&pod, &["http:web@[::]:8080".to_owned(), "http:web@0.0.0.0:8080".to_owned()]).await;
    for mode in ["redirect", "tproxy"] {
        pod.init(&["--mode", mode]);
        let _sidecar = pod.identified_sidecar_for_tproxy("", &Authority::new(), "web").await;
        for ip in families().into_iter().flat_map(|family| [family.pod, family.loopback]) {
            assert_eq!(get(pod.enter(), at(ip, 8080), "me").await, (200, "web\n".to_owned()), "{mode}, {ip}");
            assert_eq!(peer_at(&mut servers, at(ip, 8080)).await, ip.to_string(), "{mode}");
        }
        pod.counted(0, "pillion_connections_total", &[("direction", "inbound")]).await;
        pod.counted(0, "pillion_connections_total", &[("direction", "outbound")]).await;
    }
}
