//! What the DNS proxy refuses: to ask itself, to answer for strangers, and to invent what nobody told it.

use super::{dig, hosts, serve, yaml};
use crate::support::Scratch;
use crate::support::launched::binary;
use crate::support::namespace::{Hosts, Namespace, families};
use crate::support::tools::run;

/// Why no sidecar with this file starts in the pod.
async fn refused(pod: &Namespace, yaml: &str) -> String {
    let scratch = Scratch::new();
    let mut command = pod.enter();
    command.arg(binary()).args(["run", "-c"]).arg(scratch.write("pillion.yaml", yaml));
    let output = run(command).await;
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_resolv_conf_that_names_the_proxy_itself_is_a_loop() {
    let Some(Hosts { pod, .. }) = hosts() else { return };
    pod.resolve_by("nameserver 10.97.0.2\nnameserver 127.0.0.1\n");
    let listen = "listen: [\"127.0.0.1:53\", \"[::1]:53\"]";
    let told = refused(&pod, &yaml(&format!("{{ {listen} }}"))).await;
    let expected =
        "dns.upstream: /etc/resolv.conf names 127.0.0.1:53, where the DNS proxy itself listens: a loop";
    assert!(told.contains(expected), "{told}");

    let learnt = "\n  learnt: { endpoints: { dns: \"orders:80\" } }\n";
    let told = refused(&pod, &(yaml(&format!("{{ {listen}, upstream: 10.97.0.2 }}")) + learnt)).await;
    let expected =
        "services.learnt.endpoints: /etc/resolv.conf names 127.0.0.1:53, where the DNS proxy itself";
    assert!(told.contains(expected), "{told}");
}

#[tokio::test]
async fn nobody_to_ask_is_a_failure_that_says_so() {
    let Some(Hosts { pod, world: _world }) = hosts() else { return };
    let [v4, v6] = families(); // nothing listens on port 53 of the world
    let dns = format!("{{ listen: 127.0.0.1:5300, upstream: [{}, \"{}\"] }}", v4.world, v6.world);
    let _sidecar = pod.sidecar(&yaml(&dns)).await;
    for transport in ["+notcp", "+tcp"] {
        let told = dig(pod.enter(), &["-p", "5300", "@127.0.0.1", transport, "news.test"]).await;
        assert!(told.contains("status: SERVFAIL"), "{told}");
        assert!(told.contains("EDE: 22") && told.contains("[fd00:97::2]:53: Connection refused"), "{told}");
    }
    pod.counted(2, "pillion_dns_queries_total", &[("outcome", "failed")]).await;
}

/// Whatever `listen` says: names are for the application beside it.
#[tokio::test]
async fn another_host_is_not_answered() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    let _servers = serve(&world).await;
    let dns = "{ listen: [\"0.0.0.0:5300\", \"[::]:5300\"], upstream: 10.97.0.2 }";
    let _sidecar = pod.sidecar(&yaml(dns)).await;
    for family in families() {
        let server = format!("@{}", family.pod);
        let own = dig(pod.enter(), &["-p", "5300", &server, "orders"]).await;
        assert!(own.contains("ANSWER: 1,"), "{own}");
        for transport in ["+notcp", "+tcp"] {
            let mut stranger = world.enter();
            stranger.args(["dig", "+time=1", "+tries=1", "-p", "5300", &server, transport, "orders"]);
            let told = run(stranger).await;
            assert!(!told.status.success(), "{}", String::from_utf8_lossy(&told.stdout));
        }
    }
}
