//! `inbound.authorization.ext_authz`: a program that judges requests, too.

use std::time::Duration;

use pillion_model::authorization::{Action, AuthorizerAddress, AuthorizerService, AuthorizerUrl, ExtAuthz};

use super::{Block, OffOrBlock, Static, field, off_or_block};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading};
use crate::spell;
use crate::value::{Leaf as _, OffOr, Opt, Size};
use crate::words::TokenHeader;

/// The block as it is written.
pub(super) struct Written {
    http: Option<AuthorizerUrl>,
    grpc: Option<AuthorizerAddress>,
    timeout: Duration,
    on_error: Action,
    send_headers: Vec<String>,
    with_body: Option<u64>,
}

pub(super) static EXT_AUTHZ: Static<Written> = Static::new(|| {
    let new = || Written {
        http: None,
        grpc: None,
        timeout: ExtAuthz::TIMEOUT,
        on_error: Action::Deny,
        send_headers: vec![ExtAuthz::SEND_HEADERS.to_owned()],
        with_body: None,
    };
    Block::new(new)
        .word::<Opt<AuthorizerUrl>>(
            "http",
            field!(http),
            "Its address over HTTP, with what stands before the path of each request. Status 200 allows.",
        )
        .word::<Opt<AuthorizerAddress>>(
            "grpc",
            field!(grpc),
            "Its address over gRPC, in place of `http`: envoy.service.auth.v3.Authorization/Check.",
        )
        .word::<Duration>("timeout", field!(timeout), "The time for one check, with the connection.")
        .takes("up to 30s")
        .word::<Action>(
            "on_error",
            field!(on_error),
            "What happens to a request where it does not answer, or answers 5xx.",
        )
        .list::<TokenHeader>("send_headers", field!(send_headers), "The headers of the request that it gets.")
        .word::<OffOr<Size>>(
            "with_body",
            field!(with_body),
            "The most bytes of a request's body, which it gets whole; a larger body gets 413. Default: it gets none.",
        )
        .takes("up to 1MiB")
});

pub(super) fn read(of: &mut Option<ExtAuthz>, node: &Node<'_>, reading: &mut Reading<'_>) {
    match off_or_block(node, reading) {
        None => {}
        Some(OffOrBlock::Off) => *of = None,
        Some(OffOrBlock::Block) => *of = block(node, reading),
    }
}

fn block(node: &Node<'_>, reading: &mut Reading<'_>) -> Option<ExtAuthz> {
    let written = EXT_AUTHZ.read_new(node, reading);
    let [has_http, has_grpc] = ["http", "grpc"].map(|key| node.has(key, reading));
    if !has_http && !has_grpc {
        node.lacks("http", "write its address: \"http://127.0.0.1:9191/check\", or `grpc`", reading);
    } else if has_http && has_grpc {
        node.remark("has `http` and `grpc`", reading).help("it is asked in one way: leave one of them out");
        return None;
    }
    let Written { http, grpc, timeout, on_error, send_headers, with_body } = written;
    let service = http.map(AuthorizerService::Http).or_else(|| grpc.map(AuthorizerService::Grpc))?;
    Some(ExtAuthz { service, timeout, on_error, send_headers, with_body })
}

pub(super) fn tell(of: Option<&ExtAuthz>, at: &Scopes<'_>, page: &mut Page<'_>) {
    let Some(of) = of else { return page.tell(at, "off") };
    let ExtAuthz { service, timeout, on_error, send_headers, with_body } = of;
    let key = match service {
        AuthorizerService::Http(_) => "http",
        AuthorizerService::Grpc(_) => "grpc",
    };
    page.tell(&at.key(key), service.to_string());
    page.tell(&at.key("timeout"), spell::duration(*timeout));
    page.tell(&at.key("on_error"), Action::spell(on_error));
    page.tell_list(send_headers.iter().map(|name| name.as_str().into()), &at.whole("send_headers"));
    page.tell(&at.key("with_body"), OffOr::<Size>::spell(with_body));
}
