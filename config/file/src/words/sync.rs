//! The words of `sync`: addresses of sources, modes, owners, signals and requests.

use pillion_model::sync::{BadSyncUrl, HttpCall, Owner, SyncSignal, SyncUrl, WebUrl};
use pillion_model::text::shortened;

use super::Choice;
use crate::value::{BadWord, Word, leaves, whole, wrapped_leaves};

impl Word for SyncUrl {
    const EXPECTED: &'static str = "the address of a source (consul://consul:8500/app/settings)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).map_err(|why| bad_url(text, why, "consul://consul:8500/app/settings, etcd://etcd:2379/app/settings, https://config.example/app.yaml or file:///etc/shared/"))
    }
}

/// What is after a question mark may be a credential, and is not quoted.
fn bad_url(text: &str, why: BadSyncUrl, examples: &str) -> BadWord {
    if why == BadSyncUrl::User {
        return BadWord::new("has user information before an @").secret().help("write it as `token`");
    }
    let bad = match text.split_once('?') {
        None => BadWord::new(format!("is `{}`, which {why}", shortened(text))),
        Some((shown, _)) => BadWord::new(format!("is `{}?…`, which {why}", shortened(shown))).secret(),
    };
    bad.help(format!("write it like {examples}"))
}

/// The permissions of a file, in octal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileMode(u32);

impl Word for FileMode {
    const EXPECTED: &'static str = "the mode of a file (\"0640\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let is_octal =
            (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
        mode.map(Self).ok_or_else(|| {
            BadWord::not(text, "the mode of a file").help("three octal digits with a 0 before them: \"0640\"")
        })
    }
}

/// `1000` or `1000:1000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnerIds(Owner);

impl Word for OwnerIds {
    const EXPECTED: &'static str = "the owner of a file (\"1000:1000\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let id = |text: &str| whole(text).and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let owner = match (id(user), group.map(id)) {
            (Some(user), None) => Some(Owner { user, group: None }),
            (Some(user), Some(Some(group))) => Some(Owner { user, group: Some(group) }),
            _ => None,
        };
        owner.map(Self).ok_or_else(|| {
            BadWord::not(text, "the owner of a file").help(
                "the numbers of the user and the group, as `id` shows them in the container: \"1000:1000\"",
            )
        })
    }
}

impl Choice for SyncSignal {
    const EXPECTED: &'static str = "a signal (HUP, USR1, USR2, TERM, INT, QUIT, WINCH)";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("HUP", Self::Hup),
        ("USR1", Self::Usr1),
        ("USR2", Self::Usr2),
        ("TERM", Self::Term),
        ("INT", Self::Int),
        ("QUIT", Self::Quit),
        ("WINCH", Self::Winch),
    ];
}

impl Word for HttpCall {
    const EXPECTED: &'static str = "a request (\"POST http://127.0.0.1:8080/-/reload\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        const EXAMPLE: &str = "\"POST http://127.0.0.1:8080/-/reload\"";
        let bad = || {
            BadWord::new("is not GET, POST, PUT or DELETE and an address")
                .secret()
                .help(format!("write it like {EXAMPLE}"))
        };
        let (method, url) = text.split_once(' ').ok_or_else(bad)?;
        let method =
            ["GET", "POST", "PUT", "DELETE"].into_iter().find(|known| *known == method).ok_or_else(bad)?;
        let url = WebUrl::new(url).map_err(|why| bad_url(url, why, EXAMPLE))?;
        Ok(Self { method, url })
    }
}

leaves!(
    SyncUrl: |url| url.to_string().into(),
    HttpCall: |call| format!("{} {}", call.method, call.url).into(),
);
wrapped_leaves!(
    FileMode: u32, |mode| format!("{mode:04o}").into();
    OwnerIds: Owner, |owner| match owner.group {
        Some(group) => format!("{}:{group}", owner.user),
        None => owner.user.to_string(),
    }.into();
);
