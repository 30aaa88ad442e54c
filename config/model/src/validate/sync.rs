//! `sync`: files that two entries write, checks that look at nothing, and keys that mean nothing for a source.

use std::path::Path;

use crate::fault::Faults;
use crate::path::Trail;
use crate::sync::{Check, OnChange, Source, Sync, SyncCommand};

pub(super) fn validate(all: &[Sync], at: &Trail<'_>, faults: &mut Faults) {
    if all.len() > Sync::MOST {
        faults
            .error(at, format!("has {} entries, and at most {} are followed", all.len(), Sync::MOST))
            .help("write a folder of keys (a slash at the end of `from`) in place of single ones");
    }
    for (nth, sync) in all.iter().enumerate() {
        let at = at.key(&sync.name);
        refuse_shared(sync, all.get(..nth).unwrap_or_default(), &at, faults);
        place(sync, &at, faults);
        interval(sync, &at, faults);
        check(&sync.check, &at.key("check"), faults);
        if let Some(on_change) = &sync.on_change {
            patience(on_change, &at.key("on_change"), faults);
        }
    }
}

/// Two entries would overwrite each other, also where one writes a file into the folder of the other.
fn refuse_shared(sync: &Sync, others: &[Sync], at: &Trail<'_>, faults: &mut Faults) {
    let covers =
        |one: &Path, of: &Sync, other: &Path| one == other || of.from.is_folder() && other.starts_with(one);
    for other in others {
        if covers(&sync.to, sync, &other.to) || covers(&other.to, other, &sync.to) {
            faults
                .error(&at.key("to"), format!("is where `{}` writes, too", other.name))
                .help("give each its own file or folder");
        }
    }
}

fn place(sync: &Sync, at: &Trail<'_>, faults: &mut Faults) {
    if sync.to.file_name().is_none() {
        faults.error(&at.key("to"), "names no file").help("write a path such as /etc/config/settings.yaml");
    }
    if let Source::Files(files) = &sync.from.source
        && (sync.to.starts_with(&files.path) || files.is_folder && files.path.starts_with(&sync.to))
    {
        faults
            .error(&at.key("to"), "is in what `from` names, so each version would make another one")
            .help("write another folder");
    }
}

fn interval(sync: &Sync, at: &Trail<'_>, faults: &mut Faults) {
    let Some(every) = sync.every else { return };
    if !sync.from.is_polled() {
        faults
            .warn(&at.key("every"), "changes nothing: Consul and etcd tell of a change at once")
            .help("leave it out");
    }
    if every < Sync::SHORTEST_INTERVAL {
        faults.error(&at.key("every"), "is shorter than 100ms").help("write every: 30s").depends_on(at);
    }
}

fn check(check: &Check, at: &Trail<'_>, faults: &mut Faults) {
    let Some(SyncCommand { words, timeout }) = &check.exec else { return };
    if !words.iter().skip(1).any(|word| word.contains(Check::FILE)) {
        faults
            .error(&at.key("exec"), "does not say where the new version stands in its arguments")
            .help("write {file} in its place: exec: [/usr/bin/app, --check, \"{file}\"]");
    }
    bounded(*timeout, at, faults);
}

fn patience(on_change: &OnChange, at: &Trail<'_>, faults: &mut Faults) {
    match on_change {
        OnChange::Signal { .. } => {}
        OnChange::Http { timeout, .. } => bounded(*timeout, at, faults),
        OnChange::Exec(SyncCommand { timeout, .. }) => bounded(*timeout, at, faults),
    }
}

fn bounded(timeout: std::time::Duration, at: &Trail<'_>, faults: &mut Faults) {
    if timeout > Sync::LONGEST_PATIENCE {
        faults
            .error(&at.key("timeout"), "is longer than 1m, during which no newer version would be looked at")
            .help("write timeout: 5s");
    }
}
