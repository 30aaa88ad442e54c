//! `pillion top` in a real terminal: tmux plays it, and says what its screen shows.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::Scratch;
use crate::support::backend::{Backend, free, nobody};
use crate::support::launched::binary;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tmux::Tmux;
use crate::support::tools::{printed, require, run};
use crate::support::wire::Wire;

/// A sidecar with two services, one of which nobody serves.
async fn sidecar(app: SocketAddr, gone: SocketAddr, admin: SocketAddr) -> Sidecar {
    let yaml = format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nadmin: {{ listen: \"{admin}\" }}\n\
         metrics: {{ listen: 127.0.0.1:0 }}\nservices:\n  orders: {{ endpoints: [\"{app}\"] }}\n  \
         gone: {{ endpoints: [\"{gone}\"], retry: off }}\n"
    );
    let sidecar = Plan::exactly(&yaml).start().await;
    let mut client = Wire::connect(sidecar.outbound()).await;
    for _ in 0..20 {
        assert_eq!(client.get("orders", "/a").await.status(), 200);
    }
    assert_eq!(client.get("gone", "/b?secret=1").await.status(), 502);
    sidecar
}

#[tokio::test]
async fn a_terminal_shows_traffic_and_failures_survives_a_restart_and_gets_its_screen_back() {
    if !require("tmux") {
        return;
    }
    let (app, gone, admin) = (Backend::echo().await, nobody(), free());
    let first = sidecar(app.address, gone, admin).await;
    let tmux = Tmux::start().await;
    tmux.types("echo be''fore").await;
    tmux.types(&format!("{} top --admin http://{admin}", binary().display())).await;

    let screen = tmux.shows(&["live", "→ orders", "→ gone", "502 connect_refused", "LAST FAILURES"]).await;
    assert!(!screen.contains("secret") && !screen.contains("before"), "{screen}");
    let row = screen.lines().find(|line| line.contains("→ orders")).expect("the service's row");
    let rate = row.split_whitespace().nth(2).and_then(|rate| rate.parse::<f64>().ok());
    assert!(rate.is_some_and(|rate| rate > 0.0) && row.contains("0 %") && row.contains("1/1"), "{row}");
    let failure = screen.lines().find(|line| line.contains("502 connect_refused")).expect("the failure");
    assert!(failure.contains("→ gone GET /b"), "{failure}");

    tmux.press("Enter").await;
    tmux.shows(&["why: ", "refused the connection", "connect    |", "esc back"]).await;
    tmux.press("BSpace").await;
    tmux.shows(&["LAST FAILURES"]).await;
    tmux.press("p").await;
    tmux.shows(&["paused"]).await;
    tmux.press("p").await;

    drop(first);
    tmux.shows(&["no connection", "tried again each second"]).await;
    let _second = sidecar(app.address, gone, admin).await;
    tmux.shows(&["live", "RESTARTED"]).await;

    tmux.ask(&["resize-window", "-x", "30", "-y", "8"]).await;
    tmux.shows(&["too small: 30×8 of 40×10"]).await;
    tmux.ask(&["resize-window", "-x", "80", "-y", "24"]).await;
    tmux.shows(&["q quit", "LAST FAILURES"]).await;

    tmux.press("q").await;
    tmux.shows(&["before"]).await; // what is typed before may be taken by the program that ends
    tmux.types("echo af''ter").await;
    let screen = tmux.shows(&["before", "after"]).await;
    assert!(!screen.contains("LAST FAILURES"), "{screen}");
    tmux.types(&format!("{} top --admin http://{admin}", binary().display())).await;
    tmux.shows(&["LAST FAILURES"]).await;
    tmux.press("C-c").await;
    tmux.shows(&["before"]).await;
    tmux.types("stty -a | grep -q -e -icanon && echo ra''w || echo coo''ked").await;
    tmux.shows(&["cooked"]).await;
}

#[tokio::test]
async fn sigterm_ends_top_and_gives_the_terminal_back() {
    if !require("tmux") {
        return;
    }
    let (app, admin, scratch) = (Backend::echo().await, free(), Scratch::new());
    let _sidecar = sidecar(app.address, nobody(), admin).await;
    let (tmux, pid) = (Tmux::start().await, scratch.path().join("pid"));
    tmux.types("echo be''fore").await;
    let top = format!("exec {} top --admin http://{admin}", binary().display());
    tmux.types(&format!("sh -c 'echo $$ >{}; {top}'; echo co''de $?", pid.display())).await;
    tmux.shows(&["LAST FAILURES"]).await;
    let mut kill = Command::new("sh");
    kill.args(["-c", "kill -TERM \"$(cat \"$0\")\""]).arg(&pid);
    printed(kill).await;
    let screen = tmux.shows(&["before", "code 0"]).await;
    assert!(!screen.contains("LAST FAILURES"), "{screen}");
    tmux.types("stty -a | grep -q -e -icanon && echo ra''w || echo coo''ked").await;
    tmux.shows(&["cooked"]).await;
}

#[tokio::test]
async fn without_a_terminal_or_a_sidecar_top_says_so() {
    let top = async |words: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("top").args(words);
        let output = run(command).await;
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = top(&[]).await;
    assert!(code == Some(1) && said.contains("needs a terminal"), "{said}");
    assert_eq!(top(&["--admin", "nonsense"]).await.0, Some(2));
    if !require("tmux") {
        return;
    }
    let tmux = Tmux::start().await;
    tmux.types(&format!("{} top --admin http://{}; echo code $?", binary().display(), nobody())).await;
    tmux.shows(&["cannot be asked (see --admin)", "code 1"]).await;
}
