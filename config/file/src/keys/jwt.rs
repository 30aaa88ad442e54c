//! `inbound.authorization.jwt`: which tokens are accepted, and by which keys.

use std::time::Duration;

use pillion_model::authorization::{Jwks, JwksUrl, Jwt};

use super::{Block, OffOrBlock, Static, field, off_or_block};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading};
use crate::spell;
use crate::value::{Leaf as _, Opt, Text};
use crate::words::TokenHeader;

/// The block as it is written.
pub(super) struct Written {
    issuer: Option<String>,
    audiences: Vec<String>,
    jwks: Keys,
    from: Carrier,
    required: bool,
    forward: bool,
}

struct Keys {
    file: Option<String>,
    url: Option<JwksUrl>,
    refresh: Duration,
}

struct Carrier {
    header: String,
}

pub(super) static JWT: Static<Written> = Static::new(|| {
    let new = || Written {
        issuer: None,
        audiences: Vec::new(),
        jwks: Keys { file: None, url: None, refresh: Jwks::REFRESH },
        from: Carrier { header: Jwt::HEADER.to_owned() },
        required: true,
        forward: false,
    };
    Block::new(new)
        .word::<Opt<Text>>("issuer", field!(issuer), "What the claim iss must be, exactly.")
        .list::<Text>("audiences", field!(audiences), "The claim aud must have one of these.")
        .block("jwks", field!(jwks), &KEYS, "Where the keys of the issuer are.")
        .block("from", field!(from), &CARRIER, "Where requests carry the token.")
        .word::<bool>("required", field!(required), "Whether a request without a token gets 401.")
        .word::<bool>("forward", field!(forward), "Whether the application receives the token.")
});

static KEYS: Static<Keys> = Static::new(|| {
    Block::new(|| Keys { file: None, url: None, refresh: Jwks::REFRESH })
        .word::<Opt<Text>>(
            "file",
            field!(file),
            "A file with a JWK set (RFC 7517). It is looked at like the files of `identity`.",
        )
        .word::<Opt<JwksUrl>>(
            "url",
            field!(url),
            "The address of a JWK set: https by the system's CAs, or http on loopback.",
        )
        .word::<Duration>(
            "refresh",
            field!(refresh),
            "The time between two fetches; a token with an unknown key brings one forward, at most once a minute.",
        )
        .takes("10s or more")
});

static CARRIER: Static<Carrier> = Static::new(|| {
    Block::new(|| Carrier { header: Jwt::HEADER.to_owned() }).word::<TokenHeader>(
        "header",
        field!(header),
        "The header with the token; in authorization it follows the word Bearer.",
    )
});

pub(super) fn read(jwt: &mut Option<Jwt>, node: &Node<'_>, reading: &mut Reading<'_>) {
    match off_or_block(node, reading) {
        None => {}
        Some(OffOrBlock::Off) => *jwt = None,
        Some(OffOrBlock::Block) => *jwt = Some(block(node, reading)),
    }
}

fn block(node: &Node<'_>, reading: &mut Reading<'_>) -> Jwt {
    let Written { issuer, audiences, jwks, from, required, forward } = JWT.read_new(node, reading);
    if issuer.is_none() {
        node.lacks("issuer", "write what the claim iss must be: \"https://id.example\"", reading);
    }
    if !node.has("audiences", reading) {
        node.lacks(
            "audiences",
            "without them, a token for another service would be accepted: [orders]",
            reading,
        );
    } else if audiences.is_empty() {
        node.remark("has no audience in `audiences`", reading).help("write one: [orders]");
    }
    Jwt {
        issuer: issuer.unwrap_or_default(),
        audiences,
        jwks: source(jwks, node, reading),
        header: from.header,
        required,
        forward,
    }
}

fn source(Keys { file, url, refresh }: Keys, node: &Node<'_>, reading: &mut Reading<'_>) -> Jwks {
    const HELP: &str = "write jwks: { file: jwks.json }, or jwks: { url: \"https://…\" }";
    match (file, url) {
        (Some(file), None) => Jwks::File(reading.folder.join(file)),
        (None, Some(url)) => Jwks::Url { url, refresh },
        (None, None) => {
            match node.child("jwks", reading) {
                None => node.lacks("jwks", HELP, reading),
                Some(jwks) => drop(jwks.remark("has neither `file` nor `url`", reading).help(HELP)),
            }
            Jwks::File(reading.folder.into())
        }
        (Some(file), Some(_)) => {
            node.remark("has `file` and `url` in `jwks`", reading).help("keep one");
            Jwks::File(reading.folder.join(file))
        }
    }
}

pub(super) fn tell(jwt: Option<&Jwt>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(Jwt { issuer, audiences, jwks, header, required, forward }) = jwt else {
        return page.tell(at, "off");
    };
    page.tell(&at.key("issuer"), issuer.as_str());
    page.tell_list(audiences.iter().map(|audience| audience.as_str().into()), &at.whole("audiences"));
    let keys = at.key("jwks");
    match jwks {
        Jwks::File(path) => page.tell(&keys.key("file"), spell::path(path)),
        Jwks::Url { url, refresh } => {
            page.tell(&keys.key("url"), url.to_string());
            page.tell(&keys.key("refresh"), spell::duration(*refresh));
        }
    }
    page.tell(&at.key("from").key("header"), header.as_str());
    page.tell(&at.key("required"), bool::spell(required));
    page.tell(&at.key("forward"), bool::spell(forward));
}
