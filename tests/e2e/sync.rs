//! Files that are kept as a source has them: whole at every moment, checked, told to the application, and left alone when the
//! source is away.

mod etcd;
mod first;
mod folders;
mod told;
mod web;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::support::consul::Consul;
use crate::support::launched::binary;
use crate::support::sidecar::{Plan, Sidecar, Starting};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually};

/// A sidecar that keeps one file, `settings`, and does nothing else.
fn plan(keys: &str) -> Plan {
    Plan::new(&format!("inbound: off\noutbound: off\nsync: {{ settings: {{ {keys} }} }}"))
}

/// The entry of `settings` on `/companions`.
async fn shown(sidecar: &Sidecar) -> Value {
    shown_at(sidecar.admin()).await
}

async fn shown_at(admin: std::net::SocketAddr) -> Value {
    let page = Wire::connect(admin).await.get("127.0.0.1", "/companions").await;
    let page: Value = serde_json::from_str(&page.text()).expect("JSON");
    page["companions"].as_array().and_then(|all| all.first()).cloned().unwrap_or_default()
}

/// Waits until the entry shows this text.
async fn shows(sidecar: &Sidecar, text: &str) {
    eventually(text, async || shown(sidecar).await.to_string().contains(text).then_some(())).await;
}

async fn has(path: &Path, content: &str) {
    let what = format!("{} has {content:.40}", path.display());
    eventually(&what, async || std::fs::read_to_string(path).is_ok_and(|text| text == content).then_some(()))
        .await;
}

/// How many versions had this outcome.
async fn changes(sidecar: &Sidecar, outcome: &str) -> f64 {
    sidecar.scrape().await.sum("pillion_sync_changes_total", &[("name", "settings"), ("outcome", outcome)])
}

/// Waits until as many versions had this outcome, and no more.
async fn counted(sidecar: &Sidecar, outcome: &str, many: usize) {
    eventually(&format!("{many} are {outcome}"), async || {
        let counted = changes(sidecar, outcome).await;
        assert!(counted <= many as f64, "{counted} of {many} are {outcome}");
        (counted == many as f64).then_some(())
    })
    .await;
}

/// How many changes a test makes; `tests/long/sync.sh` asks for a thousand.
fn changes_asked() -> usize {
    std::env::var("PILLION_TEST_CHANGES").ok().and_then(|count| count.parse().ok()).unwrap_or(100)
}

/// A version whose every line names it, so that a reader notices two versions in one.
fn version(number: usize) -> String {
    format!("version {number}\n").repeat(2_000)
}

/// The number of a version that is whole.
fn number(text: &str) -> Option<usize> {
    let number = text.lines().next()?.strip_prefix("version ")?.parse().ok()?;
    (text == version(number)).then_some(number)
}

/// Reads a file all the time, on a thread of its own.
struct Reader {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Reader {
    /// `look` tells the number of a version, or what is wrong with it.
    fn start(look: impl Fn() -> Result<usize, String> + Send + 'static) -> Self {
        let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (stop.clone(), looks.clone());
        let thread = std::thread::spawn(move || {
            let (mut last, mut faults) = (0, Vec::new());
            while !stopped.load(Relaxed) {
                counted.fetch_add(1, Relaxed);
                match look() {
                    Ok(number) if number >= last => last = number,
                    Ok(number) => faults.push(format!("{number} after {last}")),
                    Err(fault) => faults.push(fault),
                }
            }
            faults
        });
        Self { stop, looks, thread }
    }

    /// Often enough for a fault to be seen. On a busy machine it may take more versions than usual.
    fn has_looked_often(&self) -> bool {
        self.looks.load(Relaxed) > 100
    }

    fn of_file(path: PathBuf) -> Self {
        Self::start(move || {
            let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
            number(&text).ok_or_else(|| format!("a part of a version: {text:.60}"))
        })
    }

    /// Every look has found a whole version, and never an older one than before.
    fn has_seen_whole_versions(self) {
        assert!(self.has_looked_often(), "the story goes on until it has");
        self.stop.store(true, Relaxed);
        let faults = self.thread.join().expect("a thread without a panic");
        assert!(faults.is_empty(), "{faults:.300?}");
    }
}

#[tokio::test]
async fn every_change_of_a_key_of_consul_is_seen_whole() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let path = scratch.path().join("settings");
    consul.put("app/my settings", version(0));
    let keys = format!(
        "from: \"consul://{}/app/my%20settings\", to: {}, required: on",
        consul.address,
        path.display()
    );
    let sidecar = plan(&keys).start().await;
    assert_eq!(std::fs::read_to_string(&path).expect("it is required"), version(0));
    let reader = Reader::of_file(path.clone());
    let mut number = 0;
    while number < changes_asked() || !reader.has_looked_often() {
        number += 1;
        consul.put("app/my settings", version(number));
        has(&path, &version(number)).await;
    }
    reader.has_seen_whole_versions();
    counted(&sidecar, "applied", number + 1).await;
    let asked = consul.asked();
    assert!(asked[0] == "/v1/kv/app/my%20settings" && asked[1].contains("?index="), "{asked:?}");
    assert!(asked.len() <= number + 10, "it waits for changes: {asked:?}");
}

#[tokio::test]
async fn an_index_that_goes_backwards_loses_no_change() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let path = scratch.path().join("settings");
    consul.put("k", "one");
    let sidecar = plan(&format!("from: \"consul://{}/k?stale\", to: {}", consul.address, path.display()));
    let sidecar = sidecar.start().await;
    has(&path, "one").await;
    consul.reset_index();
    eventually("a query without an index", async || {
        let asked = consul.asked();
        (asked.iter().filter(|path| path.as_str() == "/v1/kv/k?stale").count() == 2).then_some(())
    })
    .await;
    consul.put("k", "two");
    has(&path, "two").await;
    counted(&sidecar, "applied", 2).await;
}

#[tokio::test]
async fn a_source_that_is_killed_leaves_the_file_and_is_followed_again_when_it_is_back() {
    let (mut consul, scratch) = (Consul::start().await, Scratch::new());
    let path = scratch.path().join("settings");
    consul.put("k", "one");
    let sidecar = plan(&format!("from: \"consul://{}/k\", to: {}", consul.address, path.display()));
    let sidecar = sidecar.start().await;
    shows(&sidecar, "\"up\":true").await;
    consul.kill();
    shows(&sidecar, "\"up\":false").await;
    assert_eq!(std::fs::read_to_string(&path).expect("what was there"), "one");
    assert_eq!(sidecar.page("/ready").await.0, 200);
    consul.put("k", "two");
    consul.start_again().await;
    has(&path, "two").await;
    shows(&sidecar, "\"up\":true").await;
    let last = shown(&sidecar).await["last_problem"]["problem"].to_string();
    assert!(last.len() > 4, "{last}");
}

#[tokio::test]
async fn a_key_that_is_removed_leaves_the_file() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let path = scratch.path().join("settings");
    consul.put("k", "one");
    let sidecar = plan(&format!("from: \"consul://{}/k\", to: {}", consul.address, path.display()));
    let sidecar = sidecar.start().await;
    has(&path, "one").await;
    consul.delete("k");
    shows(&sidecar, "does not have it any more").await;
    counted(&sidecar, "deleted", 1).await;
    has(&path, "one").await;
    consul.put("k", "one");
    shows(&sidecar, "\"up\":true").await;
}

#[tokio::test]
async fn a_token_is_sent_and_no_log_and_no_page_shows_it_or_the_content() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let path = scratch.path().join("settings");
    consul.ask_for_token("open-sesame-2");
    consul.put("k", "password: hunter2");
    let token = scratch.write("token", "open-sesame-1\n");
    let keys = format!(
        "from: \"consul://{}/k\", to: {}, token_file: {}, check: {{ json: on }}",
        consul.address,
        path.display(),
        token.display()
    );
    let sidecar = plan(&keys).start().await;
    shows(&sidecar, "403").await;
    scratch.write("token", "open-sesame-2\n");
    shows(&sidecar, "is not JSON").await;
    consul.put("k", "{\"password\": \"hunter2\"}");
    has(&path, "{\"password\": \"hunter2\"}").await;
    let config = Wire::connect(sidecar.admin()).await.get("127.0.0.1", "/config").await.text();
    for text in [sidecar.errors(), config, shown(&sidecar).await.to_string()] {
        assert!(!text.contains("open-sesame") && !text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn a_required_file_keeps_the_sidecar_from_being_ready_until_it_is_there() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let path = scratch.path().join("settings");
    scratch.write("settings", "of the image");
    let config = scratch.write(
        "pillion.yaml",
        format!(
            "inbound: off\noutbound: off\nadmin: {{ listen: 127.0.0.1:0 }}\nmetrics: {{ listen: 127.0.0.1:0 }}\n\
             sync: {{ settings: {{ from: \"consul://{}/k\", to: settings, required: on }} }}\n",
            consul.address
        ),
    );
    let start = || {
        let mut command = std::process::Command::new(binary());
        command.args(["run", "-c"]).arg(&config);
        Starting::new(command, Arc::new(Scratch::new()))
    };
    let starting = start();
    starting.has_said("not ready yet: waiting for sync.settings").await;
    assert_eq!(std::fs::read_to_string(&path).expect("what was there"), "of the image");
    consul.put("k", "one");
    let sidecar = starting.ready().await;
    has(&path, "one").await;
    drop(sidecar);
    // a version that came from the source counts after a restart, although the source is away
    drop(consul);
    let sidecar = start().ready().await;
    assert_eq!(shown(&sidecar).await["required"], true);
}

#[tokio::test]
async fn a_reload_begins_and_ends_entries_and_leaves_the_others_alone() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    consul.put("one", "1");
    consul.put("two", "2");
    let [one, two] = ["one", "two"].map(|name| scratch.path().join(name));
    let entry = |name: &str, to: &Path| {
        format!("{name}: {{ from: \"consul://{}/{name}\", to: {} }}", consul.address, to.display())
    };
    let base = "inbound: off\noutbound: off\n";
    let sidecar = Plan::new(&format!("{base}sync: {{ {} }}", entry("one", &one))).start().await;
    has(&one, "1").await;
    let text = sidecar.configuration();
    sidecar.configure(&text.replace("sync: {", &format!("sync: {{ {},", entry("two", &two))));
    has(&two, "2").await;
    let asked = consul.asked().iter().filter(|path| path.as_str() == "/v1/kv/one").count();
    assert_eq!(asked, 1, "the entry that did not change goes on waiting");
    sidecar.configure(&format!("{base}admin: {{ listen: 127.0.0.1:0 }}\nmetrics: {{ listen: 127.0.0.1:0 }}\naccess_log: {{ path: stdout }}\n"));
    eventually("no entry", async || shown(&sidecar).await.is_null().then_some(())).await;
    let text = sidecar.scrape().await.text;
    assert!(!text.contains("pillion_sync_changes_total{"), "{text}");
}
