//! The keeper beside a real sidecar, and its schedule.

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use pillion_testkit::Scratch;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::*;
use crate::app::App;
use crate::takeover::{Found, find};

/// A bound for what takes some milliseconds.
const SOON: Duration = Duration::from_secs(30);

fn running() -> Running {
    let text = "workers: 2\ninbound: off\noutbound: { listen: 127.0.0.1:0 }\nadmin: { listen: 127.0.0.1:0 }\nmetrics: off\n";
    let (config, _) = pillion_config::parse(text, Path::new("")).expect("a configuration");
    App::build(config).expect("free ports").start().expect("threads")
}

fn source(load: impl Fn() -> Result<Loaded, String> + Send + 'static) -> ConfigSource {
    ConfigSource { file: None, flags: Vec::new(), load: Box::new(load), warn: |_| {}, kept: None }
}

#[test]
fn a_refused_file_is_read_again_after_pauses_that_grow_up_to_a_minute() {
    let began = Instant::now();
    let mut again = Again::new("an address in use", began);
    let due: Vec<u64> =
        (0..300).filter(|second| again.is_due(began + Duration::from_secs(*second))).collect();
    assert_eq!(due, [1, 3, 7, 15, 31, 63, 123, 183, 243]);
}

/// A signal that `exec` passes on to its application drops the wait of [`Keeper::keep`]. From when the successor accepts
/// connections, each wait is dropped here after it was polled once.
#[tokio::test]
async fn a_takeover_is_completed_although_signals_interrupt_it() {
    let (scratch, mut running) = (Scratch::new(), running());
    let path = scratch.path("takeover.sock");
    let mut hangup = signal(SignalKind::hangup()).expect("a signal");
    let mut keeper = Keeper::new(source(|| Err("no file".to_owned())), None, None);
    keeper.await_successors(Some(Successors::listen(&path, None).expect("a socket")));
    let serves = Arc::new(Notify::new());
    let accepts = serves.clone();
    let successor = tokio::spawn(async move {
        let Ok(Found::Sidecar(former)) = find(&path).await else { unreachable!("a sidecar serves") };
        former.replace(|| accepts.notify_one()).await
    });
    tokio::select! {
        end = keeper.keep(&mut running, &mut hangup) => unreachable!("{end:?} before the successor serves"),
        () = serves.notified() => {}
    }
    let interrupted = async {
        loop {
            tokio::select! {
                biased;
                end = keeper.keep(&mut running, &mut hangup) => return end,
                () = yield_now() => {}
            }
        }
    };
    assert_eq!(timeout(SOON, interrupted).await, Ok(End::TakenOver));
    assert!(keeper.is_taken_over());
    let answered = timeout(SOON, successor).await.expect("the successor is told").expect("no panic");
    drop(answered.expect("the former sidecar has handed over"));
    let end = timeout(SOON, keeper.keep(&mut running, &mut hangup)).await;
    assert_eq!(end, Ok(End::TakenOver), "the takeover stays known");
}

/// A retry finds the fault of the reload before it, which was reported.
#[tokio::test]
async fn a_fault_that_a_reload_has_reported_is_not_reported_by_retries() {
    static WARNED: AtomicUsize = AtomicUsize::new(0);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let text = format!(
        "workers: 2\ninbound: off\noutbound: {{ listen: \"{}\" }}\nmetrics: off\nadmin: {{ listen: 127.0.0.1:0 }}\n",
        taken.local_addr().expect("a bound address")
    );
    let (config, _) = pillion_config::parse(&text, Path::new("")).expect("a configuration");
    let config = Arc::new(config);
    let warnings = || vec!["p.yaml:1:1: warning: doubtful".to_owned()];
    let load = move || Ok(Loaded { config: config.clone(), written: None, warnings: warnings() });
    let warn = |_: &str| {
        WARNED.fetch_add(1, Relaxed);
    };
    let (mut running, source) = (running(), ConfigSource { warn, ..source(load) });
    let mut keeper = Keeper::new(source, None, Some("another fault".to_owned()));
    let refused = |running: &Running| {
        (running.controller.around.metrics.config_reloads(ReloadOutcome::Refused).get(), WARNED.load(Relaxed))
    };
    keeper.reload(&mut running, "SIGHUP").expect_err("the address is in use");
    assert_eq!(refused(&running), (1, 1));
    for _ in 0..3 {
        keeper.try_refused(&mut running);
        assert_eq!(refused(&running), (1, 1));
    }
}
