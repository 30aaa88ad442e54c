//! Stories of files that are renamed, truncated, deleted and found again.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use pillion_model::Workload;
use pillion_model::logs::{Destination, Logs, Sink, SinkUrl, Source};
use tokio::time::Instant;

use super::tailed::{QUIET, REST};
use super::*;
use crate::checkpoint::Place;
use crate::group::End;
use crate::rotation::{self, HEAD, Identity, TAIL};

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn place() -> Folder {
    let root =
        std::env::temp_dir().join(format!("pillion-catalog-{}-{}", std::process::id(), fastrand::u64(..)));
    fs::create_dir_all(&root).unwrap();
    Folder(root)
}

fn logs(root: &Path) -> Logs {
    let to = Destination::Http { url: SinkUrl::new("http://127.0.0.1:1").unwrap() };
    let sink = Sink { name: "hook".to_owned(), to, headers: Vec::new(), trust_bundle: None };
    let source = Source { files: vec![format!("{}/*.log", root.display())], ..Source::new("app") };
    Logs { sources: vec![source], sinks: vec![sink], checkpoint: root.join("state"), ..Logs::default() }
}

/// The same with sinks of these names.
fn logs_to(root: &Path, names: &[&str]) -> Logs {
    let logs = logs(root);
    let sink = |name: &&str| Sink { name: (*name).to_owned(), ..logs.sinks[0].clone() };
    Logs { sinks: names.iter().map(sink).collect(), ..logs }
}

fn open(root: &Path) -> Catalog {
    open_as(&logs(root))
}

fn open_as(logs: &Logs) -> Catalog {
    fs::create_dir_all(&logs.checkpoint).unwrap();
    after(logs, &Shelf::default())
}

/// The catalog after a reload.
fn after(logs: &Logs, shelf: &Shelf) -> Catalog {
    Catalog::open(logs, &Workload::default(), shelf, Instant::now()).unwrap()
}

#[tokio::test]
async fn a_reload_keeps_files_that_were_deleted_open() {
    let (root, shelf) = (place(), Shelf::default());
    fs::write(root.0.join("a.log"), "one\ntwo\n").unwrap();
    drop(open(&root.0)); // makes the folder of the checkpoint
    let mut catalog = after(&logs_to(&root.0, &["hook"]), &shelf);
    taken(&mut catalog, 0, 4);
    fs::remove_file(root.0.join("a.log")).unwrap();
    catalog.scan(Instant::now());
    drop(catalog);
    let catalog = after(&logs_to(&root.0, &["added", "hook"]), &shelf);
    let file = &catalog.files[&0];
    let offsets: Vec<u64> = file.places.iter().map(|place| place.offset).collect();
    assert_eq!((offsets, catalog.lost, file.is_present), (vec![0, 4], 0, false));
    let mut bytes = [0; 4];
    file.read(&mut bytes, 4).unwrap();
    assert_eq!(&bytes, b"two\n");
}

#[tokio::test]
async fn a_file_that_a_reload_takes_out_of_the_globs_is_shipped_no_more() {
    let (root, shelf) = (place(), Shelf::default());
    for name in ["a.log", "b.log"] {
        fs::write(root.0.join(name), "one\n").unwrap();
    }
    let mut catalog = open(&root.0);
    catalog.shelf = shelf.clone();
    assert_eq!(catalog.files.len(), 2);
    fs::rename(root.0.join("b.log"), root.0.join("b.log.1")).unwrap();
    drop(catalog);
    let mut logs = logs(&root.0);
    logs.sources[0].files = vec![format!("{}/c.log", root.0.display())];
    for shelf in [shelf, Shelf::default()] {
        let catalog = after(&logs, &shelf);
        assert_eq!(places(&catalog), [("b.log".to_owned(), 0, 0)], "its old name is free");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_renamed_is_not_forgotten_while_it_has_a_name() {
    let root = place();
    fs::write(root.0.join("a.log"), "one\n").unwrap();
    let mut catalog = open(&root.0);
    taken(&mut catalog, 0, 4);
    fs::rename(root.0.join("a.log"), root.0.join("a.log.1")).unwrap();
    catalog.scan(Instant::now());
    tokio::time::advance(REST).await;
    catalog.look(Instant::now());
    assert_eq!(catalog.files.len(), 1, "its writer may have it open");
    fs::remove_file(root.0.join("a.log.1")).unwrap();
    catalog.look(Instant::now());
    assert!(catalog.files.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_file_is_closed_for_another_one_and_opened_again_when_it_grows() {
    let root = place();
    fs::write(root.0.join("a.log"), "one\n").unwrap();
    let mut catalog = open(&root.0);
    catalog.most_open = 1;
    taken(&mut catalog, 0, 4);
    fs::write(root.0.join("b.log"), "two\n").unwrap();
    catalog.scan(Instant::now());
    assert_eq!(catalog.files.len(), 1, "a.log is not quiet yet");
    tokio::time::advance(REST).await;
    catalog.scan(Instant::now());
    assert_eq!(places(&catalog), [("a.log".to_owned(), 4, 0), ("b.log".to_owned(), 0, 0)]);
    assert!(catalog.files[&0].file.is_none() && catalog.files[&1].file.is_some());
    taken(&mut catalog, 1, 4);
    let id = catalog.files[&0].id;
    let mut file = fs::OpenOptions::new().append(true).open(root.0.join("a.log")).unwrap();
    file.write_all(b"three\n").unwrap();
    tokio::time::advance(REST).await;
    assert!(catalog.look(Instant::now()));
    assert!(catalog.files[&0].file.is_some() && catalog.files[&1].file.is_none());
    assert_eq!((catalog.lag(0, 0), catalog.files[&0].id), (6, id));
}

#[tokio::test]
async fn what_a_cut_search_does_not_find_is_not_gone() {
    let root = place();
    fs::create_dir(root.0.join("z")).unwrap();
    fs::write(root.0.join("z/a.log"), "one\n").unwrap();
    let mut logs = logs(&root.0);
    logs.sources[0].files = vec![format!("{}/*/*.log", root.0.display())];
    let mut catalog = open_as(&logs);
    assert_eq!(catalog.files.len(), 1);
    catalog.sources[0].files = vec![format!("{}/\0/*.log", root.0.display())]; // cannot be read
    catalog.scan(Instant::now());
    assert!(catalog.files[&0].is_present);
}

#[tokio::test]
async fn a_file_that_was_deleted_is_let_go_though_another_folder_cannot_be_read() {
    let root = place();
    fs::write(root.0.join("a.log"), "one\n").unwrap();
    let mut catalog = open(&root.0);
    catalog.sources[0].files.push(format!("{}/\0/*.log", root.0.display())); // cannot be read
    fs::remove_file(root.0.join("a.log")).unwrap();
    catalog.scan(Instant::now());
    assert!(!catalog.files[&0].is_present);
}

#[tokio::test(start_paused = true)]
async fn a_renamed_file_that_was_read_makes_place_for_a_new_one() {
    let root = place();
    fs::write(root.0.join("a.log"), "one\n").unwrap();
    let mut catalog = open(&root.0);
    catalog.most_files = 1;
    fs::rename(root.0.join("a.log"), root.0.join("a.log.1")).unwrap();
    fs::write(root.0.join("a.log"), "two\n").unwrap();
    tokio::time::advance(REST).await;
    catalog.scan(Instant::now());
    assert!(catalog.files.contains_key(&0), "the sink has not got it");
    taken(&mut catalog, 0, 4);
    catalog.scan(Instant::now());
    assert_eq!((places(&catalog), catalog.lag(0, 0)), (vec![("a.log".to_owned(), 0, 0)], 4));
}

/// A catalog with `a.log`, which was closed because there is room for one file only, and `b.log`.
async fn with_a_closed_file(root: &Path, shelf: &Shelf) -> Catalog {
    fs::write(root.join("a.log"), "one\n").unwrap();
    let mut catalog = open(root);
    catalog.shelf = shelf.clone();
    catalog.most_open = 1;
    taken(&mut catalog, 0, 4);
    fs::write(root.join("b.log"), "two\n").unwrap();
    tokio::time::advance(REST).await;
    catalog.scan(Instant::now());
    taken(&mut catalog, 1, 4);
    assert!(!catalog.files[&0].is_open() && catalog.files[&1].is_open());
    tokio::time::advance(REST).await;
    catalog
}

#[tokio::test(start_paused = true)]
async fn a_closed_file_that_grew_at_the_last_moment_is_read_to_its_end() {
    let root = place();
    let mut catalog = with_a_closed_file(&root.0, &Shelf::default()).await;
    catalog.look(Instant::now()); // a moment ago
    let mut file = fs::OpenOptions::new().append(true).open(root.0.join("a.log")).unwrap();
    file.write_all(b"three\n").unwrap();
    catalog.look_last(Instant::now());
    assert_eq!((catalog.files[&0].is_open(), catalog.lag(0, 0)), (true, 6));
}

#[tokio::test(start_paused = true)]
async fn many_closed_files_that_are_renamed_together_are_all_found_but_those_that_are_gone() {
    let root = place();
    let mut catalog = open(&root.0);
    for nth in 0..20 {
        fs::write(root.0.join(format!("{nth}.log")), "one\n").unwrap();
    }
    catalog.scan(Instant::now());
    for key in 0..20 {
        taken(&mut catalog, key, 4);
        let file = catalog.files.get_mut(&key).unwrap();
        file.close();
        file.is_present = false;
        match key {
            0..15 => fs::rename(&file.path, file.path.with_extension("old")).unwrap(),
            _ => fs::remove_file(&file.path).unwrap(),
        }
    }
    catalog.look_last(Instant::now());
    assert_eq!(catalog.files.len(), 15);
    for file in catalog.files.values() {
        assert_eq!(file.closed_at, file.path.with_extension("old"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_file_that_cannot_be_read_stays_closed() {
    let root = place();
    let mut catalog = with_a_closed_file(&root.0, &Shelf::default()).await;
    let file = catalog.files.get_mut(&0).unwrap();
    file.identity = Identity::of(&fs::metadata(&root.0).unwrap()); // a read of a folder fails
    file.closed_at = root.0.clone();
    assert!(file.reopen().is_err() && !file.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_closed_file_that_was_renamed_is_read_on_where_its_writer_goes_on() {
    let root = place();
    let mut catalog = with_a_closed_file(&root.0, &Shelf::default()).await;
    fs::rename(root.0.join("a.log"), root.0.join("a.log.1")).unwrap();
    catalog.scan(Instant::now());
    catalog.look(Instant::now());
    let mut file = fs::OpenOptions::new().append(true).open(root.0.join("a.log.1")).unwrap();
    file.write_all(b"three\n").unwrap();
    tokio::time::advance(REST).await;
    catalog.look(Instant::now());
    assert_eq!((catalog.files[&0].is_open(), catalog.lag(0, 0)), (true, 6));
}

#[tokio::test(start_paused = true)]
async fn another_file_with_the_inode_of_a_closed_one_is_a_new_file() {
    let root = place();
    let mut catalog = with_a_closed_file(&root.0, &Shelf::default()).await;
    fs::remove_file(root.0.join("a.log")).unwrap();
    fs::write(root.0.join("c.log"), "new\n").unwrap();
    let of = fs::metadata(root.0.join("c.log")).unwrap();
    catalog.files.get_mut(&0).unwrap().identity = Identity::of(&of); // as file systems do it
    catalog.scan(Instant::now());
    catalog.look(Instant::now());
    catalog.scan(Instant::now());
    assert_eq!(places(&catalog), [("b.log".to_owned(), 4, 0), ("c.log".to_owned(), 0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_a_reload_adds_gets_files_that_were_closed() {
    let (root, shelf) = (place(), Shelf::default());
    drop(with_a_closed_file(&root.0, &shelf).await);
    let mut catalog = after(&logs_to(&root.0, &["hook", "added"]), &shelf);
    assert!(!catalog.files[&0].is_open());
    tokio::time::advance(REST).await;
    catalog.look(Instant::now());
    assert_eq!((catalog.files[&0].is_open(), catalog.lag(0, 0), catalog.lag(0, 1)), (true, 0, 8));
}

fn taken(catalog: &mut Catalog, file: u64, offset: u64) {
    let of = &catalog.files[&file];
    let mut tail = vec![0; usize::try_from(offset).unwrap().min(TAIL)];
    let begin = offset - tail.len() as u64;
    of.read(&mut tail, begin).unwrap();
    let place = Place { offset, tail: rotation::hash(&tail), tail_length: tail.len() };
    let read = Read { file, generation: of.generation, from: 0, place };
    catalog.confirm(0, &[read]);
    catalog.save();
}

fn places(catalog: &Catalog) -> Vec<(String, u64, u32)> {
    let of = |file: &Tailed| {
        (
            file.path.file_name().unwrap().to_string_lossy().into_owned(),
            file.places[0].offset,
            file.generation,
        )
    };
    catalog.files.values().map(of).collect()
}

#[tokio::test]
async fn a_restart_goes_on_where_the_sink_was() {
    let root = place();
    fs::write(root.0.join("a.log"), "one\ntwo\n").unwrap();
    let mut catalog = open(&root.0);
    assert_eq!(places(&catalog), [("a.log".to_owned(), 0, 0)]);
    taken(&mut catalog, 0, 4);
    let id = catalog.files[&0].id;
    drop(catalog);
    fs::OpenOptions::new().append(true).open(root.0.join("a.log")).unwrap().write_all(b"three\n").unwrap();
    let catalog = open(&root.0);
    assert_eq!(places(&catalog), [("a.log".to_owned(), 4, 0)]);
    assert_eq!((catalog.files[&0].id, catalog.lag(0, 0)), (id, 10));
}

#[tokio::test]
async fn a_sink_that_has_taken_nothing_yet_is_no_truncation() {
    let root = place();
    fs::write(root.0.join("a.log"), "one\ntwo\n").unwrap();
    let mut catalog = open_as(&logs_to(&root.0, &["hook", "down"]));
    taken(&mut catalog, 0, 8);
    let id = catalog.files[&0].id;
    drop(catalog);
    let catalog = open_as(&logs_to(&root.0, &["hook", "down", "added"]));
    let offsets: Vec<u64> = catalog.files[&0].places.iter().map(|place| place.offset).collect();
    assert_eq!((offsets, catalog.files[&0].generation, catalog.lost), (vec![8, 0, 0], 0, 0));
    assert_eq!(catalog.files[&0].id, id);
}

#[tokio::test]
async fn two_files_that_were_empty_when_they_were_found_have_other_ids() {
    let root = place();
    fs::write(root.0.join("a.log"), "").unwrap();
    let first = open(&root.0).files[&0].id;
    fs::remove_dir_all(root.0.join("state")).unwrap(); // the inode is that of another file later, or that of another pod
    assert_ne!(open(&root.0).files[&0].id, first);
}

#[tokio::test]
async fn a_file_that_was_renamed_while_nothing_ran_is_found_by_its_inode() {
    let root = place();
    fs::write(root.0.join("a.log"), "one\ntwo\n").unwrap();
    let mut catalog = open(&root.0);
    taken(&mut catalog, 0, 4);
    drop(catalog);
    fs::rename(root.0.join("a.log"), root.0.join("a.log.1")).unwrap();
    fs::write(root.0.join("a.log"), "new\n").unwrap();
    let catalog = open(&root.0);
    assert_eq!(places(&catalog), [("a.log".to_owned(), 0, 0), ("a.log".to_owned(), 4, 0)]);
    assert!(!catalog.files[&1].is_present);
}

#[tokio::test]
async fn a_renamed_file_that_could_not_be_opened_at_the_start_is_found_by_a_later_look() {
    let root = place();
    fs::write(root.0.join("a.log"), "one\ntwo\n").unwrap();
    let mut catalog = open(&root.0);
    taken(&mut catalog, 0, 4);
    fs::write(root.0.join("b.log"), "three\n").unwrap();
    catalog.scan(Instant::now());
    let left = catalog.files.values().map(|file| file.kept(&catalog.sources, &catalog.sinks)).collect();
    catalog.files.clear();
    catalog.left = left; // its folder could not be read
    fs::rename(root.0.join("a.log"), root.0.join("a.log.1")).unwrap();
    fs::remove_file(root.0.join("b.log")).unwrap();
    let (now, minute) = (Instant::now(), std::time::Duration::from_mins(1));
    assert!(catalog.scan(now));
    assert_eq!(places(&catalog), [("a.log".to_owned(), 4, 0)]);
    for at in [now + minute, now + minute] {
        assert!(!catalog.scan(at));
        // b.log may be on its way to another name, or its folder is mounted anew
        assert_eq!((catalog.missed.len(), catalog.lost), (1, 0));
    }
    assert!(!catalog.scan(now + 2 * minute));
    assert_eq!((catalog.left.len(), catalog.missed.len(), catalog.lost), (0, 0, 6));
}

#[tokio::test]
async fn a_file_that_was_truncated_while_nothing_ran_is_read_from_its_beginning() {
    let root = place();
    let (path, head) = (root.0.join("a.log"), "h".repeat(HEAD));
    for (second, generation, lost) in [
        ("one\n".to_owned(), 0, 5),
        ("one\nTWO\nthree\n".to_owned(), 0, 5),
        (format!("{head}\n"), 1, 5),
        (format!("{head}\nTWO\nthree\n"), 1, 5),
    ] {
        fs::write(&path, format!("{head}\ntwo\nlost\n")).unwrap();
        let mut catalog = open(&root.0);
        taken(&mut catalog, 0, HEAD as u64 + 5);
        drop(catalog);
        fs::write(&path, &second).unwrap(); // the same inode
        let catalog = open(&root.0);
        assert_eq!(places(&catalog), [("a.log".to_owned(), 0, generation)], "{second}");
        assert_eq!(catalog.lost, lost, "{second}");
        fs::remove_dir_all(root.0.join("state")).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_stays_open_until_it_was_taken_and_is_quiet() {
    let root = place();
    fs::write(root.0.join("a.log"), "one\n").unwrap();
    let mut catalog = open(&root.0);
    fs::remove_file(root.0.join("a.log")).unwrap();
    assert!(catalog.scan(Instant::now()) && !catalog.scan(Instant::now()));
    tokio::time::advance(REST).await;
    catalog.look(Instant::now());
    assert_eq!(catalog.files.len(), 1, "the sink has not got it");
    taken(&mut catalog, 0, 4);
    catalog.look(Instant::now());
    assert!(catalog.files.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_truncation_begins_a_generation_with_other_ids() {
    let root = place();
    fs::write(root.0.join("a.log"), "one\ntwo\n").unwrap();
    let mut catalog = open(&root.0);
    taken(&mut catalog, 0, 8);
    let id = catalog.files[&0].id;
    fs::write(root.0.join("a.log"), "three\n").unwrap();
    assert!(catalog.look(Instant::now()));
    assert_eq!(places(&catalog), [("a.log".to_owned(), 0, 1)]);
    assert!(catalog.files[&0].id != id && catalog.files[&0].lost_size == 8);
    let now = |is_last| Now { at: Instant::now(), unix: 0, is_last };
    assert_eq!((catalog.files[&0].end(now(false)), catalog.files[&0].end(now(true))), (End::Open, End::Over));
    tokio::time::advance(QUIET).await;
    assert_eq!(catalog.files[&0].end(now(false)), End::Quiet);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_is_put_aside() {
    let root = place();
    fs::write(root.0.join("a.log"), "one\n").unwrap();
    let mut catalog = open(&root.0);
    taken(&mut catalog, 0, 4);
    drop(catalog);
    fs::write(root.0.join("state/checkpoint.json"), "{").unwrap();
    assert_eq!(places(&open(&root.0)), [("a.log".to_owned(), 0, 0)]);
    assert!(root.0.join("state/checkpoint.json.bad").exists());
}
