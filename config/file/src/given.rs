//! What the command line adds to a file: where the identity is, and probes of the application.
//!
//! It is added to the tree of the file before that is read, because other keys depend on it: with an identity `inbound.mtls` is
//! strict by default. So the result is checked as a whole.

use std::fmt;
use std::str::FromStr;

use pillion_model::policy::Question;

use crate::fault::Fault;
use crate::place::{Content, NodeId, Tree};
use crate::value::on_off;

/// What the command line adds to a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// The folder with the certificates, or the URL of a Workload API (`unix:///run/agent.sock`). The file's own `identity` wins.
    pub identity: Option<String>,
    /// Added to `inbound.probes`.
    pub probes: Vec<GivenProbe>,
}

/// A probe in one word: `web-live=http:8080/healthz`, `db=tcp:3306` or `rpc=grpc:9090/shop.Orders`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenProbe {
    pub name: String,
    pub port: u16,
    pub asks: Question,
}

/// A word that is no probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadProbe(String);

impl std::error::Error for BadProbe {}

impl fmt::Display for BadProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        write!(
            f,
            "{text:?} is not a probe; write NAME=http:8080/path, NAME=tcp:3306 or NAME=grpc:9090/service"
        )
    }
}

impl FromStr for GivenProbe {
    type Err = BadProbe;

    fn from_str(text: &str) -> Result<Self, BadProbe> {
        let read = || {
            let (name, question) = text.split_once('=')?;
            let (kind, rest) = question.split_once(':')?;
            let (port, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let port = port.parse().ok().filter(|port| *port != 0)?;
            let asks = match (kind, rest) {
                ("http", "") => Question::Http { path: "/".to_owned() },
                ("http", path) => Question::Http { path: path.to_owned() },
                ("tcp", "") => Question::Tcp,
                ("grpc", service) => Question::Grpc { service: service.trim_start_matches('/').to_owned() },
                _ => return None,
            };
            Some(Self { name: name.to_owned(), port, asks })
        };
        read().ok_or_else(|| BadProbe(text.to_owned()))
    }
}

impl fmt::Display for GivenProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port, asks } = self;
        match asks {
            Question::Http { path } => write!(f, "{name}=http:{port}{path}"),
            Question::Tcp => write!(f, "{name}=tcp:{port}"),
            Question::Grpc { service } if service.is_empty() => write!(f, "{name}=grpc:{port}"),
            Question::Grpc { service } => write!(f, "{name}=grpc:{port}/{service}"),
        }
    }
}

impl Given {
    /// # Errors
    /// The file has no place for it.
    pub(crate) fn add_to(&self, tree: &mut Tree) -> Result<(), Fault> {
        let Some(root) = tree.root().filter(|root| is_block(tree, *root)) else { return Ok(()) };
        if let Some(identity) = self.identity.as_ref().filter(|_| tree.child(root, "identity").is_none()) {
            let key = if identity.starts_with("unix:") { "workload_api" } else { "directory" };
            let block = map(tree, &[(key, identity, false)]);
            tree.put(root, "identity", block);
        }
        if self.probes.is_empty() {
            return Ok(());
        }
        let inbound = block_of(tree, root, "inbound", Content::Map(Vec::new()));
        if !is_block(tree, inbound) {
            return match tree.text(inbound).is_some_and(|text| on_off(text) == Some(false)) {
                true => Err(Fault::of_file(
                    "the file says `inbound: off`, and --probe needs an inbound side",
                    Some("leave one of them out"),
                )),
                false => Ok(()), // the reading of the file tells what is wrong with the value
            };
        }
        let probes = block_of(tree, inbound, "probes", Content::List(Vec::new()));
        for probe in &self.probes {
            let entry = probe.node(tree);
            tree.push(probes, entry);
        }
        Ok(())
    }
}

impl GivenProbe {
    fn node(&self, tree: &mut Tree) -> NodeId {
        let (key, asks, plain) = match &self.asks {
            Question::Http { path } => ("path", path.as_str(), false),
            Question::Tcp => ("tcp", "true", true),
            Question::Grpc { service } => ("grpc", service.as_str(), false),
        };
        map(tree, &[("name", &self.name, false), ("port", &self.port.to_string(), true), (key, asks, plain)])
    }
}

/// The value of a key, which is made where the file has none.
fn block_of(tree: &mut Tree, of: NodeId, name: &str, empty: Content) -> NodeId {
    if let Some(known) = tree.child(of, name) {
        return known;
    }
    let made = tree.add(empty);
    tree.put(of, name, made);
    made
}

/// A block of texts, each with whether it is written without quotes.
fn map(tree: &mut Tree, entries: &[(&str, &str, bool)]) -> NodeId {
    let block = tree.add(Content::Map(Vec::new()));
    for (key, text, plain) in entries {
        let text = text.replace('$', "$$"); // no variable begins here
        let value = tree.add(Content::Scalar { text, plain: *plain });
        tree.put(block, key, value);
    }
    block
}

fn is_block(tree: &Tree, id: NodeId) -> bool {
    tree.node(id).is_some_and(|node| matches!(node.content, Content::Map(_)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::parse_given;
    use pillion_model::listener::Mtls;

    fn given(identity: Option<&str>, probes: &[&str]) -> Given {
        let probes = probes.iter().map(|probe| probe.parse().unwrap()).collect();
        Given { identity: identity.map(str::to_owned), probes }
    }

    fn read(text: &str, given: &Given) -> Result<pillion_model::Config, String> {
        let read = parse_given(text, Path::new("/etc/pillion"), &|_| None, given);
        read.map(|(config, _)| config).map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_given_identity_counts_for_the_defaults_of_other_keys() {
        for (text, mtls) in [
            ("{}", Mtls::Strict),
            ("inbound: { mtls: strict }", Mtls::Strict),
            ("inbound: { mtls: permissive }", Mtls::Permissive),
        ] {
            let config = read(text, &given(Some("/certs"), &[])).unwrap();
            assert_eq!(config.inbound.unwrap().mtls, mtls, "{text}");
            assert!(
                config
                    .identity
                    .unwrap()
                    .files()
                    .is_some_and(|files| files.key == Path::new("/certs/tls.key"))
            );
        }
        let agent = read("{}", &given(Some("unix:///run/agent.sock"), &[])).unwrap().identity.unwrap();
        assert_eq!(agent.workload_api().unwrap().socket, Path::new("/run/agent.sock"));
    }

    #[test]
    fn the_identity_of_the_file_wins() {
        let config = read("identity: { directory: own }", &given(Some("/certs"), &[])).unwrap();
        assert_eq!(config.identity.unwrap().files().unwrap().key, Path::new("/etc/pillion/own/tls.key"));
    }

    #[test]
    fn probes_are_added_to_those_of_the_file() {
        let more = given(
            None,
            &["a=http:8080/x?y=1", "b=tcp:3306", "c=grpc:9090/shop.Orders", "d=grpc:9090", "e=http:80"],
        );
        for (text, count) in
            [("{}", 5), ("inbound:\n", 5), ("inbound: { probes: [{ name: own, port: 80, tcp: true }] }", 6)]
        {
            let probes = read(text, &more).unwrap().inbound.unwrap().probes;
            assert_eq!(probes.len(), count, "{text}");
            assert_eq!(probes.last().unwrap().asks, Question::Http { path: "/".to_owned() });
        }
        let words: Vec<String> = more.probes.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            ["a=http:8080/x?y=1", "b=tcp:3306", "c=grpc:9090/shop.Orders", "d=grpc:9090", "e=http:80/"]
        );
    }

    #[test]
    fn what_has_no_place_in_the_file_is_refused() {
        let more = given(None, &["own=tcp:80"]);
        let text = "inbound: { probes: [{ name: own, port: 80, tcp: true }] }";
        assert!(read(text, &more).unwrap_err().contains("as an earlier probe is called"));
        assert!(read("inbound: off", &more).unwrap_err().contains("--probe needs an inbound side"));
        for word in ["", "a", "a=tcp", "a=tcp:0", "a=tcp:80/x", "a=udp:80", "a=http:x", "=tcp:99999"] {
            assert!(word.parse::<GivenProbe>().is_err(), "{word}");
        }
    }
}
