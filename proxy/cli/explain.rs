//! `pillion explain`: what would happen to a request, by a configuration file or by a running sidecar; and what
//! happened to a past one.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::admin::{AdminPort, USUAL};
use super::output::print;
use super::timeline;
use crate::app::unserved_snapshot;
use crate::explained::{self, Query, Source};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// GET http://orders/v2/x, or tcp://10.96.0.10:80 for opaque bytes; or the x-request-id of a past request
    #[arg(value_name = "METHOD URL | ID", num_args = 1..=2, required = true)]
    what: Vec<String>,
    /// A header of the request, as 'x-user: jo'
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The caller's SPIFFE ID, or its IP address; may be given twice
    #[arg(long = "source", value_name = "SPIFFE_ID")]
    sources: Vec<String>,
    /// A request that comes to this port of the application, in place of one that the application makes
    #[arg(long, value_name = "PORT")]
    inbound: Option<u16>,
    /// The configuration file
    #[arg(short, long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// The admin port of a running sidecar [default: http://127.0.0.1:15000]
    #[arg(long, value_name = "URL")]
    admin: Option<AdminPort>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What the words ask for.
enum Asked {
    /// What would happen to a request.
    Question(Query),
    /// What happened to the request with this ID.
    Past(String),
}

impl Explain {
    /// # Errors
    /// The question cannot be read, the file is not valid, or the sidecar cannot be asked.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let query = match self.asked() {
            Asked::Question(query) => query,
            Asked::Past(id) => return self.past(&id),
        };
        query.question()?;
        let found = match &self.config {
            Some(file) => by_file(file, &query)?,
            None => asked(&self.admin()?, &format!("/explain?{}", query.encoded()))?,
        };
        match self.json {
            true => print(&format!("{found:#}\n")),
            false => print(&told(&found)),
        }
    }

    /// Prints the timeline of a past request.
    fn past(&self, id: &str) -> anyhow::Result<()> {
        if self.config.is_some()
            || self.inbound.is_some()
            || !self.headers.is_empty()
            || !self.sources.is_empty()
        {
            bail!(
                "`{id}` is the ID of a past request: a running sidecar has its timeline, so only --admin and --json apply"
            );
        }
        let whole =
            asked(&self.admin()?, &format!("/requests/{}", utf8_percent_encode(id, NON_ALPHANUMERIC)))?;
        match self.json {
            true => print(&format!("{whole:#}\n")),
            false => print(&timeline::told(&whole)),
        }
    }

    fn asked(&self) -> Asked {
        let (method, url) = match &self.what[..] {
            [method, url] => (method.clone(), url.clone()),
            [url] if url.contains("://") => (String::new(), url.clone()),
            words => return Asked::Past(words.concat()),
        };
        let (headers, sources) = (self.headers.clone(), self.sources.clone());
        Asked::Question(Query { method, url, headers, sources, inbound: self.inbound })
    }

    fn admin(&self) -> anyhow::Result<AdminPort> {
        self.admin.clone().map_or_else(|| USUAL.parse().map_err(anyhow::Error::msg), Ok)
    }
}

fn by_file(file: &Path, query: &Query) -> anyhow::Result<Value> {
    let (config, _warnings) = pillion_config::load(file)?;
    let (name, text) = (file.display().to_string(), pillion_config::text_of(file));
    let written = Some(pillion_config::Written { name: &name, text: &text });
    let source = Source { config: &config, written, flags: &[], is_live: false };
    Ok(explained::answer(query, &unserved_snapshot(&config), &source, Instant::now())?)
}

/// The answer of a running sidecar.
fn asked(admin: &AdminPort, target: &str) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(admin.ask(Method::GET, target))?;
    answer.json().context("the question was not answered")
}

/// The explanation for people: a title and a value on each line.
struct Rows(String);

impl Rows {
    fn add(&mut self, title: &str, value: &str) {
        let row = format!("{title:<14}{value}");
        self.0.push_str(row.trim_end());
        self.0.push('\n');
    }

    /// The title stands before the first of several values.
    fn add_all(&mut self, title: &str, values: impl IntoIterator<Item = String>) {
        for (nth, value) in values.into_iter().enumerate() {
            self.add(if nth == 0 { title } else { "" }, &value);
        }
    }
}

fn told(found: &Value) -> String {
    let mut rows = Rows(text(&found["asked"]) + "\n");
    if let Some(why) = found["refused"].as_str() {
        rows.add("refused", why);
    }
    match found["route"].as_str() {
        Some(route) => rows.add("route", route),
        None if found["inbound"].is_null() => {
            rows.add("route", "none: the service of the host or address decides")
        }
        None => {}
    }
    rows.add_all("", reasons(found, "route"));
    rows.add("service", found["service"].as_str().unwrap_or("none"));
    let weight = |to: &Value| format!("weight {} to {}", text(&to["weight"]), text(&to["service"]));
    rows.add_all("", list(&found["split"]).map(weight));
    let endpoint = |of: &Value| format!("{:<27} {}", text(&of["address"]), text(&of["state"]));
    rows.add_all("endpoints", list(&found["endpoints"]).map(endpoint));
    if !found["authorization"].is_null() {
        tell_rules(&found["authorization"], &mut rows);
    }
    let policies = found["policies"].as_object().into_iter().flatten();
    // a cache is off unless it is written, so its bounds count also where they are the usual ones
    let policies = policies.filter(|(key, of)| of["from"] != "default" || key.starts_with("cache."));
    let policy =
        |(key, of): (&String, &Value)| format!("{key:<27} {:<11} {}", text(&of["value"]), text(&of["from"]));
    rows.add_all("policies", policies.map(policy));
    rows.add_all("note", list(&found["notes"]).map(text));
    rows.0
}

fn tell_rules(judged: &Value, rows: &mut Rows) {
    let from = judged["from"].as_str().map(|from| format!(" ({from})")).unwrap_or_default();
    let why = judged["because"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
    let decided = format!("{} by {}{from}{why}", text(&judged["decision"]), text(&judged["rule"]));
    rows.add("authorization", &decided);
    rows.add_all("", reasons(judged, "rule"));
}

/// Why earlier routes or rules do not apply; `key` has their names.
fn reasons<'a>(of: &'a Value, key: &'a str) -> impl Iterator<Item = String> + 'a {
    list(&of["rejected"]).map(move |entry| format!("not {}: {}", text(&entry[key]), text(&entry["because"])))
}

fn list(of: &Value) -> impl Iterator<Item = &Value> {
    of.as_array().into_iter().flatten()
}

fn text(of: &Value) -> String {
    of.as_str().map_or_else(|| of.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cache_is_told_with_its_bounds_also_where_they_are_the_usual_ones() {
        let usual = |value: &str| json!({ "value": value, "from": "default" });
        let told = |policies| told(&json!({ "asked": "GET http://orders/", "policies": policies }));
        let with = told(json!({ "cache.max": usual("64MiB"), "timeout": usual("15s") }));
        assert!(with.contains("cache.max") && with.contains("64MiB") && !with.contains("timeout"), "{with}");
        let without = told(json!({ "cache": usual("off") }));
        assert!(!without.contains("cache"), "{without}");
    }
}
