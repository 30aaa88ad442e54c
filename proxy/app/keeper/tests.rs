//! The keeper beside a real sidecar, and its schedule.

use std::path::Path;
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
    ConfigSource { file: None, flags: Vec::new(), load: Box::new(load), kept: None }
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
