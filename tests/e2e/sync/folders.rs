//! Folders of keys, which change all at once.

use std::path::{Path, PathBuf};

use super::{Reader, counted, has, plan, shows};
use crate::support::consul::Consul;
use crate::support::{Scratch, eventually};

const FILES: usize = 100;

fn files(version: usize) -> impl Iterator<Item = (String, String)> {
    (0..FILES).map(move |file| (format!("app/{file:03}"), format!("{version}")))
}

/// The version that all files of the folder have. The folder of the current version is opened first, as a program must that
/// reads several files.
fn version_in(folder: &Path) -> Result<usize, String> {
    let current = folder.join(std::fs::read_link(folder.join("..data")).map_err(|error| error.to_string())?);
    let mut versions: Vec<String> = Vec::new();
    for file in 0..FILES {
        let path: PathBuf = current.join(format!("{file:03}"));
        versions
            .push(std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?);
    }
    versions.dedup();
    match &versions[..] {
        [one] => one.parse().map_err(|_error| format!("{one:?}")),
        more => Err(format!("parts of versions {more:?}")),
    }
}

#[tokio::test]
async fn a_hundred_files_change_at_once() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let folder = scratch.path().join("settings");
    consul.put_all(files(0));
    let keys =
        format!("from: \"consul://{}/app/\", to: {}, mode: \"0644\"", consul.address, folder.display());
    let sidecar = plan(&keys).start().await;
    has(&folder.join("099"), "0").await;
    let watched = folder.clone();
    let reader = Reader::start(move || {
        // the folder of a version stays until the next but one is there, which a slow reader may meet
        let at = || std::fs::read_link(watched.join("..data")).map_err(|error| error.to_string());
        loop {
            let before = at()?;
            match version_in(&watched) {
                Err(fault) if fault.contains("os error 2") && at()? != before => {}
                seen => break seen,
            }
        }
    });
    let mut version = 0;
    while version < 20 || !reader.has_looked_often() {
        version += 1;
        consul.put_all(files(version));
        has(&folder.join("050"), &version.to_string()).await;
    }
    reader.has_seen_whole_versions();
    counted(&sidecar, "applied", version + 1).await;
    let kept = std::fs::read_dir(&folder).expect("a folder").count();
    assert_eq!(kept, FILES + 3, "the files, the link, and the folders of two versions");
}

#[tokio::test]
async fn a_name_that_would_leave_the_folder_refuses_the_version() {
    let (consul, scratch) = (Consul::start().await, Scratch::new());
    let folder = scratch.path().join("settings");
    consul.put("app/a", "1");
    let keys = format!("from: \"consul://{}/app/\", to: {}", consul.address, folder.display());
    let sidecar = plan(&keys).start().await;
    has(&folder.join("a"), "1").await;
    consul.put("app/../evil", "1");
    shows(&sidecar, "cannot be a file in the folder").await;
    has(&folder.join("a"), "1").await;
    assert!(!scratch.path().join("evil").exists());
    consul.delete("app/../evil");
    consul.put("app/a", "2");
    has(&folder.join("a"), "2").await;
    shows(&sidecar, "\"up\":true").await;
}

#[tokio::test]
async fn files_of_a_shared_volume_are_followed_and_a_lost_file_is_written_again() {
    let scratch = Scratch::new();
    let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
    std::fs::create_dir_all(from.join("deep")).expect("a folder of the test's own");
    std::fs::write(from.join("a"), "1").expect("a file");
    std::fs::write(from.join("deep/b"), "1").expect("a file");
    let keys = format!("from: \"file://{}/\", to: {}, every: 100ms", from.display(), to.display());
    let _sidecar = plan(&keys).start().await;
    has(&to.join("deep/b"), "1").await;
    std::fs::write(from.join("a"), "2").expect("a file");
    has(&to.join("a"), "2").await;
    std::fs::remove_file(to.join("..data")).expect("what another program may do");
    eventually("the files are there again", async || {
        std::fs::read_to_string(to.join("a")).is_ok_and(|text| text == "2").then_some(())
    })
    .await;
}
