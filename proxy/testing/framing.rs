//! Where messages end, in bytes: what one side sends, what the sidecar makes of it, and what the other side sees.
//!
//! The rows do not depend on how HTTP/1 is implemented, so that another implementation can be tested with them. An
//! application that follows RFC 9112 reads the requests, and such a client reads the answers.

mod answers;
mod http2;
mod requests;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::timeout;

use super::mesh::{A, Mesh, ORDERS, Pair, Sidecar, secs, settle};
use super::peer::{Message, Peer};
use pillion_tls::identity::issue::Ca;

/// The bytes that a client sends; the statuses it gets and whether its connection stays open; the requests that the
/// application reads completely.
type Asked<'a> = (&'a str, &'a str, &'a str);

/// The bytes that an upstream sends; what the client sees; whether the upstream's connection is used for the next
/// request.
type Answered<'a> = (&'a str, &'a str, &'a str);

/// A message with only the fields that frame it: `POST /a [content-length: 2] ab`, trailers in braces.
async fn read(peer: &mut Peer, is_bodiless: bool) -> Option<String> {
    let mut message = Message { head: peer.head().await?, body: String::new(), is_whole: true };
    let first = message.head.lines().next().unwrap_or_default();
    let mut text = match message.status() {
        Some(status) => [&status.to_string(), " ", message.reason().unwrap_or_default()].concat(),
        None => first.rsplit_once(' ').map_or(first, |(text, _version)| text).to_owned(),
    };
    let is_answer = message.status().is_some();
    let is_ours = message.reason().is_some(); // then neither its length nor its sentence matters here
    let frames = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !is_ours && ["content-length", "transfer-encoding", "te", "trailer"].contains(&&*name)
    };
    let mut framing: Vec<_> = message.head.lines().skip(1).filter(frames).collect();
    framing.sort_unstable();
    for line in framing {
        text += &format!(" [{line}]");
    }
    let mut trailers = Vec::new();
    match message.header("content-length").map(str::to_owned) {
        _ if is_bodiless || matches!(message.status(), Some(204 | 304)) => {}
        _ if message.header("transfer-encoding").is_some() => {
            message.is_whole = chunks(peer, &mut message.body, &mut trailers).await.is_some();
        }
        Some(length) => {
            let (body, is_whole) = peer.exactly(length.parse().expect("a length")).await;
            (message.body, message.is_whole) = (String::from_utf8_lossy(&body).into_owned(), is_whole);
        }
        None if is_answer => message.body = String::from_utf8_lossy(&peer.rest().await).into_owned(),
        None => {}
    }
    if !is_ours && !message.body.is_empty() {
        text += &format!(" {}", message.body);
    }
    if !trailers.is_empty() {
        text += &format!(" {{{}}}", trailers.join(", "));
    }
    if !message.is_whole {
        text += " (cut)";
    }
    Some(text.trim_end().replace("  ", " "))
}

async fn chunks(peer: &mut Peer, body: &mut String, trailers: &mut Vec<String>) -> Option<()> {
    loop {
        let size = usize::from_str_radix(&peer.line().await?, 16).expect("a chunk's size");
        if size == 0 {
            break;
        }
        let (chunk, is_whole) = peer.exactly(size + 2).await;
        *body += &String::from_utf8_lossy(&chunk[..chunk.len().min(size)]);
        is_whole.then_some(())?;
    }
    loop {
        match peer.line().await?.as_str() {
            "" => return Some(()),
            line => trailers.push(line.to_owned()),
        }
    }
}

/// An application that answers `ok` to every request, and the requests it has read.
fn application(mesh: &Mesh) -> Arc<Mutex<Vec<String>>> {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let requests = seen.clone();
    mesh.scripted(A, move |mut peer: Peer, _| {
        let requests = requests.clone();
        async move {
            while let Some(request) = read(&mut peer, false).await {
                requests.lock().push(request);
                drop(peer.try_send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await);
            }
        }
    });
    seen
}

/// The status of each answer, with the CODE if the sidecar made it, and whether the connection is still open.
async fn outcomes_of(client: &mut Peer) -> String {
    let mut outcomes = Vec::new();
    loop {
        match timeout(secs(1), client.message()).await {
            Ok(Some(answer)) => {
                let (status, code) = answer.status_and_reason();
                outcomes
                    .push([&status.to_string(), " ", code.unwrap_or_default()].concat().trim().to_owned());
            }
            Ok(None) => outcomes.push("closed".to_owned()),
            Err(_nothing_more) => outcomes.push("open".to_owned()),
        }
        if matches!(outcomes.last().map(String::as_str), Some("closed" | "open")) {
            return outcomes.join(" ");
        }
    }
}

/// The sidecar that a client connects to, and the one behind it if there are two.
type Chain = (Sidecar, Option<Sidecar>);

async fn ask(rows: &[Asked<'_>], name: &str, start: impl Fn(&Mesh) -> Chain) {
    let mut wrong = String::new();
    for (sent, answered, expected) in rows {
        let (outcomes, whole) = asked(sent, &start).await;
        if (outcomes.as_str(), whole.as_str()) != (*answered, *expected) {
            wrong += &format!("{sent:?}\n  {outcomes:?}, {whole:?}\n  and not {answered:?}, {expected:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{name}:\n{wrong}");
}

/// What a client gets that sends these bytes, and which requests the application reads completely.
async fn asked(sent: &str, start: impl Fn(&Mesh) -> Chain) -> (String, String) {
    let mesh = Mesh::default();
    let seen = application(&mesh);
    let (first, _second) = start(&mesh);
    let mut client = first.client().await;
    drop(client.try_send(sent).await); // some are refused before their last byte
    let outcomes = outcomes_of(&mut client).await;
    let whole: Vec<_> = seen.lock().iter().filter(|request| !request.ends_with("(cut)")).cloned().collect();
    (outcomes, whole.join(" + "))
}

fn caller(mesh: &Mesh) -> Chain {
    (mesh.caller("endpoints: [10.0.0.1:80], retry: off"), None)
}

fn inbound(mesh: &Mesh) -> Chain {
    (mesh.application("app: 10.0.0.1:80, protocol: http1"), None)
}

/// Two sidecars that speak this version of HTTP to each other.
fn pair(mesh: &Mesh, protocol: &str) -> Chain {
    let pair = Pair { mesh: mesh.clone(), ca: Ca::generate("cluster.local").expect("a CA") };
    let second = pair.application("10.1.0.1:15006", A);
    (
        pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}, protocol: {protocol}, retry: off")),
        Some(second),
    )
}

/// Outcomes are the same through each sidecar alone, and through both.
async fn ask_everywhere(rows: &[Asked<'_>]) {
    ask(rows, "outbound", caller).await;
    ask(rows, "inbound", inbound).await;
    ask(rows, "pair of HTTP/1", |mesh| pair(mesh, "http1")).await;
    ask(rows, "pair of HTTP/2", |mesh| pair(mesh, "http2")).await;
}

/// The client asks twice, on two connections. `hangs_up`: the upstream closes its connection after its bytes.
async fn answer(
    (method, hangs_up): (&str, bool),
    rows: &[Answered<'_>],
    name: &str,
    start: impl Fn(&Mesh) -> Chain,
) {
    let mut wrong = String::new();
    for (sent, expected, then) in rows {
        let mesh = Mesh::default();
        let script = (*sent).to_owned();
        let backend = mesh.scripted(A, move |mut peer: Peer, _| {
            let script = script.clone();
            async move {
                while read(&mut peer, false).await.is_some() {
                    drop(peer.try_send(&script).await);
                    if hangs_up {
                        return;
                    }
                }
            }
        });
        let (first, _second) = start(&mesh);
        let mut seen = Vec::new();
        for _ in 0..2 {
            let mut client = first.client().await;
            client.send(format!("{method} / HTTP/1.1\r\nhost: orders\r\nte: trailers\r\n\r\n")).await;
            let answer = timeout(secs(1), read(&mut client, method == "HEAD")).await;
            seen.push(answer.ok().flatten().unwrap_or_else(|| "nothing".to_owned()));
            settle().await;
        }
        let used = if backend.connections() == 1 { "reused" } else { "closed" };
        if seen != [*expected; 2] || used != *then {
            wrong += &format!("{sent:?}\n  {seen:?}, {used}\n  and not {expected:?} twice, {then}\n");
        }
    }
    assert!(wrong.is_empty(), "{name}:\n{wrong}");
}

async fn answer_everywhere(method: &str, hangs_up: bool, rows: &[Answered<'_>]) {
    let how = (method, hangs_up);
    answer(how, rows, "outbound", caller).await;
    answer(how, rows, "inbound", inbound).await;
    answer(how, rows, "pair of HTTP/1", |mesh| pair(mesh, "http1")).await;
    answer(how, rows, "pair of HTTP/2", |mesh| pair(mesh, "http2")).await;
}
