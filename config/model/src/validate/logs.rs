//! `logs`: what is missing, what is too much, and keys that contradict each other.

use super::tracing::TAKEN;
use crate::fault::Faults;
use crate::logs::{Batch, Destination, Logs, Sink, Source};
use crate::path::Trail;

/// Fields that a record has by itself.
const OWN: [&str; 9] =
    ["@timestamp", "message", "level", "source", "file", "workload", "namespace", "stream", "truncated"];

pub(super) fn validate(logs: &Logs, at: &Trail<'_>, faults: &mut Faults) {
    bounds(logs, at, faults);
    for source in &logs.sources {
        validate_source(source, &at.key("sources").key(&source.name), faults);
    }
    for sink in &logs.sinks {
        validate_sink(sink, &at.key("sinks").key(&sink.name), faults);
    }
}

fn bounds(logs: &Logs, at: &Trail<'_>, faults: &mut Faults) {
    let counted = [("sources", logs.sources.len()), ("sinks", logs.sinks.len())];
    for (key, count) in counted {
        match count {
            0 => {
                let help = if key == "sources" {
                    "sources: { app: { files: [\"/var/log/app/*.log\"] } }"
                } else {
                    "sinks: { hook: { http: \"https://logs.example/ingest\" } }"
                };
                faults.error(&at.key(key), "has no entry, so that nothing would be shipped").help(help);
            }
            _ if count > Logs::MOST => {
                faults
                    .error(&at.key(key), format!("has {count} entries, more than {}", Logs::MOST))
                    .help("one source can have several globs");
            }
            _ => {}
        }
    }
    let least = Logs::LEAST_MEMORY * (logs.sinks.len() as u64).max(1);
    if !(least..=Logs::MOST_MEMORY).contains(&logs.memory) {
        faults
            .error(&at.key("memory"), "is out of range")
            .help(format!("from {} (1MiB for each sink) to 1GiB", size(least)))
            .depends_on(&at.key("sinks"));
    }
    if !(Batch::LEAST..=Batch::MOST).contains(&logs.batch.max) {
        faults.error(&at.key("batch").key("max"), "is out of range").help("from 16KiB to 64MiB");
    }
}

fn size(bytes: u64) -> String {
    format!("{}MiB", bytes / 1024 / 1024)
}

fn validate_source(source: &Source, at: &Trail<'_>, faults: &mut Faults) {
    if source.files.is_empty() {
        faults.error(&at.key("files"), "is empty").help("files: [\"/var/log/app/*.log\"]");
    }
    if source.fields.len() > Source::MOST_FIELDS {
        faults
            .error(&at.key("fields"), format!("has more than {} fields", Source::MOST_FIELDS))
            .help("each record carries all of them");
    }
    for (name, _) in &source.fields {
        if OWN.contains(&name.as_str()) {
            faults
                .error(&at.key("fields").key(name), "is a field that records have by themselves")
                .help("give it another name; workload and namespace are keys of `workload`");
        }
    }
}

fn validate_sink(sink: &Sink, at: &Trail<'_>, faults: &mut Faults) {
    if !sink.headers.is_empty() && !sink.to.is_http() {
        faults
            .error(&at.key("headers"), "has no meaning: this sink is not asked over HTTP")
            .help("remove it");
    }
    if sink.headers.len() > Sink::MOST_HEADERS {
        faults
            .error(&at.key("headers"), format!("has more than {} headers", Sink::MOST_HEADERS))
            .help("write those that the sink asks for");
    }
    for (name, _) in &sink.headers {
        if TAKEN.contains(&name.as_str()) {
            faults
                .error(&at.key("headers").key(name), "is set by the protocol itself")
                .help("write headers that the sink asks for, such as authorization");
        }
    }
    let base = match &sink.to {
        Destination::Elasticsearch { url, .. } => Some(("elasticsearch", url)),
        Destination::Loki { url, .. } => Some(("loki", url)),
        Destination::Otlp { url } => Some(("otlp", url)),
        Destination::Syslog { .. } | Destination::Mongodb { .. } | Destination::Http { .. } => None,
    };
    if let Some((key, _)) = base.filter(|(_, url)| url.path.contains('?')) {
        faults
            .error(&at.key(key), "has a query, which has no meaning here")
            .help("write the address without ? and what follows");
    }
    let (is_tls, ..) = sink.to.server();
    if sink.trust_bundle.is_some() && !is_tls {
        faults
            .error(&at.key("trust_bundle"), "has no meaning: this sink is not asked over TLS")
            .help("write https://, tls:// or ?tls=true in the address, or remove it");
    }
    if let Destination::Loki { labels, .. } = &sink.to
        && !(1..=Sink::MOST_LABELS).contains(&labels.len())
    {
        faults.error(&at.key("labels"), format!("has {} labels", labels.len())).help(format!(
            "from 1 to {}: each set of values is a stream of its own in Loki",
            Sink::MOST_LABELS
        ));
    }
}
