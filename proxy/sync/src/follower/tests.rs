//! What one entry does with a source that misbehaves, and with another program that writes its file. The clock is paused.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use std::{fs, io};

use pillion_base::ground::{Ground, Shared};
use pillion_base::net::Network;
use pillion_base::net::memory::MemoryNetwork;
use pillion_model::sync::{Check, OnChange, SyncCommand, SyncUrl};
use pillion_telemetry::companions::CompanionKind;
use pillion_testkit::Scratch;
use pillion_upstream::discovery::Resolver;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::command::Left;
use super::*;

/// A server that answers the first question with `answer(0)`, the next one with `answer(1)`, and so on; how many there were.
fn server(memory: &MemoryNetwork, answer: impl Fn(usize) -> String + Send + 'static) -> Arc<AtomicUsize> {
    let mut listener = memory.bind(([127, 0, 0, 1], 8500).into()).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok(mut connection) = listener.accept().await {
            let answer = answer(counted.fetch_add(1, Relaxed));
            drop(connection.io.read(&mut [0; 4096]).await);
            drop(connection.io.write_all(answer.as_bytes()).await);
        }
    });
    count
}

/// An answer of Consul with the value `hi`.
fn consul(index: usize) -> String {
    consul_with("k", index)
}

fn consul_with(key: &str, index: usize) -> String {
    let body = format!(r#"[{{"Key":"{key}","Value":"aGk="}}]"#);
    format!("HTTP/1.1 200 OK\r\nx-consul-index: {index}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn follower(memory: &MemoryNetwork, from: &str, to: PathBuf) -> Follower {
    let metrics = Metrics::new(1000);
    let entry = Arc::new(metrics.companions().register(CompanionKind::Sync, "settings", false));
    let sync = Sync {
        name: "settings".to_owned(),
        from: SyncUrl::new(from).unwrap(),
        to,
        every: None,
        mode: Sync::MODE,
        owner: None,
        token: None,
        check: Check::default(),
        on_change: None,
        required: false,
    };
    let ground = Ground::new((0, 1), Network::Memory(memory.clone()), metrics, Shared::default());
    Follower::new(
        sync,
        entry,
        Asker { ground, resolver: Arc::new(Resolver::system()), began: Instant::now() },
        |_| false,
    )
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_at_once_without_news_is_asked_ever_less_often() {
    let indexes: [fn(usize) -> usize; 3] = [|_| 7, |nth| nth + 1, |nth| 9 - nth % 2];
    for (nth, index) in indexes.into_iter().enumerate() {
        let (memory, scratch) = (MemoryNetwork::default(), Scratch::new());
        let count = server(&memory, move |question| consul(index(question)));
        let follower = follower(&memory, "consul://127.0.0.1:8500/k", scratch.path("settings"));
        let followed = tokio::time::timeout(Duration::from_secs(60), follower.run()).await;
        assert!(followed.is_err(), "it follows without end");
        assert_eq!(fs::read(scratch.path("settings")).unwrap(), b"hi");
        let asked = count.load(Relaxed);
        assert!((10..40).contains(&asked), "{nth}: {asked} questions within a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_program_writes_just_after_a_version_was_put_there_is_found() {
    let (memory, scratch) = (MemoryNetwork::default(), Scratch::new());
    let path = scratch.path("settings");
    server(&memory, |_| consul(7));
    let mut follower = follower(&memory, "consul://127.0.0.1:8500/k", path.clone());
    follower.step().await;
    let (digest, _) = follower.at_work.clone().unwrap();
    let others: [fn(&Path); 2] = [
        |path| fs::write(path, "other").unwrap(),
        |path| {
            fs::remove_file(path).unwrap();
            symlink("elsewhere", path).unwrap();
        },
    ];
    for other in others {
        other(&path);
        follower.is_in_place(digest); // as if it had been written between the rename and this
        follower.looked = None;
        follower.step().await;
        assert_eq!(fs::read(&path).unwrap(), b"hi");
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_not_whole_is_neither_written_nor_counted_again() {
    static IS_BROKEN: AtomicBool = AtomicBool::new(true);
    let (memory, scratch) = (MemoryNetwork::default(), Scratch::new());
    let path = scratch.path("settings");
    server(&memory, |_| consul(7));
    let mut follower = follower(&memory, "consul://127.0.0.1:8500/k", path.clone());
    follower.target.sync = |file| {
        let is_folder = file.metadata()?.is_dir();
        if is_folder && IS_BROKEN.load(Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    };
    let tries = scratch.path("tries");
    follower.sync.on_change = Some(OnChange::Exec(program(&format!("echo >> {}", tries.display()))));
    follower.step().await;
    let first = path.metadata().unwrap().ino();
    for _ in 0..10 {
        follower.step().await;
        assert!(follower.is_unfinished && tries.exists());
    }
    IS_BROKEN.store(false, Relaxed);
    follower.step().await;
    assert!(!follower.is_unfinished && follower.failures == 0);
    assert_eq!(path.metadata().unwrap().ino(), first);
    assert_eq!(follower.metrics.sync_changes("settings", SyncOutcome::Applied).get(), 1);
    assert_eq!(fs::read(&tries).unwrap(), b"\n", "told once");
}

#[tokio::test(start_paused = true)]
async fn a_folder_is_told_when_all_its_names_are_there() {
    let (memory, scratch) = (MemoryNetwork::default(), Scratch::new());
    let (folder, tries) = (scratch.path("settings"), scratch.path("tries"));
    server(&memory, |_| consul_with("k/name", 7));
    let mut follower = follower(&memory, "consul://127.0.0.1:8500/k/", folder.clone());
    let other = folder.join("name");
    follower.sync.check.exec = Some(program(&format!("echo > {}", other.display()))); // while the version is checked
    follower.sync.on_change = Some(OnChange::Exec(program(&format!("echo >> {}", tries.display()))));
    for _ in 0..2 {
        follower.step().await;
        assert!(follower.is_unfinished && !tries.exists());
    }
    fs::remove_file(&other).unwrap();
    for _ in 0..2 {
        follower.step().await;
        assert_eq!(
            (fs::read(&other).unwrap().as_slice(), fs::read(&tries).unwrap().as_slice()),
            (&b"hi"[..], &b"\n"[..])
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_program_that_changes_each_version_is_not_fought_without_a_pause() {
    let (memory, scratch) = (MemoryNetwork::default(), Scratch::new());
    let path = scratch.path("settings");
    let count = server(&memory, |_| consul(7));
    let mut follower = follower(&memory, "consul://127.0.0.1:8500/k", path.clone());
    let began = Instant::now();
    let mut repaired = 0;
    while began.elapsed() < Duration::from_secs(60) {
        follower.step().await;
        if fs::read(&path).unwrap() == b"hi" {
            repaired += 1;
            fs::write(&path, "other").unwrap();
        }
    }
    assert!((5..=13).contains(&repaired), "{repaired} versions in a minute, {count:?} questions");
}

/// A program of the shell that tells the application. The clock is paused while it runs.
fn program(script: &str) -> SyncCommand {
    let words = ["sh", "-c", script].map(str::to_owned).to_vec();
    SyncCommand { words, timeout: Duration::from_secs(1_000_000) }
}

/// A follower that tells a program of each version, the file that the script names TRIES, and the words of the program.
fn telling(scratch: &Scratch, script: &str) -> (Follower, PathBuf, Vec<String>) {
    let (memory, tries) = (MemoryNetwork::default(), scratch.path("tries"));
    server(&memory, |_| consul(7));
    let mut follower = follower(&memory, "consul://127.0.0.1:8500/k", scratch.path("settings"));
    let program = program(&script.replace("TRIES", &tries.display().to_string()));
    let words = program.words.clone();
    follower.sync.on_change = Some(OnChange::Exec(program));
    (follower, tries, words)
}

#[tokio::test(start_paused = true)]
async fn a_program_that_fails_is_tried_again() {
    let scratch = Scratch::new();
    let (mut follower, tries, _) = telling(&scratch, "echo >> TRIES; test $(wc -l < TRIES) = 2");
    follower.step().await;
    assert_eq!(fs::read(&tries).unwrap(), b"\n\n");
    assert_eq!(follower.metrics.sync_changes("settings", SyncOutcome::Untold).get(), 0);
}

/// Else it would be started again and again, as long as each start outlives its end.
#[tokio::test(start_paused = true)]
async fn a_program_that_failed_and_does_not_end_is_not_started_for_ever() {
    let scratch = Scratch::new();
    let (mut follower, tries, words) = telling(&scratch, "echo >> TRIES; exit 1");
    let stays = async {
        sleep(Duration::from_millis(1)).await; // the first try has begun
        Left::new(&words)
    };
    let ((), left) = tokio::join!(follower.step(), stays);
    drop(left);
    follower.step().await;
    assert_eq!(fs::read(&tries).unwrap(), b"\n");
    assert_eq!(follower.metrics.sync_changes("settings", SyncOutcome::Untold).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_version_is_told_when_the_program_that_a_reload_has_killed_has_ended() {
    let scratch = Scratch::new();
    let (mut follower, tries, words) = telling(&scratch, "echo >> TRIES");
    let left = Left::new(&words);
    for nth in 1..=3 {
        follower.step().await;
        assert!(!tries.exists());
        assert_eq!(follower.failures, nth, "the pauses grow");
    }
    drop(left);
    for _ in 0..3 {
        follower.step().await;
        assert_eq!((fs::read(&tries).unwrap().as_slice(), follower.failures), (&b"\n"[..], 0), "told once");
    }
}
