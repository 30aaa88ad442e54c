//! A real etcd as the source.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use super::{Reader, changes_asked, counted, has, plan, shows, version};
use crate::support::backend::free;
use crate::support::program::Program;
use crate::support::tools::{printed, require};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually};

struct Etcd {
    address: SocketAddr,
    data: PathBuf,
    program: Option<Program>,
    scratch: Scratch,
}

impl Etcd {
    /// `None`: it is not installed.
    async fn start() -> Option<Self> {
        if !require("etcd") || !require("etcdctl") {
            return None;
        }
        let scratch = Scratch::new();
        let data = scratch.path().join("data");
        let mut etcd = Self { address: free(), data, program: None, scratch };
        etcd.start_again().await;
        Some(etcd)
    }

    async fn start_again(&mut self) {
        let mut command = Command::new("etcd");
        let own = format!("http://{}", self.address);
        command.arg("--data-dir").arg(&self.data).args(["--listen-client-urls", &own]);
        command.args(["--advertise-client-urls", &own, "--listen-peer-urls", "http://127.0.0.1:0"]);
        command.args(["--initial-advertise-peer-urls", "http://127.0.0.1:1"]);
        command.args(["--initial-cluster", "default=http://127.0.0.1:1"]);
        self.program = Some(Program::start(command));
        eventually("etcd answers", async || {
            let stream = tokio::net::TcpStream::connect(self.address).await.ok()?;
            let health = Wire::new(stream).get("etcd", "/health").await;
            health.text().contains("true").then_some(())
        })
        .await;
    }

    async fn ask(&self, words: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.address.to_string()]);
        // its own limits of 2 s and 5 s are short where the disk is busy
        command.args(["--dial-timeout=30s", "--command-timeout=30s"]).args(words);
        printed(command).await
    }

    async fn put(&self, key: &str, value: &str) {
        self.ask(&["put", key, "--", value]).await;
    }
}

#[tokio::test]
async fn every_change_of_a_key_of_etcd_is_seen_whole() {
    let Some(etcd) = Etcd::start().await else { return };
    let path = etcd.scratch.path().join("settings");
    etcd.put("/app/settings", &version(0)).await;
    let keys = format!("from: \"etcd://{}/app/settings\", to: {}", etcd.address, path.display());
    let sidecar = plan(&keys).start().await;
    has(&path, &version(0)).await;
    let reader = Reader::of_file(path.clone());
    let mut number = 0;
    while number < changes_asked() || !reader.has_looked_often() {
        number += 1;
        etcd.put("/app/settings", &version(number)).await;
        has(&path, &version(number)).await;
    }
    reader.has_seen_whole_versions();
    counted(&sidecar, "applied", number + 1).await;
}

#[tokio::test]
async fn an_etcd_that_is_killed_and_compacted_is_followed_again() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let folder = etcd.scratch.path().join("settings");
    etcd.put("app/one", "1").await;
    etcd.put("apple", "not in the folder").await;
    let keys = format!("from: \"etcd://{}/app/\", to: {}", etcd.address, folder.display());
    let sidecar = plan(&keys).start().await;
    has(&folder.join("one"), "1").await;
    etcd.program = None;
    shows(&sidecar, "\"up\":false").await;
    has(&folder.join("one"), "1").await;
    etcd.start_again().await;
    etcd.put("app/one", "2").await;
    etcd.put("app/deep/two", "2").await;
    let answer = etcd.ask(&["get", "app/one", "-w", "json"]).await;
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    etcd.ask(&["compact", &answer["header"]["revision"].to_string()]).await;
    has(&folder.join("one"), "2").await;
    has(&folder.join("deep/two"), "2").await;
    etcd.ask(&["del", "app/one"]).await;
    eventually("the name is gone", async || (!folder.join("one").exists()).then_some(())).await;
    assert!(!folder.join("apple").exists());
    etcd.ask(&["del", "app/deep/two"]).await;
    shows(&sidecar, "does not have it any more").await;
    has(&folder.join("deep/two"), "2").await;
}
