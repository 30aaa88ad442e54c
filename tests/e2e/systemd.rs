//! The unit that is shipped, under a real systemd: start, reload, a takeover, the watchdog, and stop. `packages` has its
//! static checks, and `takeover/systemd` what a service manager is told.

use std::net::SocketAddr;
use std::path::Path;

use crate::support::backend::Backend;
use crate::support::eventually;
use crate::support::systemd::Systemd;
use crate::support::wire::Wire;

fn config(app: SocketAddr, timeout: u32) -> String {
    format!(
        "inbound: off\noutbound: {{ listen: \"127.0.0.1:0\" }}\nadmin: {{ listen: \"127.0.0.1:0\" }}\nmetrics: {{ listen: \"127.0.0.1:0\" }}\n\
         drain: {{ timeout: 30s }}\nservices:\n  orders: {{ listen: \"127.0.0.1:0\", endpoints: [\"{app}\"], timeout: {timeout}s }}\n"
    )
}

/// The address of the service's own port, which is in the status that systemd shows.
async fn orders(systemd: &Systemd) -> SocketAddr {
    let status = systemd.property("StatusText").await;
    let address = status.split([' ', '=']).skip_while(|word| *word != "service.orders").nth(1);
    let address = address.and_then(|address| address.parse().ok());
    match address {
        Some(address) => address,
        None => unreachable!("no address in {status}\n{}", systemd.journal().await),
    }
}

async fn status_has(systemd: &Systemd, text: &str) {
    let has = async || systemd.property("StatusText").await.contains(text).then_some(());
    eventually(text, has).await;
}

/// The number of the main process, when it is another one than this and serves.
async fn next_main(systemd: &Systemd, former: &str) -> String {
    let next = async || {
        let pid = systemd.property("MainPID").await;
        let serves = systemd.property("StatusText").await.starts_with("ready ");
        (serves && pid != former && pid != "0").then_some(pid)
    };
    eventually("another main process", next).await
}

async fn answers(systemd: &Systemd) -> Wire {
    let mut wire = Wire::connect(orders(systemd).await).await;
    assert_eq!(wire.get("orders", "/").await.status(), 200, "{}", systemd.journal().await);
    wire
}

#[tokio::test]
async fn the_unit_runs_under_systemd_itself() {
    let app = Backend::echo().await;
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/pillion.service");
    let Some(systemd) = Systemd::start(&unit, &config(app.address, 10)).await else { return };

    systemd.systemctl(&["start", "pillion"]).await;
    assert!(systemd.property("StatusText").await.starts_with("ready "), "start returns when it serves");
    drop(answers(&systemd).await);

    systemd.configure(&config(app.address, 11));
    systemd.systemctl(&["reload", "pillion"]).await;
    status_has(&systemd, "; this is generation 2").await;
    systemd.configure("inbuond: off\n");
    systemd.systemctl(&["reload", "pillion"]).await;
    status_has(&systemd, "configuration refused").await;
    systemd.configure(&config(app.address, 11));

    systemd
        .drop_in(
            "[Service]\nExecStart=\n\
             ExecStart=/usr/bin/pillion run -c /etc/pillion/pillion.yaml --takeover /run/pillion/takeover.sock\n",
        )
        .await;
    let former = systemd.property("MainPID").await;
    let mut kept = answers(&systemd).await;
    systemd.systemctl(&["kill", "--kill-whom=main", "--signal=USR2", "pillion"]).await;
    next_main(&systemd, &former).await;
    assert!(systemd.has_process(&former).await, "it has a connection");
    let answer = kept.get("orders", "/").await;
    assert_eq!((answer.status(), answer.header("connection")), (200, Some("close")));
    drop(kept);
    eventually("the end of the former process", async || (!systemd.has_process(&former).await).then_some(()))
        .await;
    drop(answers(&systemd).await);
    assert_eq!(systemd.property("ActiveState").await, "active");
    assert_eq!(systemd.property("NRestarts").await, "0");

    // a process that says nothing any more is ended and started again. A machine that stalls for less than ten seconds
    // must not look like it
    systemd.drop_in("[Service]\nWatchdogSec=10\nTimeoutAbortSec=1\n").await;
    let stuck = systemd.property("MainPID").await;
    systemd.systemctl(&["kill", "--kill-whom=main", "--signal=STOP", "pillion"]).await;
    next_main(&systemd, &stuck).await;
    drop(answers(&systemd).await);
    assert!(systemd.journal().await.contains("Watchdog timeout"), "{}", systemd.journal().await);

    // log shipping keeps its checkpoint where it does by default, with a priority that is lower than that of the data path
    let logs = "logs:\n  sources: { app: { files: \"/var/log/app/*.log\" } }\n  sinks: { hook: { http: \"http://127.0.0.1:1\" } }\n";
    systemd.configure(&format!("{}{logs}", config(app.address, 11)));
    systemd.systemctl(&["restart", "pillion"]).await;
    let pid = systemd.property("MainPID").await;
    let is_kept = async || systemd.shell("test -s /var/lib/pillion/logs/checkpoint.json").await.then_some(());
    eventually("a checkpoint", is_kept).await;
    let nice = format!("sed 's/.*) //' /proc/{pid}/task/*/stat | cut -d' ' -f17 | grep -qx 10");
    assert!(systemd.shell(&nice).await, "{}", systemd.journal().await);

    systemd.systemctl(&["stop", "pillion"]).await;
    assert_eq!(systemd.property("ActiveState").await, "inactive");
    assert_eq!(systemd.property("Result").await, "success", "{}", systemd.journal().await);
}
