//! `sync`: sources, places, checks, and what tells the application.

use std::path::Path;
use std::time::Duration;

use pillion_model::sync::{
    Check, HttpCall, OnChange, Owner, SignalTo, Sync, SyncCommand, SyncSignal, SyncToken,
};

use crate::{bad, good, loaded};

fn one(keys: &str) -> Sync {
    let file = format!(
        "sync: {{ settings: {{ from: \"consul://consul:8500/app/settings\", to: /etc/app.yaml{keys} }} }}"
    );
    good(&file).sync.remove(0)
}

#[test]
fn an_entry_needs_a_source_and_a_place_and_the_rest_has_defaults() {
    assert_eq!(good("{}").sync, []);
    let sync = one("");
    assert_eq!((sync.name.as_str(), sync.to.as_path()), ("settings", Path::new("/etc/app.yaml")));
    assert_eq!(sync.from.to_string(), "consul://consul:8500/app/settings");
    assert_eq!((sync.mode, sync.owner, sync.token, sync.every), (0o640, None, None, None));
    assert_eq!((sync.check, sync.on_change, sync.required), (Check::default(), None, false));
}

#[test]
fn every_key_has_its_meaning() {
    let sync = one(", mode: \"0600\", owner: \"1000:1001\", token: secret-token, required: on, \
         check: { yaml: on, exec: [app, \"{file}\"], timeout: 9s }, on_change: { signal: USR1, process: app }");
    assert_eq!((sync.mode, sync.owner), (0o600, Some(Owner { user: 1000, group: Some(1001) })));
    assert!(matches!(sync.token, Some(SyncToken::Text(text)) if text.0 == "secret-token"));
    let words = vec!["app".to_owned(), "{file}".to_owned()];
    let exec = Some(SyncCommand { words, timeout: Duration::from_secs(9) });
    assert_eq!(sync.check, Check { json: false, yaml: true, exec });
    let to = SignalTo::Process("app".to_owned());
    assert_eq!(sync.on_change, Some(OnChange::Signal { signal: SyncSignal::Usr1, to }));
    let sync = one(", token_file: /t, on_change: { http: \"POST http://127.0.0.1:8080/-/reload\" }");
    assert_eq!(sync.token, Some(SyncToken::File("/t".into())));
    let Some(OnChange::Http { call: HttpCall { method, url }, timeout }) = sync.on_change else {
        unreachable!()
    };
    assert_eq!(
        (method, url.to_string().as_str(), timeout.as_secs()),
        ("POST", "http://127.0.0.1:8080/-/reload", 5)
    );
    assert!(matches!(one(", on_change: { exec: [app, reload] }").on_change, Some(OnChange::Exec(_))));
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_way_out() {
    let of = |keys: &str| format!("sync: {{ a: {{ from: \"consul://c/k\", to: /x{keys} }} }}");
    for (file, expected) in [
        ("sync: { a: { to: /x } }".to_owned(), "needs `from`"),
        ("sync: { a: { from: \"consul://c/k\" } }".to_owned(), "needs `to`"),
        ("sync: { a: { from: \"redis://c/k\", to: /x } }".to_owned(), "does not begin with consul://"),
        ("sync: { A: { from: \"consul://c/k\", to: /x } }".to_owned(), "not a source's name"),
        (of(", mode: \"0999\""), "not the mode of a file"),
        (of(", mode: \"4755\""), "not the mode of a file"),
        (of(", owner: app"), "not the owner of a file"),
        (of(", token: a, token_file: b"), "has `token` and `token_file`"),
        (of(", check: { exec: [app] }"), "does not say where the new version stands"),
        (of(", check: { exec: [app, \"{file}\"], timeout: 2m }"), "is longer than 1m"),
        (of(", on_change: { signal: HUP }"), "does not say which process"),
        (of(", on_change: { signal: KILL, process: a }"), "not one of HUP"),
        (of(", on_change: { signal: HUP, process: a, pid_file: b }"), "has `process` and `pid_file`"),
        (of(", on_change: { process: a }"), "must have one way"),
        (of(", on_change: { http: \"POST http://a/\", exec: [a] }"), "must have one way"),
        (of(", on_change: { http: \"RELOAD http://a/\" }"), "is not GET, POST, PUT or DELETE"),
        ("sync: { a: { from: \"http://c/k\", to: /x, every: 1ms } }".to_owned(), "shorter than 100ms"),
        (
            "sync: { a: { from: \"http://c/k\", to: /x }, b: { from: \"http://c/l\", to: /x } }".to_owned(),
            "is where `a` writes",
        ),
        (
            "sync: { a: { from: \"consul://c/k/\", to: /x }, b: { from: \"http://c/l\", to: /x/y } }"
                .to_owned(),
            "is where `a` writes",
        ),
        ("sync: { a: { from: \"file:///x/\", to: /x/y } }".to_owned(), "each version would make another one"),
    ] {
        let faults = bad(&file).to_string();
        assert!(faults.contains(expected), "{file}\n{faults}");
    }
}

#[test]
fn an_interval_for_a_source_that_tells_of_changes_is_a_warning() {
    let loaded = loaded("sync: { a: { from: \"consul://c/k\", to: /x, every: 5s } }");
    assert_eq!(loaded.sync[0].every, Some(Duration::from_secs(5)));
}

#[test]
fn files_alone_are_something_to_do() {
    let config = good("inbound: off\noutbound: off\nsync: { a: { from: \"consul://c/k\", to: /x } }");
    assert!(config.inbound.is_none() && config.outbound.is_none());
}

#[test]
fn no_fault_shows_a_credential() {
    for file in [
        "sync: { a: { from: \"consul://user:hunter2@c/k\", to: /x } }",
        "sync: { a: { from: \"https://c/k y?sig=hunter2\", to: /x } }",
        "sync: { a: { from: \"https://c/k\", to: /x, token: \"hunter2\\x01\" } }",
        "sync: { a: { from: \"https://c/k\", to: /x, on_change: { http: \"RELOAD http://a/?key=hunter2\" } } }",
    ] {
        let faults = bad(file).to_string();
        assert!(!faults.contains("hunter2"), "{faults}");
    }
}
