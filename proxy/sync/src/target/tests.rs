//! Versions that are written, put in their places, and known again.

use pillion_testkit::Scratch;

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, symlink};

use super::super::version::Folder;
use super::super::walk::DATA;
use super::*;

fn target(path: PathBuf, is_folder: bool) -> Target {
    Target {
        path,
        is_folder,
        mode: 0o640,
        owner: None,
        from: [0; 32],
        began: 0,
        count: 0,
        is_sidecar: |process| process == 8,
        sync: disk::sync,
    }
}

fn file(text: &'static str) -> Content {
    Content::File(text.into())
}

fn folder(files: &[(&str, &'static str)]) -> Content {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())).collect();
    Content::Folder(Folder::new(files).unwrap())
}

fn put(target: &mut Target, content: &Content) -> Result<(), WriteFault> {
    let written = target.write(content)?;
    target.publish(written, content).map(|fault| assert!(fault.is_none(), "{fault:?}"))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with(".."))
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
    let scratch = Scratch::new();
    let path = scratch.path("new/settings.yaml");
    let mut target = target(path.clone(), false);
    assert_eq!(target.existing(), None);
    for text in ["one", "two"] {
        put(&mut target, &file(text)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
        assert_eq!(target.existing(), Some(file(text).digest()));
    }
    assert_eq!(names(path.parent().unwrap()), ["settings.yaml"]);
    target.mode = 0o600;
    assert_eq!(target.existing(), None, "another mode is asked for");
}

#[test]
fn a_version_that_is_not_published_leaves_nothing() {
    let scratch = Scratch::new();
    let path = scratch.path("settings.yaml");
    fs::write(&path, "old").unwrap();
    let written = target(path.clone(), false).write(&file("new")).unwrap();
    assert!(written.path.to_str().unwrap().ends_with(".settings.yaml"), "a check knows a file by its end");
    assert_eq!(fs::read_to_string(&written.path).unwrap(), "new");
    drop(written);
    assert_eq!(
        (fs::read_to_string(&path).unwrap().as_str(), names(&scratch.path(""))),
        ("old", vec!["settings.yaml".to_owned()])
    );
}

#[test]
fn what_another_program_did_with_the_file_shows() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    let mut target = target(path.clone(), false);
    put(&mut target, &file("one")).unwrap();
    let stamp = target.stamp();
    assert_eq!(target.stamp(), stamp);
    fs::write(&path, "two!").unwrap();
    assert_ne!(target.stamp(), stamp);
    fs::remove_file(&path).unwrap();
    assert_eq!(target.stamp(), None);
}

#[test]
fn a_folder_is_swapped_whole_and_names_come_and_go() {
    let scratch = Scratch::new();
    let root = scratch.path("conf");
    let mut target = target(root.clone(), true);
    let one = folder(&[("a", "1"), ("deep/b", "1"), ("gone", "1")]);
    put(&mut target, &one).unwrap();
    assert_eq!(target.existing(), Some(one.digest()));
    assert_eq!(names(&root), ["a", "deep", "gone"]);
    let first = fs::read_link(root.join(DATA)).unwrap();
    let two = folder(&[("a", "2"), ("deep/b", "2"), ("new", "2")]);
    put(&mut target, &two).unwrap();
    assert_eq!(names(&root), ["a", "deep", "new"]);
    for name in ["a", "deep/b", "new"] {
        assert_eq!(fs::read_to_string(root.join(name)).unwrap(), "2");
    }
    assert_eq!(fs::read_to_string(root.join(&first).join("a")).unwrap(), "1", "a reader may be in it");
    put(&mut target, &one).unwrap();
    assert!(!root.join(first).exists(), "two versions are kept");
    assert_eq!(root.join("deep").metadata().unwrap().mode() & 0o777, 0o750);
}

#[test]
fn the_links_that_failed_are_made_later() {
    let scratch = Scratch::new();
    let mut target = target(scratch.path("conf"), true);
    let version = folder(&[("a", "1"), ("b", "1")]);
    put(&mut target, &version).unwrap();
    fs::remove_file(scratch.path("conf/b")).unwrap();
    target.finish(&version).unwrap();
    assert_eq!(target.existing(), Some(version.digest()));
}

#[test]
fn a_folder_is_known_again_whatever_its_names_are() {
    let scratch = Scratch::new();
    let mut target = target(scratch.path("conf"), true);
    let version = folder(&[("conf-local", "1"), ("conf.yaml", "2"), ("conf/x", "3")]); // in the order of a store
    put(&mut target, &version).unwrap();
    assert_eq!(target.existing(), Some(version.digest()));
}

/// Else the version would be written again and again, and the application told each time.
#[test]
fn a_file_system_that_cannot_write_a_folder_at_once_is_no_fault() {
    let target = target(PathBuf::new(), true);
    assert!(target.sync_folder(Path::new("/proc")).is_ok());
    assert!(target.sync_folder(Path::new("/no/such")).is_err());
    let (pipe, _other_end) = io::pipe().unwrap(); // it answers EINVAL, as folders do on some file systems
    let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
    assert_eq!(pipe.sync_all().unwrap_err().raw_os_error(), Some(nix::libc::EINVAL));
    target.give(&pipe, 0o600, Path::new("pipe")).unwrap();
}

#[test]
fn a_name_that_a_source_has_chosen_stays_on_one_line_of_the_log() {
    let scratch = Scratch::new();
    scratch.write("a\nERROR b", "of the application");
    let why = put(&mut target(scratch.path(""), true), &folder(&[("a\nERROR b", "1")])).unwrap_err();
    assert!(!why.to_string().contains('\n'), "{why}");
}

#[test]
fn what_another_program_did_with_a_folder_shows() {
    let scratch = Scratch::new();
    let root = scratch.path("conf");
    let mut target = target(root.clone(), true);
    let version = folder(&[("a", "1"), ("deep/b", "1")]);
    let undone: [fn(&Path); 4] = [
        |root| fs::write(root.join("a"), "2").unwrap(),
        |root| fs::remove_file(root.join("..data/deep/b")).unwrap(),
        |root| fs::remove_file(root.join("deep")).unwrap(), // as a kill between the swap and the links leaves it
        |root| symlink("..data/gone", root.join("gone")).unwrap(),
    ];
    for (nth, undo) in undone.into_iter().enumerate() {
        put(&mut target, &version).unwrap();
        let stamp = target.stamp();
        assert!(stamp.is_some() && target.stamp() == stamp);
        assert_eq!(target.existing(), Some(version.digest()));
        undo(&root);
        assert_ne!(target.stamp(), stamp, "{nth}");
        assert_ne!(target.existing(), Some(version.digest()), "{nth}");
    }
    put(&mut target, &version).unwrap();
    assert_eq!(target.existing(), Some(version.digest()));
}

#[test]
fn a_version_that_was_not_told_is_known_to_the_next_process() {
    let scratch = Scratch::new();
    let digest = file("x").digest();
    for is_folder in [false, true] {
        let target = target(scratch.path(""), is_folder);
        assert!(!target.is_untold(&digest));
        target.set_untold(&digest);
        target.tidy();
        assert!(target.is_untold(&digest) && !target.is_untold(&file("y").digest()));
        target.set_told(&file("y").digest());
        assert!(target.is_untold(&digest), "another version was told");
        target.set_told(&digest);
        assert!(!target.is_untold(&digest));
    }
}

#[test]
fn a_file_that_was_not_made_here_is_never_replaced() {
    let scratch = Scratch::new();
    scratch.write("own", "of the application");
    let mut target = target(scratch.path(""), true);
    let why = put(&mut target, &folder(&[("a", "1"), ("own", "1")])).unwrap_err().to_string();
    assert!(why.contains("own"), "{why}");
    assert_eq!(names(&scratch.path("")), ["own"]);
    put(&mut target, &folder(&[("a", "1")])).unwrap();
    assert_eq!(names(&scratch.path("")), ["a", "own"]);
}

#[test]
fn a_file_that_another_program_makes_before_its_name_is_linked_is_a_fault_until_it_is_gone() {
    let scratch = Scratch::new();
    let mut target = target(scratch.path(""), true);
    let version = folder(&[("own", "1")]);
    let written = target.write(&version).unwrap();
    let own = scratch.write("own", "of the application");
    let why = target.publish(written, &version).unwrap().unwrap().to_string();
    assert!(why.contains("own"), "{why}");
    assert!(target.finish(&version).is_err());
    assert_eq!(fs::read_to_string(&own).unwrap(), "of the application");
    fs::remove_file(&own).unwrap();
    target.finish(&version).unwrap();
    assert_eq!(fs::read_to_string(&own).unwrap(), "1");
}

/// Else the rights of the sidecar would be those of whoever may write in `to`.
#[test]
fn a_symlink_that_another_program_puts_in_the_way_leads_no_file_out_of_the_folder() {
    let scratch = Scratch::new();
    let mut target = target(scratch.path("conf"), true);
    fs::create_dir(scratch.path("outside")).unwrap();
    target.sync = |file| {
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let version = path.parent().unwrap();
        if path.ends_with("a") {
            fs::rename(version, version.with_file_name("moved"))?;
            symlink("../outside", version)?;
        }
        Ok(())
    };
    target.write(&folder(&[("a", "1"), ("b", "1"), ("deep/c", "1")])).unwrap();
    assert_eq!(fs::read_dir(scratch.path("outside")).unwrap().count(), 0);
    for name in ["a", "b", "deep/c"] {
        assert_eq!(fs::read_to_string(scratch.path("conf/moved").join(name)).unwrap(), "1");
    }
}

#[test]
fn a_file_in_place_of_a_folder_is_told() {
    let scratch = Scratch::new();
    let why = put(&mut target(scratch.path(""), false), &file("x")).unwrap_err().to_string();
    assert!(why.contains("`to`"), "{why}");
}

#[test]
fn what_killed_processes_left_is_removed_and_what_others_write_stays() {
    let scratch = Scratch::new();
    let own = scratch.path("file");
    for name in [
        ".pillion-7-1.file",
        ".pillion-7-1.x.file",
        ".pillion-8-1.file",
        ".pillion-7-1.other",
        ".pillion-x.file",
        "file",
    ] {
        scratch.write(name, "");
    }
    target(own, false).tidy();
    assert_eq!(
        names(&scratch.path("")),
        [".pillion-7-1.other", ".pillion-7-1.x.file", ".pillion-8-1.file", ".pillion-x.file", "file"]
    );
    let mut folders = target(scratch.path("conf"), true);
    put(&mut folders, &folder(&[("a", "1")])).unwrap();
    let before = fs::read_link(scratch.path("conf/..data")).unwrap();
    put(&mut folders, &folder(&[("a", "2")])).unwrap();
    for left in ["..pillion-7-1/deep", "..pillion-7-0-0/older", "..pillion-7-1-1/half-written"] {
        fs::create_dir_all(scratch.path("conf").join(left)).unwrap();
    }
    let folders_left = || fs::read_dir(scratch.path("conf")).unwrap().count();
    assert_eq!(folders_left(), 7);
    folders.tidy();
    assert!(scratch.path("conf").join(before).exists(), "the version before the one at work stays");
    assert_eq!(folders_left(), 4, "with the one at work, its symlink and the name");
}

#[test]
fn a_mark_says_that_the_content_came_from_the_source() {
    let scratch = Scratch::new();
    let digest = file("x").digest();
    for is_folder in [false, true] {
        let mut target = target(scratch.path(""), is_folder);
        assert!(!target.has_mark(&digest));
        target.set_mark(&digest);
        target.tidy();
        assert!(target.has_mark(&digest) && !target.has_mark(&file("y").digest()));
        target.from = [1; 32];
        assert!(!target.has_mark(&digest), "it came from another source");
    }
}
