//! The explanation of what would happen to a request, in JSON: for the page `/explain`, and for `pillion explain -c`.

mod query;

use std::time::Instant;

use pillion_config::{Part, Provenance, Setting, Written, effective_part};
use pillion_model::Config;
use pillion_model::authorization::{Action, Mode};
use pillion_model::cluster::Discovery;
use pillion_sidecar::layers::route::explain::{Explained, Judged, explain};
use pillion_sidecar::state::Snapshot;
use serde_json::{Map, Value, json};

pub(crate) use query::{BadQuestion, Query};

/// The configuration in which places are looked up.
pub(crate) struct Source<'a> {
    pub(crate) config: &'a Config,
    pub(crate) written: Option<Written<'a>>,
    pub(crate) flags: &'a [(&'static str, &'static str)],
    /// A sidecar serves it, so that endpoints have a state.
    pub(crate) is_live: bool,
}

/// # Errors
/// The question is not complete.
pub(crate) fn answer(
    query: &Query,
    snapshot: &Snapshot,
    source: &Source<'_>,
    now: Instant,
) -> Result<Value, BadQuestion> {
    let question = query.question()?;
    let explained = explain(snapshot, source.config, &question, now);
    let rejected = explained
        .rejected
        .iter()
        .map(|(nth, because)| json!({ "route": route_name(source.config, *nth), "because": because }));
    Ok(json!({
        "asked": query.to_string(),
        "inbound": question.inbound,
        "route": explained.route.map(|nth| route_name(source.config, nth)),
        "service": explained.service.as_deref(),
        "split": explained.split.iter().map(|(service, weight)| json!({ "service": **service, "weight": weight })).collect::<Vec<_>>(),
        "rejected": rejected.collect::<Vec<_>>(),
        "refused": explained.refused,
        "endpoints": endpoints(&explained, source),
        "policies": policies(&explained, question.inbound, source),
        "authorization": explained.authorization.as_ref().map(|judged| authorization(judged, source)),
        "notes": explained.notes,
    }))
}

/// The name of a route, or its place where it has none.
fn route_name(config: &Config, nth: usize) -> String {
    let name = config.routes.get(nth).and_then(|route| route.name.clone());
    name.unwrap_or_else(|| format!("routes[{nth}]"))
}

/// The endpoints with their state. Those of a file are as it lists them, and names are not looked up.
fn endpoints(of: &Explained, source: &Source<'_>) -> Vec<Value> {
    let found =
        source.config.clusters.iter().find(|cluster| Some(cluster.name.as_str()) == of.service.as_deref());
    let discovery = found.and_then(|cluster| cluster.discovery.as_ref()).filter(|_| !source.is_live);
    let by = |discovery: &Discovery| match discovery {
        Discovery::Dns(_) => "looked up by DNS",
        Discovery::Kubernetes(_) => "looked up in Kubernetes",
    };
    let named = discovery.map(|of| json!({ "address": of.to_string(), "state": by(of) }));
    let each = of.endpoints.iter().map(|(address, state)| {
        let state = if source.is_live { state } else { "written" };
        json!({ "address": address.to_string(), "state": state })
    });
    each.chain(named).collect()
}

/// The policies in force, by their keys, each with its value and where it was written. A key of the route replaces that of
/// the service.
fn policies(of: &Explained, inbound: Option<u16>, source: &Source<'_>) -> Map<String, Value> {
    let mut all = Map::new();
    let mut add = |part: Part<'_>, prefix: &str, is_wanted: &dyn Fn(&str) -> bool| {
        for Setting { key, value, from } in
            effective_part(source.config, source.written, source.flags, part).0
        {
            let key = key.strip_prefix(prefix).unwrap_or(&key);
            if !value.is_null() && is_wanted(key) {
                all.insert(key.to_owned(), json!({ "value": value, "from": from.to_string() }));
            }
        }
    };
    if let Some(port) = inbound {
        let own = format!("ports.{port}.");
        let is_of_others = |key: &str| key.starts_with("ports.") && !key.starts_with(&own);
        add(Part::Inbound, "inbound.", &|key| !is_of_others(key) && !key.starts_with("authorization.rules"));
        return all;
    }
    if let Some(service) = &of.service {
        let prefix = format!("services.{service}.");
        add(Part::Service(service), &prefix, &|key| !is_of_place(key));
    }
    if let Some(nth) = of.route {
        let to = source.config.routes.get(nth).map_or(&[][..], |route| &route.to);
        let nth_to = to.iter().position(|to| Some(to.service.as_str()) == of.service.as_deref());
        let prefix = format!("routes[{nth}].");
        add(Part::Route(nth), &prefix, &|key| {
            !is_of_place(key) && !key.starts_with("match.") && !key.starts_with("to[")
        });
        if let Some(nth_to) = nth_to {
            add(Part::Route(nth), &format!("routes[{nth}].to[{nth_to}]."), &is_of_weighted);
        }
    }
    all
}

/// Whether the key says where a service or a route is, and is no policy.
fn is_of_place(key: &str) -> bool {
    let first = key.split(['.', '[']).next().unwrap_or_default();
    matches!(first, "endpoints" | "hosts" | "addresses" | "listen" | "name")
}

fn is_of_weighted(key: &str) -> bool {
    let first = key.split(['.', '[']).next().unwrap_or_default();
    matches!(first, "timeout" | "retry" | "weight")
}

fn authorization(of: &Judged, source: &Source<'_>) -> Value {
    let rules = source.config.inbound.as_ref().and_then(|inbound| inbound.authorization.as_ref());
    let rules = rules.map_or(&[][..], |authorization| &authorization.rules);
    let name = |nth: usize| rules.get(nth).map_or_else(|| format!("rules[{nth}]"), |rule| rule.name.clone());
    let decision = match (of.action, of.mode) {
        (Action::Allow, _) => "allowed",
        (Action::Deny, Mode::Enforce) => "denied",
        (Action::Deny, Mode::Audit) => "would_deny",
    };
    let rejected = of.rejected.iter().map(|(nth, because)| json!({ "rule": name(*nth), "because": because }));
    json!({
        "decision": decision,
        "rule": of.name,
        "because": of.why,
        "from": of.rule.and_then(|nth| place_of_rule(nth, source)),
        "rejected": rejected.collect::<Vec<_>>(),
    })
}

/// Where the name of a rule is written.
fn place_of_rule(nth: usize, source: &Source<'_>) -> Option<String> {
    let key = format!("inbound.authorization.rules[{nth}].name");
    let (settings, _) = effective_part(source.config, source.written, source.flags, Part::Inbound);
    let found = settings.into_iter().find(|setting| setting.key == key)?;
    Some(found.from).filter(|from| *from != Provenance::Default).map(|from| from.to_string())
}
