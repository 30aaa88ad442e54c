//! Writes a line of the access log by a template.
//!
//! An absent value is `-`, as in Envoy. Values come from peers: quotes, backslashes, the byte that ends the field, and
//! everything that is not printable ASCII become `\xHH`, as nginx writes it. So no value ends its field or its line.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pillion_model::access_format::{Choice, Operator, Part, Plain, Source, Template, TimePart};
use pillion_model::authorization::ExtAuthz;

use super::super::flags;
use super::super::json::civil;
use super::super::propagation::TraceId;
use super::{FROM_CACHE, Further, KeptHeaders, NAME_BYTES, Record};

/// The capacity that a thread's line keeps: nearly every line is shorter.
const KEPT: usize = 4 << 10;

/// The statuses of gRPC from 0, as Envoy names them.
const GRPC: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Appends the line with its line feed.
pub(super) fn write(template: &Template, record: &Record<'_>, further: &Further<'_>, line: &mut Vec<u8>) {
    line.shrink_to(KEPT);
    for part in &template.parts {
        match part {
            Part::Literal(text) => line.extend_from_slice(text.as_bytes()),
            Part::Value { operator, end } => {
                let mut field = Field { line, end: *end };
                match operator {
                    Operator::StartTime(parts) => write_time(parts, record.time, field.line),
                    Operator::Request(choice) => {
                        field.choice(choice, |source| request(source, record, further))
                    }
                    Operator::Response(choice) => field.choice(choice, |source| response(source, further)),
                    Operator::Plain(plain) => field.plain(*plain, record, further),
                }
            }
        }
    }
    line.push(b'\n');
}

/// A value of the request. Empty: it has none.
fn request<'a>(source: Source, record: &Record<'a>, further: &Further<'a>) -> &'a [u8] {
    match source {
        Source::Method => record.request.method.as_bytes(),
        Source::Path => record.request.path,
        Source::Authority => record.request.host,
        Source::RequestId => record.request.request_id,
        Source::Header(at) => header(further.headers.map(|kept| &*kept.request), at),
    }
}

/// A value of the answer. Empty: it has none.
fn response<'a>(source: Source, further: &Further<'a>) -> &'a [u8] {
    match source {
        Source::Header(at) => header(further.headers.map(|kept: &KeptHeaders| &*kept.answer), at),
        Source::Method | Source::Path | Source::Authority | Source::RequestId => &[],
    }
}

fn header(values: Option<&[Box<[u8]>]>, at: usize) -> &[u8] {
    values.and_then(|values| values.get(at)).map_or(&[], |value| value)
}

/// A value that is being written. `end`: the byte that ends its field.
struct Field<'l> {
    line: &'l mut Vec<u8>,
    end: u8,
}

impl Field<'_> {
    fn choice<'a>(&mut self, choice: &Choice, value_of: impl Fn(Source) -> &'a [u8]) {
        let chosen = Some(value_of(choice.first)).filter(|value| !value.is_empty());
        let value = chosen.or_else(|| choice.other.map(&value_of)).unwrap_or_default();
        self.text(value, choice.most);
    }

    fn plain(&mut self, plain: Plain, record: &Record<'_>, further: &Further<'_>) {
        let is_request = record.is_request();
        match plain {
            Plain::Protocol => self.word(if is_request { record.protocol } else { "" }),
            Plain::ResponseCode => self.number(is_request.then(|| record.request.status.into())),
            Plain::ResponseCodeDetails => self.word(details(record)),
            Plain::ResponseFlags => {
                let is_external = || record.rule == ExtAuthz::NAME;
                self.word(flags::flag(record.reason, is_external, is_request));
            }
            Plain::BytesReceived => self.number(Some(record.bytes_in)),
            Plain::BytesSent => self.number(Some(record.bytes_out)),
            Plain::Duration => self.millis(Some(record.duration)),
            Plain::RequestDuration => self.millis(further.request_duration),
            Plain::ResponseDuration => self.millis(further.response_duration),
            Plain::ResponseTxDuration => {
                self.millis(further.response_duration.map(|until| record.duration.saturating_sub(until)));
            }
            Plain::UpstreamHost => self.address(record.upstream),
            Plain::UpstreamCluster => self.text(record.service.as_bytes(), NAME_BYTES),
            Plain::UpstreamRequestAttemptCount => self.number(Some(record.attempts.into())),
            Plain::RouteName => self.text(record.route.as_bytes(), NAME_BYTES),
            Plain::DownstreamRemoteAddress => self.address(record.downstream),
            Plain::DownstreamRemoteAddressWithoutPort => self.host(record.downstream),
            Plain::DownstreamLocalAddress => self.address(further.local),
            Plain::DownstreamPeerUriSan => self.text(record.peer.as_bytes(), NAME_BYTES),
            Plain::TraceId => {
                let digits = record.request.trace.map(TraceId::text);
                self.text(digits.as_ref().map_or(&[], |digits| digits), TraceId::DIGITS);
            }
            Plain::GrpcStatus => self.grpc(record.request.grpc_status),
            Plain::GrpcStatusNumber => self.number(record.request.grpc_status.map(Into::into)),
        }
    }

    /// Writes at most `most` bytes of `value`; `-` where it is empty.
    fn text(&mut self, value: &[u8], most: usize) {
        let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        for byte in value.iter().copied().take(most) {
            if is_plain(byte) && byte != self.end {
                self.line.push(byte);
            } else {
                self.written(format_args!("\\x{byte:02X}"));
            }
        }
        if value.is_empty() {
            self.line.push(b'-');
        }
    }

    /// Writes a word of this program; `-` where it is empty.
    fn word(&mut self, word: &'static str) {
        self.line.extend_from_slice(if word.is_empty() { "-" } else { word }.as_bytes());
    }

    fn number(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.written(format_args!("{number}")),
            None => self.word(""),
        }
    }

    fn millis(&mut self, duration: Option<Duration>) {
        self.number(duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)));
    }

    fn address(&mut self, address: Option<SocketAddr>) {
        match address {
            Some(address) => self.written(format_args!("{address}")),
            None => self.word(""),
        }
    }

    fn host(&mut self, address: Option<SocketAddr>) {
        match address {
            Some(address) => self.written(format_args!("{}", address.ip())),
            None => self.word(""),
        }
    }

    /// A number that gRPC does not know is written as it is.
    fn grpc(&mut self, status: Option<u8>) {
        match status.and_then(|status| GRPC.get(usize::from(status))) {
            Some(name) => self.word(name),
            None => self.number(status.map(Into::into)),
        }
    }

    fn written(&mut self, text: std::fmt::Arguments<'_>) {
        self.line.write_fmt(text).unwrap_or_default(); // writing into a vector cannot fail
    }
}

/// How the answer came about: the CODE, or who answered.
fn details(record: &Record<'_>) -> &'static str {
    match record.reason {
        Some(reason) => reason.code(),
        None if !record.is_request() || record.request.status == 0 => "",
        None if record.detail == FROM_CACHE => "response_from_cache_filter",
        None if record.attempts == 0 => "direct_response",
        None => "via_upstream",
    }
}

fn write_time(parts: &[TimePart], time: SystemTime, line: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let two = |line: &mut Vec<u8>, number: u64| write!(line, "{number:02}");
    for part in parts {
        let written = match part {
            TimePart::Literal(text) => line.write_all(text.as_bytes()),
            TimePart::Year => write!(line, "{year:04}"),
            TimePart::Month => two(line, month),
            TimePart::MonthName => line.write_all(month_name(month).as_bytes()),
            TimePart::Day => two(line, day),
            TimePart::Hour => two(line, seconds / 3600 % 24),
            TimePart::Minute => two(line, seconds / 60 % 60),
            TimePart::Second => two(line, seconds % 60),
            TimePart::Fraction(digits) => {
                let digits = usize::from(*digits).min(9);
                let nanos = format!("{:09}", since.subsec_nanos());
                line.write_all(nanos.get(..digits).unwrap_or(&nanos).as_bytes())
            }
            TimePart::Epoch => write!(line, "{seconds}"),
        };
        written.unwrap_or_default(); // writing into a vector cannot fail
    }
}

fn month_name(month: u64) -> &'static str {
    usize::try_from(month).ok().and_then(|month| MONTHS.get(month.wrapping_sub(1))).copied().unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use pillion_model::{Direction, Reason};
    use proptest::prelude::*;

    use super::super::tests::record;
    use super::super::{OPAQUE, RequestRecord};
    use super::*;

    fn line(template: &str, record: &Record<'_>, further: &Further<'_>) -> String {
        let template = match template {
            "text" => Template::combined(),
            other => Template::parse(other),
        };
        let mut line = Vec::new();
        write(&template.expect("a template"), record, further, &mut line);
        String::from_utf8(line).expect("text")
    }

    fn written(template: &str, record: &Record<'_>) -> String {
        let line = line(template, record, &Further::default());
        line.strip_suffix('\n').expect("a line feed").to_owned()
    }

    /// A request that an endpoint has answered.
    fn answered() -> Record<'static> {
        let request = RequestRecord { status: 200, grpc_status: None, ..record().request };
        Record { request, reason: None, detail: "", attempts: 2, ..record() }
    }

    #[test]
    fn text_is_the_combined_log_format_of_apache() {
        let headers = KeptHeaders {
            request: vec![Box::from(&b"http://a/\"b\""[..]), Box::from(&b"curl/8.0 (x; y)"[..])],
            answer: Vec::new(),
        };
        let further = Further { headers: Some(&headers), ..Further::default() };
        let time = UNIX_EPOCH + Duration::from_secs(951_782_400); // 29 February 2000
        let record = Record { time, peer: "spiffe://a/b", ..answered() };
        assert_eq!(
            line("text", &record, &further),
            "::1 - spiffe://a/b [29/Feb/2000:00:00:00 +0000] \"GET /a?b=\\x22c\\x22 HTTP/2\" 200 2 \
             \"http://a/\\x22b\\x22\" \"curl/8.0 (x; y)\"\n"
        );
    }

    #[test]
    fn an_opaque_connection_has_the_line_of_a_request_without_one() {
        let request = RequestRecord::default();
        let record = Record { protocol: OPAQUE, request, reason: None, ..record() };
        assert_eq!(
            written("text", &record),
            "::1 - - [01/Jan/1970:00:00:00 +0000] \"- - -\" - 2 \"-\" \"-\""
        );
        assert_eq!(written("%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %PROTOCOL%", &record), "- - -");
        let late = Record { reason: Some(Reason::MaxDuration), ..record };
        assert_eq!(written("%RESPONSE_FLAGS%", &late), "DT");
    }

    #[test]
    fn every_operator_has_its_value() {
        let headers = KeptHeaders {
            request: vec![Box::from(&b"one"[..]), Box::default()],
            answer: vec![Box::from(&b"two"[..])],
        };
        let further = Further {
            headers: Some(&headers),
            local: "10.0.0.9:80".parse().ok(),
            request_duration: Some(Duration::from_micros(1_999)),
            response_duration: Some(Duration::from_millis(5)),
        };
        let trace = TraceId::read(&[b'7'; 32]);
        let request = RequestRecord { grpc_status: Some(5), trace, ..answered().request };
        let record = Record {
            request,
            time: UNIX_EPOCH + Duration::new(1_700_000_000, 12_345_678),
            upstream: "10.0.0.1:8080".parse().ok(),
            duration: Duration::from_millis(12),
            route: "r",
            ..answered()
        };
        for (template, expected) in [
            ("%START_TIME%", "2023-11-14T22:13:20.012Z"),
            (
                "%START_TIME(%F %T.%6f %E3S %s %z %Z%%)%",
                "2023-11-14 22:13:20.012345 20.012 1700000000 +0000 UTC%",
            ),
            ("%REQ(:METHOD)% %REQ(:PATH):4% %REQ(:AUTHORITY)%", "GET /a?b billing.local:80"),
            ("%REQ(X-ONE)% %REQ(X-ONE):2% %REQ(X-NONE)% %REQ(X-NONE?X-REQUEST-ID)%", "one on - 7"),
            ("%RESP(X-TWO)% %RESP(X-TWO?X-THREE)%", "two two"),
            ("%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%", "200 via_upstream -"),
            ("%BYTES_RECEIVED% %BYTES_SENT%", "1 2"),
            ("%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "12 1 5 7"),
            ("%UPSTREAM_HOST% %UPSTREAM_CLUSTER% %ROUTE_NAME%", "10.0.0.1:8080 billing r"),
            ("%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "2"),
            ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "[::1]:5 ::1"),
            ("%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_PEER_URI_SAN%", "10.0.0.9:80 -"),
            ("%TRACE_ID%", "77777777777777777777777777777777"),
            ("%GRPC_STATUS% %GRPC_STATUS_NUMBER% %PROTOCOL% 100%%", "NotFound 5 HTTP/2 100%"),
        ] {
            assert_eq!(line(template, &record, &further).trim_end(), expected, "{template}");
        }
    }

    #[test]
    fn a_reason_has_its_code_and_the_flag_of_envoy() {
        let of = |reason, rule| {
            let record = Record { reason: Some(reason), rule, ..record() };
            written("%RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%", &record)
        };
        assert_eq!(of(Reason::NoEndpoints, ""), "no_endpoints UH");
        assert_eq!(of(Reason::MaxDuration, ""), "max_duration UMSDR");
        assert_eq!(of(Reason::AuthzDenied, "default"), "authz_denied -");
        assert_eq!(of(Reason::AuthzDenied, ExtAuthz::NAME), "authz_denied UAEX");
        let own = Record { attempts: 0, ..answered() };
        assert_eq!(written("%RESPONSE_CODE_DETAILS%", &own), "direct_response");
        let none = Record { request: RequestRecord { status: 0, ..own.request }, ..own };
        assert_eq!(written("%RESPONSE_CODE_DETAILS% %RESPONSE_CODE%", &none), "- 0");
    }

    /// The page has a table of the operators and one of the flags.
    #[test]
    fn the_documents_list_every_operator_and_every_flag() {
        let page = include_str!("../../../../docs/logs.md");
        let first = |line: &'static str| line.strip_prefix("| `")?.split('`').next();
        let operators: Vec<&str> = page
            .lines()
            .filter_map(first)
            .filter_map(|cell| cell.strip_prefix('%')?.split(['%', '(']).next())
            .collect();
        assert_eq!(operators, Template::operators().collect::<Vec<_>>());
        let codes = |reasons: &[Reason]| {
            let mut codes: Vec<String> =
                reasons.iter().map(|reason| format!("`{}`", reason.code())).collect();
            codes.dedup();
            codes.join(", ")
        };
        for (flag, reasons) in flags::FLAGS {
            let row = format!("| `{flag}` | {} |", codes(reasons));
            assert!(page.lines().any(|line| line == row), "{row}");
        }
        assert!(
            [flags::BY_EXTERNAL, flags::TOO_LONG].iter().all(|flag| page.contains(&format!("| `{flag}` |")))
        );
    }

    /// Reads a line of the combined log format back, as its parsers do: fields end with a blank, those in quotes with a
    /// quote, that of the time with a bracket; then `\xHH` becomes the byte.
    fn combined(line: &str) -> Option<[Vec<u8>; 11]> {
        let (host, rest) = line.split_once(' ')?;
        let (ident, rest) = rest.split_once(' ')?;
        let (user, rest) = rest.split_once(" [")?;
        let (time, rest) = rest.split_once("] \"")?;
        let (request, rest) = rest.split_once("\" ")?;
        let [method, path, protocol] = request.split(' ').collect::<Vec<_>>()[..] else { return None };
        let (status, rest) = rest.split_once(' ')?;
        let (bytes, rest) = rest.split_once(" \"")?;
        let (referer, rest) = rest.split_once("\" \"")?;
        let agent = rest.strip_suffix("\"\n").filter(|agent| !agent.contains('"'))?;
        let all = [host, ident, user, time, method, path, protocol, status, bytes, referer, agent];
        Some(all.map(unescaped))
    }

    fn unescaped(field: &str) -> Vec<u8> {
        let mut parts = field.split("\\x");
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            let (digits, rest) = part.split_at(2);
            bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
            bytes.extend_from_slice(rest.as_bytes());
        }
        bytes
    }

    /// What a parser reads of a value.
    fn shown(value: &[u8], most: usize) -> Vec<u8> {
        let cut = value.get(..most).unwrap_or(value);
        if cut.is_empty() { b"-".to_vec() } else { cut.to_vec() }
    }

    /// Bytes that are likely to break a line.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![any::<u8>(), prop::sample::select(&b"\"\\ \n\r\x1b[]-x'|,;%\x7f\x00"[..])];
        prop::collection::vec(byte, 0..1100)
    }

    proptest! {
        #[test]
        fn a_parser_of_the_combined_format_reads_every_field_back(
            method: String, peer: String, path in hostile(), referer in hostile(), agent in hostile(),
            status in 100..600_u16, bytes_out: u64,
        ) {
            let request = RequestRecord { method: &method, path: &path, status, ..answered().request };
            let record = Record { request, peer: &peer, bytes_out, ..answered() };
            let kept = |value: &[u8]| KeptHeaders::copied([Some(value)].into_iter()).remove(0);
            let headers = KeptHeaders { request: vec![kept(&referer), kept(&agent)], answer: Vec::new() };
            let line = line("text", &record, &Further { headers: Some(&headers), ..Further::default() });
            prop_assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
            prop_assert_eq!(line.matches('\n').count(), 1);
            let [host, ident, user, time, read_method, read_path, protocol, read_status, bytes, read_referer,
                read_agent] = combined(&line).expect("the combined format");
            prop_assert_eq!((&*host, &*ident, &*time), (&b"::1"[..], &b"-"[..], &b"01/Jan/1970:00:00:00 +0000"[..]));
            prop_assert_eq!(user, shown(peer.as_bytes(), NAME_BYTES));
            prop_assert_eq!(read_method, shown(method.as_bytes(), 1024));
            prop_assert_eq!(read_path, shown(&path, 1024));
            prop_assert_eq!(&*protocol, b"HTTP/2");
            prop_assert_eq!((read_status, bytes), (status.to_string().into_bytes(), bytes_out.to_string().into_bytes()));
            prop_assert_eq!(read_referer, shown(referer.trim_ascii(), 1024));
            prop_assert_eq!(read_agent, shown(agent.trim_ascii(), 1024));
        }

        #[test]
        fn no_value_ends_its_field_or_its_line_whatever_separates_the_fields(
            path in hostile(), host in hostile(), request_id in hostile(), mark in "[ \t!#$&'()*+,./:;<=>?@\\[\\]^_`{|}~-]",
        ) {
            let template =
                ["%REQ(:PATH)%", "%REQ(HOST)%", "%REQ(X-REQUEST-ID)%", "%PROTOCOL%"].join(&mark);
            let request = RequestRecord { path: &path, host: &host, request_id: &request_id, ..answered().request };
            let line = written(&template, &Record { request, direction: Direction::Inbound, ..answered() });
            prop_assert!(!line.contains(['\n', '\r', '\x1b']));
            // a dash stands for an absent value, too, and a slash in the protocol
            if !matches!(&*mark, "-" | "/") {
                let fields: Vec<Vec<u8>> = line.split(&*mark).map(unescaped).collect();
                let expected = [&path, &host, &request_id].map(|value| shown(value, 1024));
                prop_assert_eq!(fields.get(..3), Some(&expected[..]));
                prop_assert_eq!(fields.len(), 4);
            }
        }
    }
}
