//! What two sidecars tell each other once for an HTTP/2 connection, in `x-pillion-case`, because each custom field of a
//! request costs 500 to 1,000 instructions on either side.
//!
//! The sidecar that sends requests tells how the names of a request were spelled over HTTP/1, since HTTP/2 has lower case
//! alone. Its first request asks the other sidecar to keep three things (`;keep`): this spelling, the request's
//! `x-pillion-via`, and that a request without `x-forwarded-proto` came over plaintext HTTP. Its answer confirms that they
//! are kept, and asks in the same way to keep the spelling of answers.
//!
//! After that, a message without a field means: as was agreed. A message that differs says so itself, so no request is
//! taken for what another client has sent. Until the confirmation, and with a sidecar that does not know the field and
//! therefore never confirms, each request tells everything.
//!
//! Deliberately absent: the choice of peers that are believed. The callers read the field only from a verified sidecar,
//! because other programs pass headers of their own clients on.

use std::sync::OnceLock;

use http::{HeaderName, HeaderValue, Version};
use pillion_http1::{Known, Spelling, Value};

use crate::message::{Headers, RequestHead, ResponseHead};

/// The field that tells the spelling. It is not one of the names that `pillion_http1` knows, because it is rare.
pub const CASE: HeaderName = HeaderName::from_static("x-pillion-case");
/// 256 bytes for a kept `x-pillion-via`: twice as long as the entry of one sidecar may be.
const VIA_BYTES: usize = 256;
const KEEP: &[u8] = b";keep";
/// The value for a message that came over HTTP/2.
const OVER_HTTP2: &[u8] = b"2";

/// How the names of a message were spelled on the first connection on which it came.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Http1(Spelling),
    /// In lower case. An answer to such a request leaves over HTTP/2 too, so its spelling does not matter.
    Http2,
}

/// The content of a field.
struct Told {
    origin: Origin,
    is_kept: bool,
}

/// What the two sidecars of one HTTP/2 connection have agreed on. Each value is set once.
#[derive(Debug, Default)]
pub struct Agreed {
    /// What a request without the field means.
    requests: OnceLock<Kept>,
    /// The spelling of an answer without the field. At the sidecar that sends requests, a value also means that the other
    /// sidecar keeps `requests`.
    answers: OnceLock<Origin>,
}

/// What the first request of a connection asks to keep.
#[derive(Debug)]
struct Kept {
    origin: Origin,
    /// Its `x-pillion-via`; empty if it had none.
    via: Value,
}

/// What a request has said about its spelling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Asked {
    /// Nothing was agreed, or the request came over HTTP/2. Its answer has no field.
    #[default]
    Nothing,
    /// The request has no field, because it is spelled as agreed.
    AsAgreed,
    /// The request names its own spelling.
    Own,
    /// The request names its own spelling, and asks the other sidecar to keep it.
    ToKeep,
}

impl Kept {
    /// `via`: the field of the first request. A longer one than usual is not kept, and does not equal what is kept.
    fn new(origin: Origin, via: &[u8]) -> Self {
        let via = Value::of_text(if via.len() <= VIA_BYTES { via } else { b"" });
        Self { origin, via: via.unwrap_or_else(|_impossible| HeaderValue::from_static("").into()) }
    }
}

impl Origin {
    fn of(headers: &Headers, spelling: &Spelling) -> Self {
        match headers {
            Headers::Text(fields) => Self::Http1(Spelling::of(fields)),
            Headers::Map(_) if spelling.is_lower() => Self::Http2,
            Headers::Map(_) => Self::Http1(spelling.clone()),
        }
    }

    /// Whether this is the origin of these headers.
    fn fits(&self, headers: &Headers, spelling: &Spelling) -> bool {
        match (self, headers) {
            (Self::Http1(kept), Headers::Text(fields)) => kept.fits(fields),
            (Self::Http1(kept), Headers::Map(_)) => kept == spelling && !spelling.is_lower(),
            (Self::Http2, Headers::Map(_)) => spelling.is_lower(),
            (Self::Http2, Headers::Text(_)) => false,
        }
    }

    fn spelling(&self) -> Spelling {
        match self {
            Self::Http1(spelling) => spelling.clone(),
            Self::Http2 => Spelling::LOWER,
        }
    }

    fn to_field(&self, is_kept: bool) -> Option<HeaderValue> {
        let mut text = match self {
            Self::Http1(spelling) => spelling.to_text(),
            Self::Http2 => OVER_HTTP2.to_vec(),
        };
        text.extend_from_slice(if is_kept { KEEP } else { b"" });
        HeaderValue::from_bytes(&text).ok() // always: the text consists of names
    }
}

impl Told {
    /// Reads a field. `None`: it is malformed, and counts as absent.
    fn read(text: &[u8]) -> Option<Self> {
        let (text, is_kept) = match text.strip_suffix(KEEP) {
            Some(text) => (text, true),
            None => (text, false),
        };
        let origin = match text {
            OVER_HTTP2 => Origin::Http2,
            text => Origin::Http1(Spelling::of_text(text)?),
        };
        Some(Self { origin, is_kept })
    }
}

/// The sidecar that sends requests.
impl Agreed {
    /// What a request tells, and the field for it.
    pub fn ask(&self, head: &RequestHead) -> (Asked, Option<HeaderValue>) {
        let (headers, spelling) = (&head.headers, &head.spelling);
        let via = || headers.get(Known::XPillionVia).unwrap_or_default();
        let kept = self.requests.get_or_init(|| Kept::new(Origin::of(headers, spelling), via()));
        let Kept { origin, .. } = kept;
        let own = (!origin.fits(headers, spelling)).then(|| Origin::of(headers, spelling));
        match (own.filter(|own| own != origin), self.answers.get()) {
            (None, Some(_)) => (Asked::AsAgreed, None),
            (None, None) if via() == kept.via.as_bytes() => (Asked::ToKeep, origin.to_field(true)),
            (None, None) => (Asked::Own, origin.to_field(false)),
            (Some(own), _) => (Asked::Own, own.to_field(false)),
        }
    }

    /// `x-pillion-via` of the requests that have none, if the other sidecar keeps it.
    pub fn implied_via(&self) -> Option<&[u8]> {
        self.answers.get()?; // it keeps what it was told
        Some(self.requests.get()?.via.as_bytes())
    }

    /// How the names of an answer are spelled. `told`: its field.
    pub fn hear_answer(&self, asked: Asked, told: Option<&[u8]>) -> Spelling {
        let Some(text) = told else {
            let kept = self.answers.get().filter(|_| asked == Asked::AsAgreed);
            return kept.map(Origin::spelling).unwrap_or_default();
        };
        let Some(Told { origin, is_kept }) = Told::read(text) else { return Spelling::LOWER };
        let spelling = origin.spelling();
        if is_kept && asked == Asked::ToKeep {
            self.answers.get_or_init(|| origin);
        }
        spelling
    }
}

/// The sidecar that answers.
impl Agreed {
    /// How the names of a request are spelled, and what its answer owes. `told`: its field. `via`: its `x-pillion-via`.
    pub fn hear_request(&self, told: Option<&[u8]>, via: Option<&[u8]>) -> (Spelling, Asked) {
        let Some(text) = told else {
            return match self.requests.get().map(|kept| &kept.origin) {
                Some(Origin::Http1(spelling)) => (spelling.clone(), Asked::AsAgreed),
                Some(Origin::Http2) | None => (Spelling::LOWER, Asked::Nothing),
            };
        };
        let Some(Told { origin, is_kept }) = Told::read(text) else {
            return (Spelling::LOWER, Asked::Nothing);
        };
        let spelling = origin.spelling();
        let asked = match is_kept && self.keeps(&origin, via.unwrap_or_default()) {
            true => Asked::ToKeep,
            false if origin == Origin::Http2 => Asked::Nothing,
            false => Asked::Own,
        };
        (spelling, asked)
    }

    /// Keeps what the first request has told. Returns whether exactly this is kept.
    fn keeps(&self, origin: &Origin, via: &[u8]) -> bool {
        let kept = self.requests.get_or_init(|| Kept::new(origin.clone(), via));
        kept.origin == *origin && kept.via.as_bytes() == via
    }

    /// `x-pillion-via` of the requests that have none, once it is kept. These requests came over plaintext HTTP to the
    /// sidecar that sends them, if they do not say otherwise.
    pub fn kept_via(&self) -> Option<&Value> {
        self.requests.get().map(|kept| &kept.via)
    }

    /// The field of the answer to a request.
    pub fn answer(&self, asked: Asked, head: &ResponseHead) -> Option<HeaderValue> {
        if asked == Asked::Nothing {
            return None;
        }
        let (headers, spelling) = (&head.headers, &head.spelling);
        // An answer that the sidecar makes itself says nothing about those of its application.
        let is_own = head.version != Version::HTTP_2 && matches!(headers, Headers::Map(_));
        let kept = match asked {
            Asked::ToKeep if !is_own => Some(self.answers.get_or_init(|| Origin::of(headers, spelling))),
            _ => self.answers.get(),
        };
        let is_kept = kept.is_some_and(|kept| kept.fits(headers, spelling));
        match (asked, is_kept) {
            (Asked::AsAgreed, true) => None,
            _ => Origin::of(headers, spelling).to_field(asked == Asked::ToKeep && is_kept && !is_own),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, StatusCode, Uri};
    use pillion_http1::{Client, Fields, FromUpstream, Length, Limits, Lines, Server};
    use proptest::prelude::*;

    use super::*;
    use crate::message::Response;

    /// Names as applications write them over HTTP/1; `None`: a message of HTTP/2.
    const HEADS: [Option<&[&str]>; 6] = [
        Some(&["Accept", "X-Own", "traceparent"]),
        Some(&["accept", "x-own"]),
        Some(&["Accept", "user-agent"]),
        Some(&["SOAPAction", "X-API-Key", "Accept"]),
        Some(&["ACCEPT"]),
        None,
    ];

    fn headers(names: Option<&[&str]>) -> Headers {
        let Some(names) = names else { return Headers::Map(HeaderMap::new()) };
        let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
        for name in names {
            text.extend([name.as_bytes(), b": 1\r\n"].concat());
        }
        text.extend(b"\r\n");
        let mut client = Client::new();
        client.write_head(&Method::GET, "/", &Fields::default(), Length::Empty, &mut Vec::new()).unwrap();
        match client.read(&text, &Limits::default()).unwrap().1 {
            FromUpstream::Head(head) => Headers::Text(head.fields),
            _ => unreachable!("a whole head"),
        }
    }

    fn request(names: Option<&[&str]>) -> RequestHead {
        let (method, uri) = (Method::GET, Uri::from_static("/"));
        let (version, headers) = (Version::HTTP_11, headers(names));
        RequestHead { method, uri, version, headers, spelling: Spelling::LOWER, protocol: None }
    }

    fn answer(names: Option<&[&str]>) -> Box<ResponseHead> {
        let mut response = Response::new(StatusCode::OK, ());
        response.head_mut().version = if names.is_some() { Version::HTTP_11 } else { Version::HTTP_2 };
        *response.headers_mut() = headers(names);
        response.into_parts().0
    }

    /// The names as they are written over HTTP/1 after HTTP/2 has carried them.
    fn written(names: &[&str], spelling: &Spelling) -> Vec<String> {
        let mut map = HeaderMap::new();
        for name in names {
            map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("1"));
        }
        let (mut server, mut out) = (Server::new(), Vec::new());
        server.read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &Limits::default()).unwrap();
        let lines = Lines::Map(&map, spelling);
        server.write_head(StatusCode::OK, None, lines, Length::Known(0), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let names = text.lines().skip(1).filter_map(|line| Some(line.split_once(": 1")?.0.to_owned()));
        names.collect()
    }

    struct Exchange {
        names: [Option<&'static [&'static str]>; 2],
        asked: Asked,
        told: Option<HeaderValue>,
        owes: Asked,
        reply: Option<HeaderValue>,
    }

    /// Two sidecars on one connection; requests arrive in their order, and answers in any order.
    #[derive(Default)]
    struct Wire {
        caller: Agreed,
        application: Agreed,
        sent: Vec<Exchange>,
        came: Vec<Exchange>,
        answered: Vec<Exchange>,
    }

    impl Wire {
        fn send(&mut self, names: [Option<&'static [&'static str]>; 2]) {
            let (asked, told) = self.caller.ask(&request(names[0]));
            self.sent.push(Exchange { names, asked, told, owes: Asked::Nothing, reply: None });
        }

        fn arrive(&mut self) {
            if self.sent.is_empty() {
                return;
            }
            let mut exchange = self.sent.remove(0);
            let (spelling, owes) =
                self.application.hear_request(exchange.told.as_ref().map(HeaderValue::as_bytes), None);
            exchange.owes = owes;
            match exchange.names[0] {
                Some(names) => assert_eq!(written(names, &spelling), names),
                None => assert!(spelling.is_lower()),
            }
            self.came.push(exchange);
        }

        fn answer(&mut self, nth: usize) {
            if nth < self.came.len() {
                let mut exchange = self.came.remove(nth);
                exchange.reply = self.application.answer(exchange.owes, &answer(exchange.names[1]));
                self.answered.push(exchange);
            }
        }

        fn hear(&mut self, nth: usize) {
            if nth >= self.answered.len() {
                return;
            }
            let exchange = self.answered.remove(nth);
            let reply = exchange.reply.as_ref().map(HeaderValue::as_bytes);
            let spelling = self.caller.hear_answer(exchange.asked, reply);
            match exchange.names {
                [Some(_), Some(names)] => assert_eq!(written(names, &spelling), names),
                [Some(_), None] => assert!(spelling.is_lower()),
                [None, _] => {} // the answer leaves over HTTP/2
            }
        }

        fn exchange(&mut self, request: usize, answer: usize) -> (bool, bool) {
            self.send([HEADS[request], HEADS[answer]]);
            self.arrive();
            self.answer(0);
            let told = self.answered[0].told.is_some();
            let replied = self.answered[0].reply.is_some();
            self.hear(0);
            (told, replied)
        }
    }

    #[test]
    fn once_both_spellings_are_kept_only_others_are_told() {
        for (first, names) in HEADS.iter().enumerate() {
            let mut wire = Wire::default();
            assert_eq!(wire.exchange(first, 0), (true, true));
            assert_eq!(wire.exchange(first, 0), (false, false));
            let other = (first + 1) % HEADS.len();
            let is_over_http2 = HEADS[other].is_none();
            assert_eq!(wire.exchange(other, 0), (true, !is_over_http2), "{first}");
            assert_eq!(wire.exchange(first, 1), (false, names.is_some()), "{first}");
            assert_eq!(wire.exchange(first, 0), (false, false));
        }
    }

    #[test]
    fn a_sidecar_that_does_not_know_the_field_is_told_each_time_and_its_answers_are_in_lower_case() {
        let caller = Agreed::default();
        for _ in 0..3 {
            let (asked, told) = caller.ask(&request(HEADS[0]));
            assert_eq!(told.unwrap(), "t;keep");
            assert!(caller.hear_answer(asked, None).is_lower());
        }
        let application = Agreed::default();
        assert_eq!(application.hear_request(None, None), (Spelling::LOWER, Asked::Nothing));
        assert_eq!(application.answer(Asked::Nothing, &answer(HEADS[0])), None);
    }

    #[test]
    fn the_via_of_the_first_request_is_implied_once_it_is_kept_and_another_one_is_never_kept() {
        let with_via = |via: &str| {
            let mut head = request(HEADS[0]);
            head.headers.set(Known::XPillionVia, &HeaderValue::from_str(via).unwrap());
            head
        };
        let (caller, application) = (Agreed::default(), Agreed::default());
        let first = with_via("a-o=1");
        let (asked, told) = caller.ask(&first);
        assert_eq!((asked, caller.implied_via()), (Asked::ToKeep, None));
        assert_eq!(
            caller.ask(&with_via("a-o=2,b-i=1")).0,
            Asked::Own,
            "only what is kept is asked to be kept"
        );
        let (_, owes) = application.hear_request(told.as_ref().map(HeaderValue::as_bytes), Some(b"a-o=1"));
        assert_eq!(application.hear_request(Some(b"t;keep"), Some(b"other-o=1")).1, Asked::Own);
        let reply = application.answer(owes, &answer(HEADS[0])).unwrap();
        caller.hear_answer(asked, Some(reply.as_bytes()));
        assert_eq!(caller.implied_via(), Some(&b"a-o=1"[..]));
        assert_eq!(application.kept_via().map(Value::as_bytes), Some(&b"a-o=1"[..]));
        let long = Agreed::default();
        let via = "x".repeat(VIA_BYTES + 1);
        assert_eq!(long.hear_request(Some(b"t;keep"), Some(via.as_bytes())).1, Asked::Own);
    }

    #[test]
    fn a_malformed_field_counts_as_absent_and_agrees_on_nothing() {
        let application = Agreed::default();
        for text in ["", ";keep", "t,a b;keep", "T;keep", "2,a;keep", "t,;keep", "t;keep;keep", "t;kee"] {
            assert_eq!(
                application.hear_request(Some(text.as_bytes()), None),
                (Spelling::LOWER, Asked::Nothing),
                "{text}"
            );
            assert!(Agreed::default().hear_answer(Asked::ToKeep, Some(text.as_bytes())).is_lower());
        }
        assert_eq!(application.hear_request(None, None), (Spelling::LOWER, Asked::Nothing));
    }

    #[test]
    fn an_answer_of_the_sidecar_itself_decides_nothing_about_later_ones() {
        let application = Agreed::default();
        let (_, owes) = application.hear_request(Some(b"t;keep"), None);
        let own = Response::new(StatusCode::BAD_GATEWAY, ()).into_parts().0;
        assert_eq!(application.answer(owes, &own).unwrap(), "2");
        assert_eq!(application.answer(owes, &answer(HEADS[0])).unwrap(), "t;keep");
        assert_eq!(application.answer(Asked::AsAgreed, &own).unwrap(), "2");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_the_order_every_spelling_survives(
            steps in proptest::collection::vec((0..6_usize, 0..6_usize, 0..6_usize, 0..3_usize), 1..60),
        ) {
            let mut wire = Wire::default();
            for (step, request, answer, nth) in steps {
                match step {
                    0 | 1 => wire.send([HEADS[request], HEADS[answer]]),
                    2 | 3 => wire.arrive(),
                    4 => wire.answer(nth),
                    _ => wire.hear(nth),
                }
            }
        }
    }
}
