//! The DNS proxy refuses a name server that is itself, gives no answer to other hosts, and reports failed name servers.

use super::{dig, hosts, serve, yaml};
use crate::support::Scratch;
use crate::support::launched::binary;
use crate::support::namespace::{Hosts, Namespace, families};
use crate::support::tools::run;

/// The error of a sidecar that does not start with this file in the pod.
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
    let Some(Hosts { pod, world: _world }) = hosts() else { return };
    pod.resolve_by("nameserver 10.97.0.2\nnameserver 127.0.0.1\n");
    let listen = "listen: [\"127.0.0.1:53\", \"[::1]:53\"]";
    let output = refused(&pod, &yaml(&format!("{{ {listen} }}"))).await;
    let expected =
        "dns.upstream: /etc/resolv.conf names 127.0.0.1:53, where the DNS proxy itself listens: a loop";
    assert!(output.contains(expected), "{output}");

    let learnt = "\n  learnt: { endpoints: { dns: \"orders:80\" } }\n";
    let output = refused(&pod, &(yaml(&format!("{{ {listen}, upstream: 10.97.0.2 }}")) + learnt)).await;
    let expected =
        "services.learnt.endpoints: /etc/resolv.conf names 127.0.0.1:53, where the DNS proxy itself";
    assert!(output.contains(expected), "{output}");
}

#[tokio::test]
async fn unreachable_name_servers_are_named_in_the_failure() {
    let Some(Hosts { pod, world: _world }) = hosts() else { return };
    let [v4, v6] = families(); // nothing listens on port 53 of the world
    let dns = format!("{{ listen: 127.0.0.1:5300, upstream: [{}, \"{}\"] }}", v4.world, v6.world);
    let _sidecar = pod.sidecar(&yaml(&dns)).await;
    for transport in ["+notcp", "+tcp"] {
        let output = dig(pod.enter(), &["-p", "5300", "@127.0.0.1", transport, "news.test"]).await;
        assert!(output.contains("status: SERVFAIL"), "{output}");
        assert!(
            output.contains("EDE: 22") && output.contains("[fd00:97::2]:53: Connection refused"),
            "{output}"
        );
    }
    pod.counted(2, "pillion_dns_queries_total", &[("outcome", "failed")]).await;
}

/// Whatever `listen` says, only clients on the sidecar's own host get answers.
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
            let output = run(stranger).await;
            assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}
