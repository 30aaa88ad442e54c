//! `inbound.authorization`: which peers may send what to the application.

use pillion_model::authorization::{
    Action, Authorization, ClaimMatch, ClaimPattern, Conditions, EncodedSlash, Mode, PathPattern,
    PeerPattern, Rule,
};
use pillion_model::cluster::HostPattern;

use super::ext_authz::{self, EXT_AUTHZ};
use super::jwt::{self, JWT};
use super::routes::matching;
use super::{Block, Static, field};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading};
use crate::schema;
use crate::value::{Leaf, Opt, Port};
use crate::words::{ClaimName, Method, RuleName, Source};

pub(super) static AUTHORIZATION: Static<Authorization> = Static::new(|| {
    Block::new(Authorization::default)
        .word::<Action>("default", field!(default), "What happens where no rule matches.")
        .word::<Mode>(
            "mode",
            field!(mode),
            "enforce; or audit: everything passes, and what would be denied is logged and counted.",
        )
        .word::<EncodedSlash>(
            "encoded_slash",
            field!(encoded_slash),
            "Whether a path with %2F gets 400 or is forwarded with it, where rules name paths.",
        )
        .key(
            "rules",
            "A matching deny rule wins, then a matching allow rule, then `default`.",
            || schema::any_of([schema::list_of(RULE.schema()), schema::defined("off"), schema::left_open()]),
            |authorization: &mut Authorization, node, reading| authorization.rules = rules(node, reading),
            |authorization, at, page| tell_rules(&authorization.rules, &at.key("rules"), page),
        )
        .key(
            "jwt",
            "The tokens (JWT) that requests carry. Default: none is read.",
            || schema::or_off(JWT.schema()),
            |authorization: &mut Authorization, node, reading| {
                jwt::read(&mut authorization.jwt, node, reading)
            },
            |authorization, at, page| jwt::tell(authorization.jwt.as_ref(), &at.key("jwt"), page),
        )
        .key(
            "ext_authz",
            "A program that judges the requests that rules allow, in Envoy's protocol. Default: none is asked.",
            || schema::or_off(EXT_AUTHZ.schema()),
            |authorization: &mut Authorization, node, reading| {
                ext_authz::read(&mut authorization.ext_authz, node, reading);
            },
            |authorization, at, page| ext_authz::tell(authorization.ext_authz.as_ref(), &at.key("ext_authz"), page),
        )
});

struct RuleBlock {
    name: Option<String>,
    action: Action,
    when: Conditions,
    not: Option<Conditions>,
}

/// The keys of conditions, in a block that has them at the given place.
macro_rules! conditions {
    ($block:expr $(, $step:ident)?) => {
        $block
            .list::<PeerPattern>(
                "from",
                field!($($step.)? from),
                "The identities of peers, exact or with * for one or more last segments. A peer without a verified \
                 identity never matches. Default: every peer.",
            )
            .list::<Method>("methods", field!($($step.)? methods), "The methods. Default: every method.")
            .list::<PathPattern>(
                "paths",
                field!($($step.)? paths),
                "The paths, normalised and without the query; /api/* matches what begins with /api/. Default: every path.",
            )
            .list::<Port>("ports", field!($($step.)? ports), "The ports of the application. Default: every port.")
            .list::<HostPattern>("hosts", field!($($step.)? hosts), "The hosts that requests name. Default: every host.")
            .key(
                "headers",
                "The headers by name, all of which must match. Peers choose them.",
                matching::headers_schema,
                |block, node, reading| block $(.$step)? .headers = matching::headers(node, reading),
                |_, _, _| {},
            )
            .list::<Source>("sources", field!($($step.)? sources), "The addresses of peers. Default: every address.")
            .key(
                "claims",
                "What a verified token says, by the names of its claims, all of which must match. A request without a \
                 token never matches. A * stands for the rest of a value.",
                || schema::entries::<ClaimName>(schema::words::<ClaimPattern>()),
                |block, node, reading| block $(.$step)? .claims = claims(node, reading),
                |_, _, _| {},
            )
    };
}

static RULE: Static<RuleBlock> = Static::new(|| {
    let new = || RuleBlock { name: None, action: Action::Allow, when: Conditions::default(), not: None };
    let block = Block::new(new)
        .word::<Opt<RuleName>>("name", field!(name), "The name in the access log and in metrics.")
        .word::<Action>("action", field!(action), "What happens to what the rule matches.");
    let block: Block<RuleBlock> = conditions!(block, when);
    block.key(
        "not",
        "The rule does not match what fits all conditions of this block. Default: no exception.",
        || NOT.schema(),
        |rule: &mut RuleBlock, node, reading| rule.not = Some(read_not(node, reading)),
        |_, _, _| {},
    )
});

static NOT: Static<Conditions> = Static::new(|| conditions!(Block::new(Conditions::default)));

fn claims(node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<ClaimMatch> {
    let mut all = Vec::new();
    for (ClaimName(name), entry) in node.map::<ClaimName>(reading) {
        let values: Vec<ClaimPattern> = entry.value.words(reading).unwrap_or_default();
        if values.is_empty() && entry.value.is_written(reading) {
            entry.value.remark("has no value", reading).help("write one, or \"*\" for any value");
        }
        all.push(ClaimMatch { name, values });
    }
    all
}

fn rules(node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<Rule> {
    node.items_or_off("a list of rules", reading, |item, reading| Some(rule(item, reading)))
}

fn rule(node: &Node<'_>, reading: &mut Reading<'_>) -> Rule {
    let RuleBlock { name, action, when, not } = RULE.read_new(node, reading);
    if !node.has("name", reading) {
        node.lacks("name", "{ name: web-reads, from: [\"spiffe://…\"], methods: [GET] }", reading);
    }
    refuse_empty(&when, node, reading);
    Rule { name: name.unwrap_or_default(), action, when, not }
}

fn read_not(node: &Node<'_>, reading: &mut Reading<'_>) -> Conditions {
    let mut not = Conditions::default();
    if NOT.read(&mut not, node, reading) {
        refuse_empty(&not, node, reading);
        if node.entries(reading).is_some_and(|entries| entries.is_empty()) {
            node.remark("is empty", reading).help("leave it out: the rule has no exception");
            node.conceal_from_model(reading);
        }
    }
    not
}

/// Refuses conditions that are written without a value: they would match everything, which is hardly what is meant.
fn refuse_empty(of: &Conditions, node: &Node<'_>, reading: &mut Reading<'_>) {
    let Conditions { from, methods, paths, ports, hosts, headers, sources, claims } = of;
    let empty = [
        ("from", from.is_empty(), "peer"),
        ("methods", methods.is_empty(), "method"),
        ("paths", paths.is_empty(), "path"),
        ("ports", ports.is_empty(), "port"),
        ("hosts", hosts.is_empty(), "host"),
        ("headers", headers.is_empty(), "header"),
        ("sources", sources.is_empty(), "address"),
        ("claims", claims.is_empty(), "token"),
    ];
    let written = reading.muted(|reading| node.entries(reading)).unwrap_or_default();
    for (key, _, what) in empty.into_iter().filter(|(_, is_empty, _)| *is_empty) {
        if let Some(entry) = written.iter().find(|entry| entry.name == key) {
            entry.value.remark("is empty", reading).help(format!("leave it out to match every {what}"));
            entry.value.conceal_from_model(reading);
        }
    }
}

fn tell_rules(rules: &[Rule], at: &Scopes<'_>, page: &mut Page<'_>) {
    for (nth, Rule { name, action, when, not }) in rules.iter().enumerate() {
        let at = at.index(nth);
        page.tell(&at.key("name"), name.as_str());
        page.tell(&at.key("action"), Action::spell(action));
        tell_conditions(when, &at, page);
        if let Some(not) = not {
            tell_conditions(not, &at.key("not"), page);
        }
    }
}

/// Reports only the conditions that are set.
fn tell_conditions(of: &Conditions, at: &Scopes<'_>, page: &mut Page<'_>) {
    fn list<W: Leaf>(values: &[W::Value], key: &str, at: &Scopes<'_>, page: &mut Page<'_>) {
        page.tell_list(values.iter().map(W::spell), &at.whole(key));
    }
    let Conditions { from, methods, paths, ports, hosts, headers, sources, claims } = of;
    list::<PeerPattern>(from, "from", at, page);
    list::<Method>(methods, "methods", at, page);
    list::<PathPattern>(paths, "paths", at, page);
    list::<Port>(ports, "ports", at, page);
    list::<HostPattern>(hosts, "hosts", at, page);
    matching::tell_headers(headers, &at.key("headers"), page);
    list::<Source>(sources, "sources", at, page);
    for ClaimMatch { name, values } in claims {
        page.tell_list(values.iter().map(ClaimPattern::spell), &at.key("claims").whole(name));
    }
}
