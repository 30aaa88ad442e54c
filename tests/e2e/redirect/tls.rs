//! The application's own TLS: matched to a service by SNI, passed on untouched, and also accepted at permissive ports.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use super::{at, dial, get, hosts, serve};
use crate::support::certs::{Authority, spiffe};
use crate::support::namespace::{Family, Hosts, Namespace, families, in_both};
use crate::support::program::Program;
use crate::support::tools::{printed, require};
use crate::support::{Scratch, eventually};

/// A web server with a certificate that no other server has.
struct Nginx {
    /// The certificate's CA: a client that trusts it alone can only be talking to this server.
    certificate: String,
    /// Declared before the files, so that nginx stops before they are removed.
    _program: Program,
    _scratch: Scratch,
}

impl Nginx {
    /// Answers every request at these addresses with `name`.
    async fn start(host: &Namespace, name: &str, addresses: &[SocketAddr]) -> Self {
        let scratch = Scratch::new();
        let issued = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let certificate = scratch.write("tls.crt", issued.cert.pem());
        scratch.write("tls.key", issued.signing_key.serialize_pem());
        let at = scratch.path().display();
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/{kind};"))
            .concat();
        let listen: String = addresses.iter().map(|address| format!("listen {address} ssl; ")).collect();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr;\nevents {{ }}\n\
             http {{ access_log off; {paths}\nserver {{ {listen} ssl_certificate {at}/tls.crt; \
             ssl_certificate_key {at}/tls.key;\nlocation / {{ return 200 \"{name}\\n\"; }} }} }}\n"
        );
        let mut nginx = host.enter();
        nginx.args(["nginx", "-e", "stderr", "-c"]).arg(scratch.write("nginx.conf", config));
        let nginx = Self {
            certificate: certificate.to_str().expect("a path that is text").to_owned(),
            _program: Program::start(nginx),
            _scratch: scratch,
        };
        for address in addresses {
            eventually("nginx listens", async || {
                let result = dial(host.enter(), *address, &["--send", "\\x00\\n"]).await;
                (result.end != "refused").then_some(())
            })
            .await;
        }
        nginx
    }

    /// curl connects to an address, sends the server's name as SNI, and trusts this server's CA alone.
    async fn asked(&self, mut host: Command, name: &str, to: SocketAddr) -> String {
        host.args(["curl", "--silent", "--show-error", "--max-time", "20", "--noproxy", "*"]);
        host.args(["--cacert", &self.certificate, "--resolve", &format!("{name}:{}:{}", to.port(), to.ip())]);
        host.arg(format!("https://{name}:{}/", to.port()));
        printed(host).await
    }
}

fn everywhere(address: impl Fn(Family) -> IpAddr, port: u16) -> Vec<SocketAddr> {
    families().map(|family| at(address(family), port)).to_vec()
}

#[tokio::test]
async fn sni_decides_for_tls_where_the_address_is_unknown() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    if !require("nginx") {
        return;
    }
    pod.redirect_outgoing();
    let secure = Nginx::start(&world, "secure.shop", &everywhere(|family| family.world, 8443)).await;
    let other = Nginx::start(&world, "other.example", &everywhere(|family| family.world, 9443)).await;
    let endpoints = in_both(|family| family.world, 8443);
    let yaml =
        format!("inbound: off\nservices:\n  secure: {{ hosts: [secure.shop], endpoints: [{endpoints}] }}\n");
    let _sidecar = pod.sidecar(&yaml).await;
    for family in families() {
        let result = secure.asked(pod.enter(), "secure.shop", at(family.nobody, 443)).await;
        assert_eq!(result, "secure.shop\n", "{family:?}: by its name");
        let result = other.asked(pod.enter(), "other.example", at(family.world, 9443)).await;
        assert_eq!(result, "other.example\n", "{family:?}: unknown, to where it was going");
    }
    let of = |service| [("direction", "outbound"), ("service", service)];
    pod.counted(4, "pillion_connections_total", &of("secure")).await; // two accepted, two opened
    eventually(
        "as many to destinations without a service, or more where a client was so slow that its destination was dialled early",
        async || (pod.metric("pillion_connections_total", &of("passthrough")).await >= 4.0).then_some(()),
    )
    .await;
}

#[tokio::test]
async fn an_address_of_a_service_decides_for_tls_too() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    if !require("nginx") {
        return;
    }
    pod.redirect_outgoing();
    let secure = Nginx::start(&world, "secure.shop", &everywhere(|family| family.world, 8443)).await;
    let yaml = format!(
        "inbound: off\nservices:\n  addressed: {{ addresses: [{}], endpoints: [{}] }}\n  \
         secure: {{ hosts: [secure.shop], endpoints: [\"127.0.0.1:1\"] }}\n",
        in_both(|family| family.service, 443),
        in_both(|family| family.world, 8443),
    );
    let _sidecar = pod.sidecar(&yaml).await;
    for family in families() {
        let result = secure.asked(pod.enter(), "secure.shop", at(family.service, 443)).await;
        assert_eq!(result, "secure.shop\n", "{family:?}: the address before the name");
    }
}

/// A permissive port takes three kinds of clients, and does not touch the application's own TLS.
#[tokio::test]
async fn at_a_permissive_port_the_applications_own_tls_passes_untouched() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    if !require("nginx") {
        return;
    }
    let authority = Authority::new();
    pod.redirect_incoming();
    let nginx = Nginx::start(&pod, "secure.shop", &everywhere(|family| family.pod, 8443)).await;
    let plain: Vec<_> = families().map(|family| format!("http:web@{}", at(family.pod, 8080))).to_vec();
    let _plain = serve(&pod, &plain).await;
    let _ours =
        pod.identified_sidecar("outbound: off\ninbound: { mtls: permissive }", &authority, "orders").await;
    let theirs = format!(
        "inbound: off\nservices:\n  web: {{ endpoints: [{}], tls: \"{}\" }}\n",
        in_both(|family| family.pod, 8080),
        spiffe("orders"),
    );
    let _theirs = world.identified_sidecar(&theirs, &authority, "web").await;
    for family in families() {
        let result = nginx.asked(world.enter(), "secure.shop", at(family.pod, 8443)).await;
        assert_eq!(result, "secure.shop\n", "{family:?}");
        let plaintext = get(world.enter(), at(family.pod, 8080), "web").await;
        assert_eq!(plaintext, (200, "web\n".to_owned()), "{family:?}");
        let meshed = get(world.enter(), at(family.loopback, 15001), "web").await;
        assert_eq!(meshed, (200, "web\n".to_owned()), "{family:?}");
    }
    let by_peer = [("direction", "inbound"), ("peer", &*spiffe("web"))];
    pod.counted(2, "pillion_requests_total", &by_peer).await;
    let by_nobody = [("direction", "inbound"), ("peer", "")];
    pod.counted(2, "pillion_requests_total", &by_nobody).await;
}
