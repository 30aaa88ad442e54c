//! `logs`: which files are shipped, and where their records go.

use std::time::Duration;

use pillion_model::Pattern;
use pillion_model::logs::{
    Destination, IndexName, LineFormat, Logs, MongodbUrl, Sink, SinkUrl, Source, SyslogUrl,
};
use pillion_model::tracing::HiddenText;
use serde_json::Value;

use super::{Block, Field, OffOrBlock, Static, field, headers, off_or_block};
use crate::page::{Page, Scopes};
use crate::reading::{Node, Reading};
use crate::schema;
use crate::spell;
use crate::value::{Leaf as _, Opt, Size, Text};
use crate::words::{CollectionName, FieldName, Glob, HiddenValue, SourceName};

/// A sink as it is written.
#[derive(Default)]
struct Written {
    elasticsearch: Option<SinkUrl>,
    index: Option<IndexName>,
    loki: Option<SinkUrl>,
    labels: Option<Vec<String>>,
    otlp: Option<SinkUrl>,
    syslog: Option<SyslogUrl>,
    mongodb: Option<MongodbUrl>,
    database: Option<String>,
    collection: Option<String>,
    http: Option<SinkUrl>,
    headers: Vec<(String, HiddenText)>,
    trust_bundle: Option<String>,
}

static MULTILINE: Static<Option<Pattern>> = Static::new(|| {
    let whole =
        Field { of: |starts: &Option<Pattern>| starts, of_mut: |starts: &mut Option<Pattern>| starts };
    Block::new(|| None).word::<Opt<Pattern>>(
        "starts",
        whole,
        "A regular expression that is found in the first line of several. A line without it belongs to the one before.",
    )
});

static SOURCE: Static<Source> = Static::new(|| {
    Block::new(|| Source::new(""))
        .list::<Glob>(
            "files",
            field!(files),
            "Globs of absolute paths: * ? [a-z] within a name, ** for any number of folders.",
        )
        .word::<LineFormat>(
            "format",
            field!(format),
            "auto: JSON where a line is an object, else text; json; text; logfmt; cri: as container runtimes of Kubernetes \
             write.",
        )
        .block("multiline", field!(starts), &MULTILINE, "Lines that belong together, such as stack traces. Absent: each line is a record.")
        .key(
            "fields",
            "Fields that are added to each record: names and values.",
            || schema::entries::<FieldName>(schema::word::<Text>()),
            |source: &mut Source, node, reading| source.fields = fields(node, reading),
            |source, at, page| {
                for (name, value) in &source.fields {
                    page.tell(&at.key("fields").key(name), value.as_str());
                }
            },
        )
        .list::<Pattern>(
            "drop",
            field!(drop),
            "Regular expressions. A record in whose text one of them is found is left out.",
        )
});

static SINK: Static<Written> = Static::new(|| {
    Block::new(Written::default)
        .word::<Opt<SinkUrl>>("elasticsearch", field!(elasticsearch), "A server of Elasticsearch or OpenSearch, for `_bulk`.")
        .word::<Opt<IndexName>>(
            "index",
            field!(index),
            "With `elasticsearch`: the index, or the data stream. %Y, %m, %d and %H are of the record's time, in UTC.",
        )
        .word::<Opt<SinkUrl>>("loki", field!(loki), "A server of Loki.")
        .key(
            "labels",
            "With `loki`: the labels of streams, among workload, namespace, source, file, level, stream and names of `fields`. \
             Default workload, namespace, source.",
            schema::words::<FieldName>,
            |sink: &mut Written, node, reading| {
                let labels = node.words::<FieldName>(reading);
                sink.labels = labels.map(|labels| labels.into_iter().map(|FieldName(name)| name).collect());
            },
            |_, _, _| {}, // told by `tell_sink`
        )
        .word::<Opt<SinkUrl>>("otlp", field!(otlp), "A collector of the OpenTelemetry protocol, for logs over HTTP.")
        .word::<Opt<SyslogUrl>>("syslog", field!(syslog), "A receiver of syslog (RFC 5424): tcp://, udp:// or tls://.")
        .word::<Opt<MongodbUrl>>("mongodb", field!(mongodb), "A server of MongoDB without a password; ?tls=true for TLS.")
        .word::<Opt<CollectionName>>("database", field!(database), "With `mongodb`: the database.")
        .word::<Opt<CollectionName>>("collection", field!(collection), "With `mongodb`: the collection.")
        .word::<Opt<SinkUrl>>("http", field!(http), "A server that takes JSON objects, each in a line, by POST.")
        .key(
            "headers",
            "Headers of the requests. No page shows their values.",
            headers::schema::<HiddenValue>,
            |sink: &mut Written, node, reading| sink.headers = headers::read::<HiddenValue>(node, reading),
            |_, _, _| {}, // told by `tell_sink`
        )
        .word::<Opt<Text>>(
            "trust_bundle",
            field!(trust_bundle),
            "A file with the authorities of the server's certificate. Default: those of the system.",
        )
});

static BATCH: Static<pillion_model::logs::Batch> = Static::new(|| {
    Block::new(pillion_model::logs::Batch::default)
        .word::<Size>("max", field!(max), "The most bytes that are sent together.")
        .takes("16KiB to 64MiB")
        .word::<Duration>("every", field!(every), "How long a record waits for others.")
});

static LOGS: Static<Logs> = Static::new(|| {
    Block::new(Logs::default)
        .key(
            "sources",
            "Files of one kind, by a name that metrics and records have.",
            || schema::entries::<SourceName>(SOURCE.schema()),
            |logs: &mut Logs, node, reading| {
                for (SourceName(name), entry) in node.map::<SourceName>(reading) {
                    logs.sources.push(Source { name, ..SOURCE.read_new(&entry.value, reading) });
                }
            },
            |logs, at, page| {
                for source in &logs.sources {
                    SOURCE.tell(source, &at.key("sources").key(&source.name), page);
                }
            },
        )
        .key(
            "sinks",
            "Where records go, by a name that metrics have. Every sink gets every record, at its own pace.",
            || schema::entries::<SourceName>(SINK.schema()),
            |logs: &mut Logs, node, reading| {
                for (SourceName(name), entry) in node.map::<SourceName>(reading) {
                    logs.sinks.extend(sink(name, &entry.value, reading));
                }
            },
            |logs, at, page| {
                logs.sinks.iter().for_each(|sink| tell_sink(sink, &at.key("sinks").key(&sink.name), page))
            },
        )
        .key(
            "checkpoint",
            "The folder in which is kept how far each file was delivered. Default /var/lib/pillion/logs.",
            schema::word::<Text>,
            |logs: &mut Logs, node, reading| {
                if let Some(Text(folder)) = node.word(reading) {
                    logs.checkpoint = reading.folder.join(folder);
                }
            },
            |logs, at, page| page.tell(&at.key("checkpoint"), spell::path(&logs.checkpoint)),
        )
        .block("batch", field!(batch), &BATCH, "Records that are sent together.")
        .word::<Size>(
            "memory",
            field!(memory),
            "The memory for all sinks together. What a sink cannot take waits in the files.",
        )
        .takes("1MiB for each sink to 1GiB")
});

pub(super) fn schema() -> Option<Value> {
    schema::or_off(LOGS.schema())
}

pub(super) fn read(of: &mut Option<Logs>, node: &Node<'_>, reading: &mut Reading<'_>) {
    *of = match off_or_block(node, reading) {
        None | Some(OffOrBlock::Off) => None,
        Some(OffOrBlock::Block) => Some(LOGS.read_new(node, reading)),
    };
}

pub(super) fn tell(of: Option<&Logs>, at: &Scopes<'_>, page: &mut Page<'_>) {
    match of {
        Some(logs) => LOGS.tell(logs, at, page),
        None => page.tell(at, "off"),
    }
}

fn fields(node: &Node<'_>, reading: &mut Reading<'_>) -> Vec<(String, String)> {
    let entries = node.map::<FieldName>(reading).into_iter();
    let value = |(FieldName(name), entry): (FieldName, crate::reading::Entry<'_>),
                 reading: &mut Reading<'_>| {
        Some((name, entry.value.word::<Text>(reading)?.value()))
    };
    entries.filter_map(|entry| value(entry, reading)).collect()
}

fn sink(name: String, node: &Node<'_>, reading: &mut Reading<'_>) -> Option<Sink> {
    const KINDS: [&str; 6] = ["elasticsearch", "loki", "otlp", "syslog", "mongodb", "http"];
    const OTHERS: [(&str, &str); 4] =
        [("index", "elasticsearch"), ("labels", "loki"), ("database", "mongodb"), ("collection", "mongodb")];
    let written = SINK.read_new(node, reading);
    let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| node.has(kind, reading)).collect();
    let [kind] = kinds[..] else {
        let what = match kinds[..] {
            [] => "has no address".to_owned(),
            _ => format!("has {}, which are several sinks", kinds.join(" and ")),
        };
        node.remark(&what, reading).help(format!("write one of {}", KINDS.join(", ")));
        node.conceal_from_model(reading);
        return None;
    };
    for (key, of) in OTHERS {
        match (of == kind, node.has(key, reading)) {
            (false, true) => {
                node.remark(&format!("has `{key}`, which has a meaning with `{of}` alone"), reading)
                    .help("remove it");
            }
            (true, false) if key != "labels" => {
                node.lacks(key, &format!("write {key}: {}", example(key)), reading)
            }
            _ => {}
        }
    }
    let Written { headers, trust_bundle, .. } = &written;
    let (headers, trust_bundle) =
        (headers.clone(), trust_bundle.as_ref().map(|file| reading.folder.join(file)));
    Some(Sink { name, to: destination(written)?, headers, trust_bundle })
}

fn example(key: &str) -> &'static str {
    match key {
        "index" => "\"app-%Y.%m.%d\"",
        "database" => "logs",
        _ => "app",
    }
}

/// `None`: a part of it could not be read, which was told.
fn destination(written: Written) -> Option<Destination> {
    let Written {
        elasticsearch, index, loki, labels, otlp, syslog, mongodb, database, collection, http, ..
    } = written;
    if let Some(url) = elasticsearch {
        return Some(Destination::Elasticsearch { url, index: index? });
    }
    if let Some(url) = loki {
        let labels = labels.unwrap_or_else(|| Destination::LABELS.map(str::to_owned).to_vec());
        return Some(Destination::Loki { url, labels });
    }
    if let Some(url) = mongodb {
        return Some(Destination::Mongodb { url, database: database?, collection: collection? });
    }
    let otlp = otlp.map(|url| Destination::Otlp { url });
    let syslog = syslog.map(|url| Destination::Syslog { url });
    otlp.or(syslog).or_else(|| http.map(|url| Destination::Http { url }))
}

/// An address without its query, which may have a token.
fn shown(url: &SinkUrl) -> String {
    let text = url.to_string();
    match text.split_once('?') {
        Some((before, _)) => format!("{before}?(hidden)"),
        None => text,
    }
}

fn tell_sink(sink: &Sink, at: &Scopes<'_>, page: &mut Page<'_>) {
    match &sink.to {
        Destination::Elasticsearch { url, index } => {
            page.tell(&at.key("elasticsearch"), shown(url));
            page.tell(&at.key("index"), index.to_string());
        }
        Destination::Loki { url, labels } => {
            page.tell(&at.key("loki"), shown(url));
            page.tell_list(labels.iter().map(|label| label.as_str().into()), &at.whole("labels"));
        }
        Destination::Otlp { url } => page.tell(&at.key("otlp"), shown(url)),
        Destination::Syslog { url } => page.tell(&at.key("syslog"), url.to_string()),
        Destination::Mongodb { url, database, collection } => {
            page.tell(&at.key("mongodb"), url.to_string());
            page.tell(&at.key("database"), database.as_str());
            page.tell(&at.key("collection"), collection.as_str());
        }
        Destination::Http { url } => page.tell(&at.key("http"), shown(url)),
    }
    headers::tell::<HiddenValue>(&sink.headers, &at.key("headers"), page);
    if let Some(bundle) = &sink.trust_bundle {
        page.tell(&at.key("trust_bundle"), spell::path(bundle));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_an_address_is_not_shown() {
        let shown = |url| shown(&SinkUrl::new(url).unwrap());
        assert_eq!(shown("https://sink/in?token=s3cr3t"), "https://sink/in?(hidden)");
        assert_eq!(shown("https://sink/in"), "https://sink/in");
    }
}
