//! Measures the cost of a head: run `cargo bench -p pillion-http1 --bench head -- NAME CALLS` in callgrind with two
//! numbers of calls, and take the difference. Without a name it prints the nanoseconds of each case.

use std::hint::black_box;
use std::time::Instant;

use http::{Method, StatusCode};
use pillion_http1::{
    Client, Fields, FromClient, FromUpstream, Known, Length, Limits, Server, remove_hop_by_hop,
};

const REQUEST: &str = "GET /api/v1/orders?page=2&size=50 HTTP/1.1\r\nHost: orders.shop.svc.cluster.local\r\n\
    User-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\nX-Request-Id: 7f3c1f2e-8a51-4d4c-9d3e-5c0b6f1a2b3c\r\n\
    X-Forwarded-Proto: http\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nX-Tenant: blue\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nDate: Fri, 27 Nov 2026 10:00:00 GMT\r\nServer: origin\r\nContent-Type: application/json\r\n\
    Content-Length: 1024\r\nCache-Control: no-store\r\nETag: \"5e1f-58\"\r\nVary: accept-encoding\r\nX-Took: 3\r\n\r\n";

/// A request as a load generator sends it: four fields.
const SHORT: &str = "GET /small HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: load/1.0\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n";
/// A request with eight fields of 25 bytes.
const EIGHT: &str = "GET /api/orders HTTP/1.1\r\nHost: orders:8080\r\nUser-Agent: curl/8.1\r\nAccept: application/json\r\n\
    Content-Type: text/x\r\nX-Request-Id: 7f3c1f2e8a51\r\nAccept-Encoding: gzip\r\nX-Tenant: blue\r\nPriority: u=1, i\r\n\r\n";

type Call = Box<dyn FnMut()>;

fn request() -> pillion_http1::RequestHead {
    match Server::new().read(REQUEST.as_bytes(), &Limits::default()) {
        Ok((_, FromClient::Head(head))) => head,
        other => unreachable!("{other:?}"),
    }
}

fn answer() -> pillion_http1::ResponseHead {
    let mut client = Client::new();
    let mut out = Vec::new();
    client.write_head(&Method::GET, "/", &Fields::default(), Length::Empty, &mut out).expect("a request");
    match client.read(ANSWER.as_bytes(), &Limits::default()) {
        Ok((_, FromUpstream::Head(head))) => head,
        other => unreachable!("{other:?}"),
    }
}

/// The position of a part in the request.
fn place(part: &[u8]) -> std::ops::Range<usize> {
    let start = part.as_ptr() as usize - REQUEST.as_ptr() as usize;
    start..start + part.len()
}

fn calls() -> Vec<(&'static str, Call)> {
    let limits = Limits::default();
    let (asked, answered) = (request(), answer());
    let (for_map, map) = (asked.fields.clone(), asked.fields.to_map().expect("a map"));
    let mut out = Vec::with_capacity(4096);
    let mut answer_out = Vec::with_capacity(4096);
    let mut edited_out = Vec::with_capacity(4096);
    let mut client = Client::new();
    client.write_head(&Method::GET, "/", &Fields::default(), Length::Empty, &mut out).expect("a request");
    let empty = Fields::default();
    vec![
        (
            "nothing",
            Box::new(|| {
                black_box(0);
            }),
        ),
        (
            "read a request",
            Box::new(move || {
                drop(black_box(Server::new().read(black_box(REQUEST.as_bytes()), &limits)));
            }),
        ),
        (
            "read a short request",
            Box::new(move || {
                drop(black_box(Server::new().read(black_box(SHORT.as_bytes()), &limits)));
            }),
        ),
        (
            "read eight short fields",
            Box::new(move || {
                drop(black_box(Server::new().read(black_box(EIGHT.as_bytes()), &limits)));
            }),
        ),
        (
            "read an answer",
            Box::new(move || {
                let mut client = client;
                drop(black_box(client.read(black_box(ANSWER.as_bytes()), &limits)));
            }),
        ),
        (
            "write a request",
            Box::new(move || {
                out.clear();
                let wrote = Client::new().write_head(
                    &asked.method,
                    "/api/v1/orders?page=2&size=50",
                    &asked.fields,
                    Length::Empty,
                    &mut out,
                );
                black_box(wrote).expect("a request");
            }),
        ),
        (
            "write an answer",
            Box::new(move || {
                answer_out.clear();
                let mut server = Server::new();
                let (_, _head) = server.read(b"GET / HTTP/1.0\r\n\r\n", &limits).expect("a request");
                let wrote = server.write_head(
                    StatusCode::OK,
                    Some(answered.reason()),
                    &answered.fields,
                    answered.length,
                    &mut answer_out,
                );
                black_box(wrote).expect("an answer");
            }),
        ),
        (
            "write an answer: its request alone",
            Box::new(move || {
                drop(black_box(Server::new().read(b"GET / HTTP/1.0\r\n\r\n", &limits)));
            }),
        ),
        (
            "read, edit and write a request",
            Box::new(move || {
                edited_out.clear();
                let Ok((_, FromClient::Head(mut head))) =
                    Server::new().read(black_box(REQUEST.as_bytes()), &limits)
                else {
                    return;
                };
                remove_hop_by_hop(&mut head.fields).expect("fields");
                head.fields.set(Known::XRequestId, b"7f3c1f2e-8a51-4d4c-9d3e-5c0b6f1a2b3d").expect("a value");
                head.fields.set(Known::XForwardedProto, b"https").expect("a value");
                head.fields.append(Known::XPillionVia, b"outbound").expect("a value");
                head.fields.append(Known::XPillionAttempt, b"1").expect("a value");
                let wrote = Client::new().write_head(
                    &head.method,
                    head.target(),
                    &head.fields,
                    head.length,
                    &mut edited_out,
                );
                black_box(wrote).expect("a request");
            }),
        ),
        ("fields to a map", Box::new(move || drop(black_box(for_map.to_map())))),
        ("a map to fields", Box::new(move || drop(black_box(Fields::of_map(&map))))),
        (
            "hyper's way: httparse and a map",
            Box::new(move || {
                let mut room = [const { std::mem::MaybeUninit::uninit() }; 100];
                let mut parsed = httparse::Request::new(&mut []);
                let whole = parsed
                    .parse_with_uninit_headers(black_box(REQUEST.as_bytes()), &mut room)
                    .expect("a head");
                let text = bytes::Bytes::copy_from_slice(&REQUEST.as_bytes()[..whole.unwrap()]);
                let mut map = http::HeaderMap::with_capacity(parsed.headers.len());
                for header in parsed.headers.iter() {
                    let name = http::HeaderName::from_bytes(header.name.as_bytes()).expect("a name");
                    map.append(
                        name,
                        http::HeaderValue::from_maybe_shared(text.slice(place(header.value)))
                            .expect("a value"),
                    );
                }
                let target = text.slice(place(parsed.path.expect("a target").as_bytes()));
                let uri = http::Uri::from_maybe_shared(target).expect("a target");
                drop(black_box((map, uri, Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()))));
            }),
        ),
        ("no fields", Box::new(move || drop(black_box(empty.clone())))),
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let count = arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(200_000_u32);
    for (name, mut call) in calls() {
        if arguments.first().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let start = Instant::now();
        (0..count).for_each(|_| call());
        println!("{name:40} {:8.1} ns", start.elapsed().as_nanos() as f64 / f64::from(count));
    }
}
