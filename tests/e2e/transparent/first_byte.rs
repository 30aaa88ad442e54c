//! Servers that speak first, without a declared protocol: their greeting passes both sidecars unchanged.
//!
//! The small version compares the greetings. The ignored one gives the figures, with a release build:
//! `PILLION_TEST_BINARY=target/release/pillion cargo test --test e2e first_byte -- --ignored --nocapture`

use std::net::IpAddr;
use std::process::Command;

use serde_json::Value;

use super::{at, dial, everywhere, hosts, serve};
use crate::support::certs::{Authority, spiffe};
use crate::support::launched::Launched;
use crate::support::namespace::{Hosts, Namespace, families, in_both};
use crate::support::program::Program;
use crate::support::tools::{printed, require};
use crate::support::{Scratch, eventually};

const SMTP: u16 = 2525;
const SSH: u16 = 2222;
const MARIADB: u16 = 3306;

/// Two pods with sidecars and mTLS between them, and a second link that bypasses both sidecars.
struct Pods {
    hosts: Hosts,
    bypass: IpAddr,
    _servers: Vec<Program>,
    _scratch: Scratch,
    _sidecars: [Launched; 2],
}

impl Pods {
    async fn new() -> Option<Self> {
        let hosts = hosts()?;
        if !(require("sshd") && require("mariadbd") && require("mariadb-install-db")) {
            return None;
        }
        let (Hosts { pod, world }, authority, scratch) = (&hosts, Authority::new(), Scratch::new());
        let bypass = hosts.lay_bypass();
        pod.init(&["--exclude-interfaces", "bypass"]);
        world.init(&["--exclude-interfaces", "bypass"]);
        let mut smtp = everywhere(&[("banner:220-mail.test", SMTP)], |family| family.world);
        smtp.push(format!("banner:220-mail.test@{}", at(bypass, SMTP)));
        let servers = vec![serve(world, &smtp).await, sshd(world, &scratch), mariadb(world, &scratch).await];
        for port in [SSH, MARIADB] {
            let listens = async || {
                let result = dial(world.enter(), at(bypass, port), &["--line"]).await;
                (result.end != "refused").then_some(())
            };
            eventually("the server listens", listens).await;
        }
        let theirs = world.identified_sidecar("", &authority, "orders").await;
        let service = |name: &str, port: u16| {
            format!(
                "  {name}: {{ addresses: [{}], endpoints: [{}], tls: \"{}\" }}\n",
                in_both(|family| family.service, port),
                in_both(|family| family.world, port),
                spiffe("orders"),
            )
        };
        let services = [service("mail", SMTP), service("shell", SSH), service("database", MARIADB)].concat();
        let ours = pod.identified_sidecar(&format!("services:\n{services}"), &authority, "web").await;
        Some(Self { hosts, bypass, _servers: servers, _scratch: scratch, _sidecars: [ours, theirs] })
    }

    /// Connects alternately through the sidecars and past them. Returns the medians, in milliseconds.
    async fn greeted(&self, count: usize, kind: &str, port: u16) -> [f64; 2] {
        let [v4, _] = families();
        let words =
            [&count.to_string(), kind, &v4.service.to_string(), &port.to_string(), &self.bypass.to_string()];
        let result = printed(Program::script(self.hosts.pod.enter(), "first_byte.py", &words)).await;
        let result: Value = serde_json::from_str(&result).expect("JSON");
        assert_eq!(result["said_through"], result["said_direct"], "port {port}");
        assert_eq!(result["said_direct"].as_array().map(Vec::len), Some(1), "port {port}: {result}");
        let medians = ["through", "direct"].map(|way| result[way].as_f64().expect("a number"));
        println!(
            "port {port}: {count} connections, median to the first byte {medians:.3?} ms (through, direct)"
        );
        medians
    }
}

const ALL: [(&str, u16); 3] = [("line", SMTP), ("line", SSH), ("mysql", MARIADB)];

fn sshd(host: &Namespace, scratch: &Scratch) -> Program {
    let mut sshd = host.enter();
    let script = r#"ssh-keygen -q -t ed25519 -N '' -f "$0/host_key" && chown nobody "$0/host_key" && chmod 755 "$0" &&
        exec setpriv --reuid nobody --regid nogroup --clear-groups "$(command -v sshd)" -D -e -f "$1""#;
    let config = format!(
        "HostKey {}/host_key\nPort {SSH}\nPidFile none\nUsePAM no\nMaxStartups 1000\n",
        scratch.path().display()
    );
    sshd.args(["sh", "-c", script]).arg(scratch.path()).arg(scratch.write("sshd_config", config));
    Program::start(sshd)
}

async fn mariadb(host: &Namespace, scratch: &Scratch) -> Program {
    let data = format!("--datadir={}/data", scratch.path().display());
    let mut install = Command::new("mariadb-install-db");
    install.args([
        "--no-defaults",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--user=root",
        &data,
    ]);
    printed(install).await;
    let mut mariadb = host.enter();
    mariadb.args(["mariadbd", "--no-defaults", "--skip-name-resolve", "--skip-log-bin", "--user=root"]);
    mariadb.args(["--innodb-buffer-pool-size=8M", "--bind-address=*", &format!("--port={MARIADB}"), &data]);
    mariadb.arg(format!("--socket={}/socket", scratch.path().display()));
    // MariaDB sends no greeting to a client for which it has no user.
    let users = scratch.write("users.sql", "CREATE USER 'caller'@'%';\n");
    mariadb.arg(format!("--init-file={}", users.display()));
    Program::start(mariadb)
}

#[tokio::test]
async fn greetings_come_through_both_sidecars_whole_and_without_waiting_for_a_timeout() {
    let Some(pods) = Pods::new().await else { return };
    for (kind, port) in ALL {
        let [through, _direct] = pods.greeted(20, kind, port).await;
        assert!(through < 250.0, "port {port}: {through} ms");
    }
    pods.hosts.pod.counted(0, "pillion_connections_total", &[("service", "passthrough")]).await;
}

#[tokio::test]
#[ignore = "a figure: on a machine that does nothing else"]
async fn greetings_come_within_five_milliseconds_of_a_direct_one() {
    let Some(pods) = Pods::new().await else { return };
    for (kind, port) in ALL {
        let [through, direct] = pods.greeted(200, kind, port).await;
        assert!(
            through - direct < 5.0,
            "port {port}: {through} ms through both sidecars, {direct} ms direct"
        );
    }
}
