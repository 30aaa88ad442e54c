//! `inbound.authorization.ext_authz`: a program that judges requests, too.

use std::time::Duration;

use pillion_model::authorization::{Action, AuthorizerUrl, ExtAuthz};

use super::{Block, Static, field};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading, Shape};
use crate::spell;
use crate::value::{BadWord, Leaf as _, Opt, on_off};
use crate::words::TokenHeader;

/// The block as it is written.
pub(super) struct Written {
    http: Option<AuthorizerUrl>,
    timeout: Duration,
    on_error: Action,
    send_headers: Vec<String>,
    is_later: bool,
}

pub(super) static EXT_AUTHZ: Static<Written> = Static::new(|| {
    let new = || Written {
        http: None,
        timeout: ExtAuthz::TIMEOUT,
        on_error: Action::Deny,
        send_headers: vec![ExtAuthz::SEND_HEADERS.to_owned()],
        is_later: false,
    };
    Block::new(new)
        .word::<Opt<AuthorizerUrl>>(
            "http",
            field!(http),
            "Its address over HTTP, with what stands before the path of each request. Status 200 allows.",
        )
        .later("grpc", |written| written.is_later = true)
        .word::<Duration>("timeout", field!(timeout), "The time for one check, with the connection.")
        .takes("up to 30s")
        .word::<Action>(
            "on_error",
            field!(on_error),
            "What happens to a request where it fails or answers 5xx.",
        )
        .list::<TokenHeader>("send_headers", field!(send_headers), "The headers of the request that it gets.")
        .later_or_off("with_body")
});

pub(super) fn read(of: &mut Option<ExtAuthz>, node: &Node<'_>, reading: &mut Reading<'_>) {
    const EXPECTED: &str = "`off` or a block of keys";
    match node.shape(EXPECTED, reading) {
        None => {}
        Some(Shape::Word(leaf)) if on_off(&leaf.text) == Some(false) => *of = None,
        Some(Shape::Word(leaf)) => {
            node.parsed::<()>(&leaf, Err(BadWord::not(&leaf.text, EXPECTED)), reading);
        }
        Some(Shape::List) => node.mismatch(EXPECTED, reading),
        Some(Shape::Block) => *of = block(node, reading),
    }
}

fn block(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<ExtAuthz> {
    let Written { http, timeout, on_error, send_headers, is_later } = EXT_AUTHZ.read_new(node, reading);
    if http.is_none() && !is_later {
        node.lacks("http", "write its address: \"http://127.0.0.1:9191/check\"", reading);
    }
    Some(ExtAuthz { http: http?, timeout, on_error, send_headers })
}

pub(super) fn tell(of: Option<&ExtAuthz>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(ExtAuthz { http, timeout, on_error, send_headers }) = of else { return page.tell(at, "off") };
    page.tell(&at.key("http"), http.to_string());
    page.tell(&at.key("timeout"), spell::duration(*timeout));
    page.tell(&at.key("on_error"), Action::spell(on_error));
    page.tell_list(send_headers.iter().map(|name| name.as_str().into()), &at.whole("send_headers"));
}
