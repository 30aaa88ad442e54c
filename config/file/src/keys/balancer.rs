//! `load_balancer`: one word, or a block for a balancer that hashes requests.

use std::time::Duration;

use pillion_model::Cluster;
use pillion_model::cluster::{HashKey, LoadBalancer};
use serde_json::Value;

use super::{Block, Static, field};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading, Shape};
use crate::schema::{self, Described};
use crate::spell;
use crate::value::{BadWord, OffOr, Opt, Word};
use crate::words::{CookieName, HashedHeader, chosen};

/// The block as it is written: one of two balancers.
#[derive(Default)]
struct Hashing {
    ring_hash: Written,
    maglev: Written,
}

/// What requests are hashed by, if this balancer is written.
#[derive(Default)]
struct Written {
    is_written: bool,
    key: Option<HashKey>,
}

static HASHING: Static<Hashing> = Static::new(|| {
    Block::new(Hashing::default)
        .key(
            "ring_hash",
            "Requests with one key go to one endpoint, unless it has more than its share. One of `header`, `cookie`, \
             `source` and `path`.",
            || HASHED_BY.schema(),
            |hashing: &mut Hashing, node, reading| hashing.ring_hash = hashed_by(node, reading),
            |_, _, _| {},
        )
        .key(
            "maglev",
            "Requests with one key go to one endpoint. One of `header`, `cookie`, `source` and `path`.",
            || HASHED_BY.schema(),
            |hashing: &mut Hashing, node, reading| hashing.maglev = hashed_by(node, reading),
            |_, _, _| {},
        )
});

/// The keys of `ring_hash` and `maglev`.
#[derive(Default)]
struct HashedBy {
    header: Option<String>,
    cookie: Option<Cookie>,
    source: Option<bool>,
    path: Option<bool>,
}

#[derive(Default)]
struct Cookie {
    name: Option<String>,
    ttl: Option<Duration>,
}

static HASHED_BY: Static<HashedBy> = Static::new(|| {
    Block::new(HashedBy::default)
        .word::<Opt<HashedHeader>>("header", field!(header), "The first value of this header.")
        .key(
            "cookie",
            "The value of this cookie, which is set where a request has none: a name, or a block.",
            || schema::any_of([CookieName::described(), schema::left_open(), COOKIE.schema()]),
            |by: &mut HashedBy, node, reading| by.cookie = cookie(node, reading),
            |_, _, _| {},
        )
        .word::<Opt<bool>>("source", field!(source), "The client's IP address.")
        .word::<Opt<bool>>("path", field!(path), "The path without the query.")
});

static COOKIE: Static<Cookie> = Static::new(|| {
    Block::new(Cookie::default)
        .word::<Opt<CookieName>>("name", field!(name), "The cookie's name.")
        .word::<OffOr<Duration>>(
            "ttl",
            field!(ttl),
            "How long clients keep the cookie; off: until they are closed.",
        )
});

pub(super) fn schema() -> Option<Value> {
    schema::any_of([LoadBalancer::described(), schema::left_open(), HASHING.schema()])
}

/// Replaces what `defaults` say as a whole.
pub(super) fn read(cluster: &mut Cluster, node: &Node<'_>, reading: &mut Reading<'_>) {
    let balancer = match node.shape(LoadBalancer::EXPECTED, reading) {
        None => None,
        Some(Shape::Word(leaf)) => {
            let word = match leaf.text.as_ref() {
                hashing @ ("ring_hash" | "maglev") => {
                    Err(BadWord::new(format!("is {hashing}, without what requests are hashed by"))
                        .help(format!("load_balancer: {{ {hashing}: {{ header: x-user }} }}")))
                }
                word => LoadBalancer::parse(word),
            };
            node.parsed(&leaf, word, reading)
        }
        Some(Shape::List) => {
            node.mismatch(LoadBalancer::EXPECTED, reading);
            None
        }
        Some(Shape::Block) => block(node, reading),
    };
    if let Some(balancer) = balancer {
        cluster.load_balancer = balancer;
    }
}

fn block(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<LoadBalancer> {
    let Hashing { ring_hash, maglev } = HASHING.read_new(node, reading);
    match (ring_hash.is_written, maglev.is_written) {
        (false, false) => {
            node.remark("is an empty block", reading).help("leave it out for peak_ewma");
            None
        }
        (true, true) => {
            node.remark("has both `ring_hash` and `maglev`", reading).help("keep one");
            None
        }
        (true, false) => ring_hash.key.map(|key| LoadBalancer::RingHash(Box::new(key))),
        (false, true) => maglev.key.map(|key| LoadBalancer::Maglev(Box::new(key))),
    }
}

fn hashed_by(node: &Node<'_>, reading: &mut Reading<'_>) -> Written {
    let by = HASHED_BY.read_new(node, reading);
    Written { is_written: true, key: only(by, node, reading) }
}

/// The one key of the block.
fn only(by: HashedBy, node: &Node<'_>, reading: &mut Reading<'_>) -> Option<HashKey> {
    let HashedBy { header, cookie, source, path } = by;
    let header = header.map(HashKey::Header);
    let cookie = cookie.and_then(|Cookie { name, ttl }| Some(HashKey::Cookie { name: name?, ttl }));
    let source = source.filter(|is_on| *is_on).map(|_| HashKey::Source);
    let path = path.filter(|is_on| *is_on).map(|_| HashKey::Path);
    let mut written = [header, cookie, source, path].into_iter().flatten();
    match (written.next(), written.next()) {
        (Some(one), None) => Some(one),
        (None, _) => {
            node.remark("does not say what requests are hashed by", reading)
                .help("write one of header: x-user, cookie: sid, source: true, path: true");
            None
        }
        (Some(_), Some(_)) => {
            node.remark("has more than one of `header`, `cookie`, `source` and `path`", reading)
                .help("keep one");
            None
        }
    }
}

fn cookie(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<Cookie> {
    const EXPECTED: &str = "a cookie's name, or { name: …, ttl: … }";
    match node.shape(EXPECTED, reading)? {
        Shape::Word(leaf) => {
            let CookieName(name) = node.parsed(&leaf, CookieName::parse(&leaf.text), reading)?;
            Some(Cookie { name: Some(name), ttl: None })
        }
        Shape::List => {
            node.mismatch(EXPECTED, reading);
            None
        }
        Shape::Block => {
            let cookie = COOKIE.read_new(node, reading);
            if !node.has("name", reading) {
                node.lacks("name", "{ name: sid, ttl: 1h }", reading);
            }
            Some(cookie)
        }
    }
}

pub(super) fn tell(cluster: &Cluster, at: &Scopes<'_>, page: &mut Page<'_>) {
    let at = at.whole("load_balancer");
    let (name, key) = match &cluster.load_balancer {
        LoadBalancer::RingHash(key) => ("ring_hash", key),
        LoadBalancer::Maglev(key) => ("maglev", key),
        word => return page.tell(&at, chosen(word)),
    };
    let at = at.key(name);
    match &**key {
        HashKey::Header(header) => page.tell(&at.key("header"), header.as_str()),
        HashKey::Source => page.tell(&at.key("source"), "on"),
        HashKey::Path => page.tell(&at.key("path"), "on"),
        HashKey::Cookie { name, ttl } => {
            let at = at.key("cookie");
            page.tell_or(&at.key("name"), &at, name.as_str());
            page.tell(&at.key("ttl"), ttl.map_or_else(|| "off".into(), spell::duration));
        }
    }
}
