//! The whole companion against servers in memory, with a clock that is paused: what takes ten minutes takes none.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillion_base::ground::{Ground, Shared};
use pillion_base::net::Network;
use pillion_base::net::memory::{MemoryNetwork, Pipe};
use pillion_companion::thread::Order;
use pillion_model::Config;
use pillion_model::logs::{
    Batch, Destination, IndexName, Logs, MongodbUrl, Sink, SinkUrl, Source, SyslogUrl,
};
use pillion_telemetry::Metrics;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use super::super::run;
use crate::catalog::Shelf;

/// A sink that is asked over HTTP, and the requests that it got.
type Got = Arc<Mutex<Vec<String>>>;

struct Story {
    root: PathBuf,
    ground: Arc<Ground>,
    network: MemoryNetwork,
}

impl Drop for Story {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.root));
    }
}

impl Story {
    fn new(log: &str) -> Self {
        let name = format!("pillion-story-{}-{}", std::process::id(), fastrand::u64(..));
        let root = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("a.log"), log).unwrap();
        let network = MemoryNetwork::default();
        let metrics = Metrics::new(100);
        let ground = Ground::new((0, 1), Network::Memory(network.clone()), metrics, Shared::default());
        Self { root, ground, network }
    }

    /// Ships the files to a sink until this is so.
    async fn ship_until(&self, to: Destination, is_so: impl Fn() -> bool) -> Duration {
        let glob = format!("{}/*.log", self.root.display());
        let logs = Logs {
            sources: vec![Source { files: vec![glob], ..Source::new("app") }],
            sinks: vec![Sink { name: "sink".to_owned(), to, headers: Vec::new(), trust_bundle: None }],
            checkpoint: self.root.join("state"),
            batch: Batch { max: Batch::LEAST, ..Batch::default() },
            ..Logs::default()
        };
        let config = Config { logs: Some(logs), ..Config::default() };
        let (_orders, following) = watch::channel(Order::Follow(Arc::new(config)));
        let begun = Instant::now();
        let waiting = async {
            while !is_so() {
                assert!(begun.elapsed() < Duration::from_hours(6), "it is so at some time");
                sleep(Duration::from_secs(1)).await;
            }
        };
        LocalSet::new()
            .run_until(async {
                tokio::select! { // the companion ends with the story
                    () = run(self.ground.clone(), Shelf::default(), following) => {}
                    () = waiting => {}
                }
            })
            .await;
        begun.elapsed()
    }

    fn count(&self, outcome: &str) -> f64 {
        let text = self.ground.metrics.encode();
        let is_meant = |line: &&str| {
            line.starts_with("pillion_logs_records_total") && line.contains(&format!("\"{outcome}\""))
        };
        text.lines().find(is_meant).and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// A server that answers requests by their bodies. Of one with the status 0 nothing comes.
    fn serve(&self, answer: impl Fn(&str) -> (u16, String) + Clone + Send + 'static) -> SinkUrl {
        let address: SocketAddr = "10.0.0.1:9200".parse().unwrap();
        let mut listener = self.network.bind(address).unwrap();
        tokio::spawn(async move {
            while let Ok(arrived) = listener.accept().await {
                tokio::spawn(answer_all(arrived.io, answer.clone()));
            }
        });
        SinkUrl::new(&format!("http://{address}")).unwrap()
    }

    /// Elasticsearch, which says of each document what this says of its index and its place in the request: a status, and why.
    fn elasticsearch(&self, judge: fn(&str, usize) -> (u16, &'static str)) -> (Destination, Got) {
        let (got, taken) = (Got::default(), Got::default());
        let kept = taken.clone();
        let url = self.serve(move |body| {
            got.lock().unwrap().push(body.to_owned());
            let lines: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let items: Vec<Value> = lines
                .chunks(2)
                .enumerate()
                .map(|(nth, pair)| {
                    let index = pair[0]["create"]["_index"].as_str().unwrap();
                    let (status, why) = judge(index, nth);
                    let message = pair[1]["message"].as_str().unwrap().to_owned();
                    let mut kept = kept.lock().unwrap();
                    if status == 201 && !kept.contains(&message) {
                        kept.push(message);
                    }
                    let reason = format!("of {index}");
                    json!({ "create": { "status": status, "error": { "type": why, "reason": reason, "index": index } } })
                })
                .collect();
            (200, json!({ "errors": true, "items": items }).to_string())
        });
        (Destination::Elasticsearch { url, index: IndexName::new("app-%Y.%m").unwrap() }, taken)
    }
}

/// MongoDB, which has so many bytes to say of each batch. Of its answer only the beginning comes when it is a long one.
async fn mongodb(mut io: Pipe, length: impl Fn(usize) -> usize) {
    loop {
        let mut header = [0; 4];
        if io.read_exact(&mut header).await.is_err() {
            return;
        }
        let mut rest = vec![0; u32::from_le_bytes(header) as usize - 4];
        io.read_exact(&mut rest).await.unwrap();
        let begin = rest.windows(10).position(|name| name == b"documents\0").unwrap() + 10;
        let (mut documents, mut count) = (&rest[begin..], 0);
        while let Some(length) = documents.first_chunk() {
            documents = &documents[u32::from_le_bytes(*length) as usize..];
            count += 1;
        }
        let mut answer = Vec::new();
        for number in [length(count), 1, 1, 2013, 0] {
            answer.extend_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
        }
        answer.extend_from_slice(b"\0\x11\0\0\0\x01ok\0\0\0\0\0\0\0\xf0\x3f\0");
        io.write_all(&answer).await.unwrap();
    }
}

async fn answer_all(mut io: Pipe, answer: impl Fn(&str) -> (u16, String)) {
    let mut read = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if io.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let text = String::from_utf8_lossy(&read[..head]).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        let end = head + length.parse::<usize>().unwrap();
        while read.len() < end {
            if io.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let (status, content) = answer(&String::from_utf8_lossy(&read[head..end]));
        read.drain(..end);
        if status == 0 {
            std::future::pending::<()>().await;
        }
        let length = content.len();
        let answer = format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\n\r\n{content}");
        if io.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn lines(month: u32, count: usize) -> String {
    (0..count).map(|nth| format!("2026-{month:02}-03T04:05:06Z line {nth} of a month\n")).collect()
}

#[tokio::test(start_paused = true)]
async fn records_for_an_index_that_is_closed_do_not_stop_the_others() {
    // more of them than one batch has, and at the beginning: the sink has never taken a record
    let story = Story::new(&format!("{}{}{}", lines(1, 300), lines(2, 300), lines(3, 5)));
    let (to, taken) = story.elasticsearch(|index, _| match index {
        "app-2026.01" => (400, "index_closed_exception"),
        "app-2026.02" => (403, "cluster_block_exception"),
        _ => (201, "null"),
    });
    story.ship_until(to, || story.count("delivered") == 5.0).await;
    assert_eq!((taken.lock().unwrap().len(), story.count("refused")), (5, 600.0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_mongodb_that_is_too_long_is_asked_for_in_parts() {
    let story = Story::new(&lines(1, 60));
    let address: SocketAddr = "10.0.0.1:27017".parse().unwrap();
    let mut listener = story.network.bind(address).unwrap();
    tokio::spawn(async move {
        while let Ok(arrived) = listener.accept().await {
            tokio::spawn(mongodb(arrived.io, |count| if count > 20 { 10_000_000 } else { 38 }));
        }
    });
    let url = MongodbUrl::new(&format!("mongodb://{address}")).unwrap();
    let to = Destination::Mongodb { url, database: "logs".to_owned(), collection: "app".to_owned() };
    story.ship_until(to, || story.count("delivered") == 60.0).await;
    assert_eq!(story.count("refused"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_for_which_a_sink_needs_too_long_is_sent_in_parts() {
    let story = Story::new(&lines(1, 60));
    let url = story.serve(|body| (if body.lines().count() > 20 { 0 } else { 200 }, String::new()));
    story.ship_until(Destination::Http { url }, || story.count("delivered") == 60.0).await;
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_takes_some_at_a_time_is_not_waited_for_longer_and_longer() {
    let story = Story::new(&lines(1, 60));
    let (to, _) = story.elasticsearch(|_, nth| if nth == 0 { (201, "null") } else { (429, "busy") });
    let time = story.ship_until(to, || story.count("delivered") == 60.0).await;
    assert!(time < Duration::from_mins(1), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn an_elasticsearch_that_takes_nothing_costs_no_record_however_long_that_lasts() {
    static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    BEGUN.set(Instant::now()).unwrap();
    let story = Story::new(&lines(1, 500));
    let (to, taken) = story.elasticsearch(|_, _| {
        let is_mended = BEGUN.get().unwrap().elapsed() > Duration::from_hours(3);
        if is_mended { (201, "null") } else { (403, "security_exception") }
    });
    story.ship_until(to, || story.count("delivered") == 500.0).await;
    assert_eq!((taken.lock().unwrap().len(), story.count("refused")), (500, 0.0));
}

/// The kernel takes the first datagram of each attempt, and reports at the second one that nobody has got it.
#[tokio::test(start_paused = true)]
async fn a_receiver_of_datagrams_that_is_not_there_is_waited_for_longer_and_longer() {
    let story = Story::new(&lines(1, 40));
    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    other.connect("127.0.0.1:9").unwrap(); // from there alone it gets datagrams
    let url = SyslogUrl::new(&format!("udp://{}", other.local_addr().unwrap())).unwrap();
    let time = story.ship_until(Destination::Syslog { url }, || story.count("delivered") == 40.0).await;
    assert!(
        time > Duration::from_mins(1),
        "forty pauses of half a second at most would be too few: {time:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_index_that_is_closed_again_after_an_hour_gets_its_ten_minutes_again() {
    static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    BEGUN.set(Instant::now()).unwrap();
    let minutes = || BEGUN.get().unwrap().elapsed().as_secs() / 60;
    let story = Story::new(&format!("{}{}", lines(1, 300), lines(3, 5)));
    let (to, _) = story.elasticsearch(|index, _| {
        let is_closed = index == "app-2026.01" && BEGUN.get().unwrap().elapsed() < Duration::from_mins(95);
        if is_closed { (400, "index_closed_exception") } else { (201, "null") }
    });
    let (written, late) = (std::cell::Cell::new(false), story.root.join("b.log"));
    let is_so = || {
        if minutes() >= 90 && !written.replace(true) {
            assert_eq!(story.count("refused"), 300.0, "they came back for ten minutes");
            std::fs::write(&late, lines(1, 5)).unwrap();
        }
        story.count("delivered") == 10.0
    };
    story.ship_until(to, is_so).await;
    assert_eq!(story.count("refused"), 300.0);
}
