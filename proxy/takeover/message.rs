//! What the two processes say to each other, as JSON. Pure.
//!
//! The first message of each side must be readable to every version: `hello` has the versions that its sender speaks, and
//! the answer is an `offer` in one of them, or `kept` with the reason. Members that a version does not know are ignored,
//! and so are sockets for a role that it does not know.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::listening::Role;

/// The version of everything after the first messages.
pub(super) const VERSION: u64 = 1;

/// The program that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) pid: u32,
    pub(super) version: String,
}

/// A socket whose descriptor travels with the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    /// `None`: a role that this version does not know.
    pub(super) role: Option<Role>,
    pub(super) wanted: SocketAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// The new process: it wants the sockets.
    Hello { versions: Vec<u64>, of: Program },
    /// The old process: so many sockets follow. The socket of the takeover itself travels with this message.
    Offer { version: u64, sockets: u64, of: Program },
    /// The old process: some of the sockets.
    Sockets(Vec<Described>),
    /// The new process: it can serve.
    Ready,
    /// The old process: the new one may accept connections.
    Go,
    /// The new process: it accepts connections.
    Serving,
    /// The old process: it accepts none any more.
    Done,
    /// The old process: it goes on as before, for this reason.
    Kept(String),
    /// The new process: it ends, for this reason.
    Failed(String),
}

impl Program {
    pub(super) fn this() -> Self {
        Self { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

impl Message {
    pub(super) fn hello() -> Self {
        Self::Hello { versions: vec![VERSION], of: Program::this() }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Hello { versions, of } => {
                json!({ "say": "hello", "versions": versions, "pid": of.pid, "program": of.version })
            }
            Self::Offer { version, sockets, of } => {
                json!({ "say": "offer", "version": version, "sockets": sockets, "pid": of.pid, "program": of.version })
            }
            Self::Sockets(all) => {
                json!({ "say": "sockets", "sockets": all.iter().map(Described::to_json).collect::<Vec<_>>() })
            }
            Self::Ready => json!({ "say": "ready" }),
            Self::Go => json!({ "say": "go" }),
            Self::Serving => json!({ "say": "serving" }),
            Self::Done => json!({ "say": "done" }),
            Self::Kept(why) => json!({ "say": "kept", "why": why }),
            Self::Failed(why) => json!({ "say": "failed", "why": why }),
        }
    }

    /// `None`: the text is not a message.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let why = || value.get("why").and_then(Value::as_str).unwrap_or("no reason was given").to_owned();
        Some(match value.get("say")?.as_str()? {
            "hello" => {
                let versions = value.get("versions")?.as_array()?;
                Self::Hello {
                    versions: versions.iter().filter_map(Value::as_u64).collect(),
                    of: program(&value),
                }
            }
            "offer" => Self::Offer {
                version: value.get("version")?.as_u64()?,
                sockets: value.get("sockets")?.as_u64()?,
                of: program(&value),
            },
            "sockets" => {
                let all = value.get("sockets")?.as_array()?;
                Self::Sockets(all.iter().map(Described::read).collect::<Option<_>>()?)
            }
            "ready" => Self::Ready,
            "go" => Self::Go,
            "serving" => Self::Serving,
            "done" => Self::Done,
            "kept" => Self::Kept(why()),
            "failed" => Self::Failed(why()),
            _ => return None,
        })
    }

    /// The number of descriptors that travel with it.
    pub(super) fn descriptors(&self) -> usize {
        match self {
            Self::Offer { .. } => 1,
            Self::Sockets(all) => all.len(),
            _ => 0,
        }
    }
}

fn program(value: &Value) -> Program {
    let pid = value.get("pid").and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok());
    let version = value.get("program").and_then(Value::as_str).unwrap_or("unknown").to_owned();
    Program { pid: pid.unwrap_or_default(), version }
}

impl Described {
    fn to_json(&self) -> Value {
        let name = match &self.role {
            Some(Role::Port(port)) => Some(port.to_string()),
            Some(Role::Service(name)) => Some(name.clone()),
            _ => None,
        };
        json!({ "role": self.role.as_ref().map(Role::as_str), "name": name, "wanted": self.wanted.to_string() })
    }

    fn read(value: &Value) -> Option<Self> {
        let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
        let role = match value.get("role").and_then(Value::as_str) {
            Some("inbound") => Some(Role::Inbound),
            Some("port") => Some(Role::Port(name.parse().ok()?)),
            Some("outbound") => Some(Role::Outbound),
            Some("service") => Some(Role::Service(name.to_owned())),
            Some("admin") => Some(Role::Admin),
            Some("metrics") => Some(Role::Metrics),
            Some("dns") => Some(Role::Dns),
            _ => None,
        };
        Some(Self { role, wanted: value.get("wanted")?.as_str()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(role: Role) -> Described {
        Described { role: Some(role), wanted: "[::1]:0".parse().expect("an address") }
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        let of = || Program { pid: 7, version: "0.9".into() };
        let roles = [
            Role::Inbound,
            Role::Port(8080),
            Role::Outbound,
            Role::Service("orders".into()),
            Role::Admin,
            Role::Metrics,
            Role::Dns,
        ];
        for message in [
            Message::Hello { versions: vec![1, 2], of: of() },
            Message::Offer { version: 1, sockets: 3, of: of() },
            Message::Sockets(roles.map(described).to_vec()),
            Message::Ready,
            Message::Go,
            Message::Serving,
            Message::Done,
            Message::Kept("it drains".into()),
            Message::Failed("a \"port\" in use".into()),
        ] {
            let text = message.to_json().to_string();
            assert_eq!(Message::read(text.as_bytes()), Some(message), "{text}");
        }
    }

    #[test]
    fn what_a_later_version_adds_is_ignored() {
        let hello = br#"{"say":"hello","versions":[1,2,"x"],"pid":5,"program":"2.0","wishes":["all"]}"#;
        let of = Program { pid: 5, version: "2.0".into() };
        assert_eq!(Message::read(hello), Some(Message::Hello { versions: vec![1, 2], of }));
        let sockets = br#"{"say":"sockets","sockets":[{"role":"quic","wanted":"127.0.0.1:1","more":1}]}"#;
        let Some(Message::Sockets(all)) = Message::read(sockets) else { unreachable!("sockets") };
        assert_eq!(all.first().map(|socket| socket.role.is_none()), Some(true));
    }

    #[test]
    fn anything_else_is_no_message() {
        for text in [
            &b""[..],
            b"HTTP/1.1 400 Bad Request",
            b"{}",
            b"[1]",
            br#"{"say":1}"#,
            br#"{"say":"dance"}"#,
            br#"{"say":"hello"}"#,
            br#"{"say":"offer","version":-1,"sockets":1}"#,
            br#"{"say":"sockets","sockets":[{"role":"port","name":"http","wanted":"127.0.0.1:1"}]}"#,
            br#"{"say":"sockets","sockets":[{"role":"inbound","wanted":"localhost"}]}"#,
            b"\xff\xfe",
        ] {
            assert_eq!(Message::read(text), None, "{}", String::from_utf8_lossy(text));
        }
    }
}
