//! `sync`: files beside the application that are kept as a source has them.

use std::time::Duration;

use pillion_model::sync::{
    Check, HttpCall, OnChange, Owner, SignalTo, Sync, SyncCommand, SyncSignal, SyncToken, SyncUrl,
};
use pillion_model::tracing::HiddenText;
use serde_json::Value;

use super::{Block, Static, field};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading};
use crate::schema;
use crate::spell;
use crate::value::{Leaf as _, Opt, Text};
use crate::words::{FileMode, HiddenValue, OwnerIds, SourceName};

/// An entry as it is written.
struct Written {
    from: Option<SyncUrl>,
    to: Option<String>,
    every: Option<Duration>,
    mode: u32,
    owner: Option<Owner>,
    token: Option<HiddenText>,
    token_file: Option<String>,
    check: WrittenCheck,
    on_change: WrittenChange,
    required: bool,
}

struct WrittenCheck {
    json: bool,
    yaml: bool,
    exec: Vec<String>,
    timeout: Duration,
}

struct WrittenChange {
    signal: Option<SyncSignal>,
    process: Option<String>,
    pid_file: Option<String>,
    http: Option<HttpCall>,
    exec: Vec<String>,
    timeout: Duration,
}

const fn no_check() -> WrittenCheck {
    WrittenCheck { json: false, yaml: false, exec: Vec::new(), timeout: Sync::PATIENCE }
}

const fn no_change() -> WrittenChange {
    WrittenChange {
        signal: None,
        process: None,
        pid_file: None,
        http: None,
        exec: Vec::new(),
        timeout: Sync::PATIENCE,
    }
}

static SYNC: Static<Written> = Static::new(|| {
    let new = || Written {
        from: None,
        to: None,
        every: None,
        mode: Sync::MODE,
        owner: None,
        token: None,
        token_file: None,
        check: no_check(),
        on_change: no_change(),
        required: false,
    };
    Block::new(new)
        .word::<Opt<SyncUrl>>(
            "from",
            field!(from),
            "The source: consul://, etcd:// (consuls:// and etcds:// over TLS), http://, https:// or file:///. A slash at \
             the end of a key or a path makes it a folder.",
        )
        .word::<Opt<Text>>("to", field!(to), "The file that is kept, or the folder where the source is one.")
        .word::<Opt<Duration>>(
            "every",
            field!(every),
            "The time between two looks at a source of http, https or file. Default 30s, of files 500ms, and longer of a folder with more than 50 files.",
        )
        .says_its_default()
        .takes("100ms or more")
        .word::<FileMode>("mode", field!(mode), "The permissions of the files, in octal.")
        .word::<Opt<OwnerIds>>(
            "owner",
            field!(owner),
            "The user and the group of the files, by number. Default: those of the sidecar.",
        )
        .word::<Opt<HiddenValue>>(
            "token",
            field!(token),
            "What the source is asked with: Consul's ACL token, etcd's token, or a bearer token over HTTP. No page shows it.",
        )
        .word::<Opt<Text>>("token_file", field!(token_file), "A file with the token, read before each request.")
        .block("check", field!(check), &CHECK, "What a version must pass; one that fails is refused, and the old one stays.")
        .block("on_change", field!(on_change), &ON_CHANGE, "How the application is told of a new version. Default: not at all.")
        .word::<bool>(
            "required",
            field!(required),
            "on: the sidecar is not ready before the first version is there; or off.",
        )
});

static CHECK: Static<WrittenCheck> = Static::new(|| {
    Block::new(no_check)
        .word::<bool>("json", field!(json), "on: each file must be JSON; or off.")
        .word::<bool>("yaml", field!(yaml), "on: each file must be YAML; or off.")
        .list::<Text>(
            "exec",
            field!(exec),
            "A program with its arguments, which judges the new version at {file} by ending with code 0. No shell reads it.",
        )
        .word::<Duration>("timeout", field!(timeout), "The time for the program; then it is killed.")
        .takes("up to 1m")
});

static ON_CHANGE: Static<WrittenChange> = Static::new(|| {
    Block::new(no_change)
        .word::<Opt<SyncSignal>>("signal", field!(signal), "The signal that `process` or the process of `pid_file` gets.")
        .word::<Opt<Text>>(
            "process",
            field!(process),
            "The name of the program. Of a server with workers, the process that started them gets the signal.",
        )
        .word::<Opt<Text>>("pid_file", field!(pid_file), "A file with the number of the process.")
        .word::<Opt<HttpCall>>("http", field!(http), "A request: a method and an address. It must be answered with 2xx.")
        .list::<Text>("exec", field!(exec), "A program with its arguments. {file} stands for the path. No shell reads it.")
        .word::<Duration>("timeout", field!(timeout), "The time for the request or the program; each is tried three times.")
        .takes("up to 1m")
});

pub(super) fn schema() -> Option<Value> {
    schema::entries::<SourceName>(SYNC.schema())
}

pub(super) fn read(node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<Sync> {
    let mut all = Vec::new();
    for (SourceName(name), entry) in node.map::<SourceName>(reading) {
        all.extend(self::entry(name, &entry.value, reading));
    }
    all
}

fn entry(name: String, node: &Node<'_>, reading: &mut Reading<'_>) -> Option<Sync> {
    let written = SYNC.read_new(node, reading);
    if !node.has("from", reading) {
        node.lacks("from", "write the source: \"consul://consul:8500/app/settings\"", reading);
    }
    if !node.has("to", reading) {
        node.lacks("to", "write the file: /etc/config/settings.yaml", reading);
    }
    let token = token(&written, node, reading);
    let on_change = on_change(written.on_change, node, reading);
    let WrittenCheck { json, yaml, exec, timeout } = written.check;
    let Written { from, to, every, mode, owner, required, .. } = written;
    let exec = (!exec.is_empty()).then_some(SyncCommand { words: exec, timeout });
    Some(Sync {
        name,
        from: from?,
        to: reading.folder.join(to?),
        every,
        mode,
        owner,
        token,
        check: Check { json, yaml, exec },
        on_change,
        required,
    })
}

fn token(written: &Written, node: &Node<'_>, reading: &mut Reading<'_>) -> Option<SyncToken> {
    match (&written.token, &written.token_file) {
        (None, None) => None,
        (Some(text), None) => Some(SyncToken::Text(text.clone())),
        (None, Some(file)) => Some(SyncToken::File(reading.folder.join(file))),
        (Some(_), Some(_)) => {
            node.remark("has `token` and `token_file`", reading).help("keep one");
            None
        }
    }
}

fn on_change(written: WrittenChange, node: &Node<'_>, reading: &mut Reading<'_>) -> Option<OnChange> {
    const HELP: &str = "write { signal: HUP, process: app }, { http: \"POST http://127.0.0.1:8080/-/reload\" } or { exec: [/usr/bin/app, reload] }";
    let node = node.child("on_change", reading)?;
    let WrittenChange { signal, process, pid_file, http, exec, timeout } = written;
    let to = match (process, pid_file) {
        (Some(_), Some(_)) => {
            node.remark("has `process` and `pid_file`", reading).help("keep one");
            return None;
        }
        (Some(name), None) => Some(SignalTo::Process(name)),
        (None, Some(file)) => Some(SignalTo::PidFile(reading.folder.join(file))),
        (None, None) => None,
    };
    let exec = (!exec.is_empty()).then_some(SyncCommand { words: exec, timeout });
    match (signal, to, http, exec) {
        (Some(signal), Some(to), None, None) => Some(OnChange::Signal { signal, to }),
        (None, None, Some(call), None) => Some(OnChange::Http { call, timeout }),
        (None, None, None, Some(command)) => Some(OnChange::Exec(command)),
        (Some(_), None, None, None) => {
            node.remark("does not say which process gets the signal", reading).help(HELP);
            None
        }
        _ => {
            node.remark("must have one way to tell the application", reading).help(HELP);
            None
        }
    }
}

pub(super) fn tell(all: &[Sync], at: &Scopes<'_>, page: &mut Page<'_>) {
    for sync in all {
        let at = at.key(&sync.name);
        let every = sync.every.unwrap_or_else(|| sync.from.usual_interval());
        page.tell(&at.key("from"), sync.from.to_string());
        page.tell(&at.key("to"), spell::path(&sync.to));
        if sync.from.is_polled() {
            page.tell(&at.key("every"), spell::duration(every));
        }
        page.tell(&at.key("mode"), FileMode::spell(&sync.mode));
        if let Some(owner) = &sync.owner {
            page.tell(&at.key("owner"), OwnerIds::spell(owner));
        }
        match &sync.token {
            None => {}
            Some(SyncToken::Text(text)) => page.tell(&at.key("token"), HiddenValue::spell(text)),
            Some(SyncToken::File(path)) => page.tell(&at.key("token_file"), spell::path(path)),
        }
        tell_check(&sync.check, &at.key("check"), page);
        if let Some(on_change) = &sync.on_change {
            tell_change(on_change, &at.key("on_change"), page);
        }
        page.tell(&at.key("required"), bool::spell(&sync.required));
    }
}

fn tell_check(check: &Check, at: &Scopes<'_>, page: &mut Page<'_>) {
    page.tell(&at.key("json"), bool::spell(&check.json));
    page.tell(&at.key("yaml"), bool::spell(&check.yaml));
    if let Some(command) = &check.exec {
        tell_command(command, at, page);
    }
}

fn tell_change(on_change: &OnChange, at: &Scopes<'_>, page: &mut Page<'_>) {
    match on_change {
        OnChange::Signal { signal, to } => {
            page.tell(&at.key("signal"), SyncSignal::spell(signal));
            match to {
                SignalTo::Process(name) => page.tell(&at.key("process"), name.as_str()),
                SignalTo::PidFile(path) => page.tell(&at.key("pid_file"), spell::path(path)),
            }
        }
        OnChange::Http { call, timeout } => {
            page.tell(&at.key("http"), HttpCall::spell(call));
            page.tell(&at.key("timeout"), spell::duration(*timeout));
        }
        OnChange::Exec(command) => tell_command(command, at, page),
    }
}

fn tell_command(SyncCommand { words, timeout }: &SyncCommand, at: &Scopes<'_>, page: &mut Page<'_>) {
    page.tell_list(words.iter().map(|word| word.as_str().into()), &at.whole("exec"));
    page.tell(&at.key("timeout"), spell::duration(*timeout));
}
