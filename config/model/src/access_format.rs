//! The form of a line of the access log: JSON, or a template with the operators of Envoy.
//!
//! A template is read once, when the file is loaded. A line is then written from its [`Part`]s.

/// The form of the lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    /// `text`, or a template of the file.
    Template(Template),
}

/// A template, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    spelling: String,
    pub parts: Vec<Part>,
    /// The headers of a request that the parts name, in lower case.
    pub request_headers: Vec<String>,
    /// The headers of an answer that the parts name, in lower case.
    pub answer_headers: Vec<String>,
}

/// One part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Literal(String),
    Value {
        operator: Operator,
        /// The first byte of the literal that follows. It ends the field, so the value must not have it unescaped.
        end: u8,
    },
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    StartTime(Vec<TimePart>),
    Request(Choice),
    Response(Choice),
    Plain(Plain),
}

/// The first of one or two sources that has a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub first: Source,
    pub other: Option<Source>,
    /// The most bytes of the value.
    pub most: usize,
}

/// Where a value of a request or of an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Method,
    /// With the query.
    Path,
    Authority,
    RequestId,
    /// The number of the header in the template's list.
    Header(usize),
}

/// The operators without an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    BytesReceived,
    BytesSent,
    Duration,
    RequestDuration,
    ResponseDuration,
    ResponseTxDuration,
    UpstreamHost,
    UpstreamCluster,
    UpstreamRequestAttemptCount,
    RouteName,
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamLocalAddress,
    DownstreamPeerUriSan,
    TraceId,
    GrpcStatus,
    GrpcStatusNumber,
}

const PLAIN: [(&str, Plain); 21] = [
    ("PROTOCOL", Plain::Protocol),
    ("RESPONSE_CODE", Plain::ResponseCode),
    ("RESPONSE_CODE_DETAILS", Plain::ResponseCodeDetails),
    ("RESPONSE_FLAGS", Plain::ResponseFlags),
    ("BYTES_RECEIVED", Plain::BytesReceived),
    ("BYTES_SENT", Plain::BytesSent),
    ("DURATION", Plain::Duration),
    ("REQUEST_DURATION", Plain::RequestDuration),
    ("RESPONSE_DURATION", Plain::ResponseDuration),
    ("RESPONSE_TX_DURATION", Plain::ResponseTxDuration),
    ("UPSTREAM_HOST", Plain::UpstreamHost),
    ("UPSTREAM_CLUSTER", Plain::UpstreamCluster),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Plain::UpstreamRequestAttemptCount),
    ("ROUTE_NAME", Plain::RouteName),
    ("DOWNSTREAM_REMOTE_ADDRESS", Plain::DownstreamRemoteAddress),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Plain::DownstreamRemoteAddressWithoutPort),
    ("DOWNSTREAM_LOCAL_ADDRESS", Plain::DownstreamLocalAddress),
    ("DOWNSTREAM_PEER_URI_SAN", Plain::DownstreamPeerUriSan),
    ("TRACE_ID", Plain::TraceId),
    ("GRPC_STATUS", Plain::GrpcStatus),
    ("GRPC_STATUS_NUMBER", Plain::GrpcStatusNumber),
];

/// A piece of the text of a time, which is in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimePart {
    Literal(String),
    Year,
    Month,
    MonthName,
    Day,
    Hour,
    Minute,
    Second,
    /// So many digits of the fraction of a second.
    Fraction(u8),
    /// Seconds since 1970.
    Epoch,
}

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateFault {
    /// A predicate: "has the operator …".
    pub what: String,
    pub help: String,
}

impl TemplateFault {
    fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), help: help.into() }
    }
}

/// Apache's combined log format. The user is the verified identity of the peer.
const COMBINED: &str = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% - %DOWNSTREAM_PEER_URI_SAN% \
     [%START_TIME(%d/%b/%Y:%H:%M:%S %z)%] \"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%\" \
     %RESPONSE_CODE% %BYTES_SENT% \"%REQ(REFERER)%\" \"%REQ(USER-AGENT)%\"";

/// The time as Envoy writes it by default, with milliseconds.
const START_TIME: &str = "%Y-%m-%dT%H:%M:%S.%3fZ";

/// Headers whose values are credentials. No log has them.
const CREDENTIALS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

impl Template {
    /// 1 KiB: the most bytes of the value of a header. A longer value is cut.
    pub const HEADER_BYTES: usize = 1024;
    /// 16: how many headers a template may name, because each is copied from every request or answer.
    pub const MOST_HEADERS: usize = 16;
    /// 64: how many operators a template may have, which bounds the length of a line.
    pub const MOST_OPERATORS: usize = 64;
    /// 4 KiB: the longest template.
    pub const MOST_BYTES: usize = 4096;

    /// The names of all operators.
    pub fn operators() -> impl Iterator<Item = &'static str> {
        ["START_TIME", "REQ", "RESP"].into_iter().chain(PLAIN.iter().map(|(name, _)| *name))
    }

    /// Apache's combined log format, which is called `text`.
    ///
    /// # Errors
    /// None: a test parses it.
    pub fn combined() -> Result<Self, TemplateFault> {
        Ok(Self { spelling: "text".to_owned(), ..Self::parse(COMBINED)? })
    }

    /// Parses a template. One line feed at its end is ignored, because templates of Envoy have it.
    ///
    /// # Errors
    /// An operator that does not exist or is not whole, and a template that is too large.
    pub fn parse(text: &str) -> Result<Self, TemplateFault> {
        let mut template = Self {
            spelling: text.to_owned(),
            parts: Vec::new(),
            request_headers: Vec::new(),
            answer_headers: Vec::new(),
        };
        let mut rest = text.strip_suffix('\n').unwrap_or(text);
        check_literals(rest)?;
        while let Some((literal, after)) = rest.split_once('%') {
            template.literal(literal);
            rest = match after.strip_prefix('%') {
                Some(after) => {
                    template.literal("%");
                    after
                }
                None => template.value(after)?,
            };
        }
        template.literal(rest);
        template.check_size()?;
        template.find_ends();
        Ok(template)
    }

    /// As the file spells it.
    pub fn spelling(&self) -> &str {
        &self.spelling
    }

    fn literal(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Literal(before)) => before.push_str(text),
            _ => self.parts.push(Part::Literal(text.to_owned())),
        }
    }

    /// Adds the operator that `text` begins with, and returns what follows it.
    fn value<'t>(&mut self, text: &'t str) -> Result<&'t str, TemplateFault> {
        let (written, after) = Written::read(text)?;
        let operator = self.operator(&written)?;
        self.parts.push(Part::Value { operator, end: b'\n' });
        Ok(after)
    }

    fn operator(&mut self, written: &Written<'_>) -> Result<Operator, TemplateFault> {
        match written.name {
            "START_TIME" => {
                written.has_no_length()?;
                Ok(Operator::StartTime(time_parts(written.argument.unwrap_or(START_TIME))?))
            }
            "REQ" => choice(written, &mut self.request_headers, true).map(Operator::Request),
            "RESP" => choice(written, &mut self.answer_headers, false).map(Operator::Response),
            name => {
                let known = PLAIN.iter().find(|(known, _)| *known == name);
                let (_, plain) = known.ok_or_else(|| written.is_unknown())?;
                written.has_no_length()?;
                match written.argument {
                    None => Ok(Operator::Plain(*plain)),
                    Some(_) => Err(written.fault("takes no argument", &format!("write %{name}%"))),
                }
            }
        }
    }

    fn check_size(&self) -> Result<(), TemplateFault> {
        let operators = self.parts.iter().filter(|part| matches!(part, Part::Value { .. })).count();
        let headers = self.request_headers.len() + self.answer_headers.len();
        let bounds = [
            (self.spelling.len(), Self::MOST_BYTES, "bytes"),
            (operators, Self::MOST_OPERATORS, "operators"),
            (headers, Self::MOST_HEADERS, "headers"),
        ];
        match bounds.into_iter().find(|(has, most, _)| has > most) {
            None => Ok(()),
            Some((has, most, what)) => Err(TemplateFault::new(
                format!("has {has} {what}, more than {most}"),
                "leave out what nobody reads, or write `json`",
            )),
        }
    }

    /// Notes with each value which byte ends its field.
    fn find_ends(&mut self) {
        let mut next = b'\n';
        for part in self.parts.iter_mut().rev() {
            match part {
                Part::Literal(text) => next = text.bytes().next().unwrap_or(next),
                Part::Value { end, .. } => *end = next,
            }
        }
    }
}

/// A tabulator may separate fields. Other control characters would break the line, or control a terminal.
fn check_literals(text: &str) -> Result<(), TemplateFault> {
    match text.chars().find(|char| char.is_control() && *char != '\t') {
        None => Ok(()),
        Some(control) => Err(TemplateFault::new(
            format!("has the control character {}", control.escape_unicode()),
            "a template is one line; the line feed at its end is added",
        )),
    }
}

/// An operator as it is written: `%NAME(ARGUMENT):LENGTH%`.
struct Written<'t> {
    whole: &'t str,
    name: &'t str,
    argument: Option<&'t str>,
    length: Option<&'t str>,
}

impl<'t> Written<'t> {
    /// Reads what follows a `%`. Returns what follows the operator, too.
    fn read(text: &'t str) -> Result<(Self, &'t str), TemplateFault> {
        let not_whole = || {
            let begin: String = text.chars().take(40).collect();
            TemplateFault::new(
                format!("has an operator that does not end: `%{begin}`"),
                "an operator is written %NAME%, %NAME(ARGUMENT)% or %NAME(ARGUMENT):LENGTH%, and a percent sign %%",
            )
        };
        let is_named = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, rest) = text.split_at(text.find(|c| !is_named(c)).unwrap_or(text.len()));
        let (argument, rest) = match rest.strip_prefix('(') {
            None => (None, rest),
            Some(rest) => {
                let (argument, rest) = rest.split_once(')').ok_or_else(not_whole)?;
                (Some(argument), rest)
            }
        };
        let (length, after) = rest.split_once('%').ok_or_else(not_whole)?;
        let length = match length.strip_prefix(':') {
            None if length.is_empty() => None,
            None => return Err(not_whole()),
            Some(length) => Some(length),
        };
        let whole = text.strip_suffix(after).unwrap_or(text);
        Ok((Self { whole, name, argument, length }, after))
    }

    fn fault(&self, what: &str, help: &str) -> TemplateFault {
        TemplateFault::new(format!("has the operator `%{}`, which {what}", self.whole), help)
    }

    fn is_unknown(&self) -> TemplateFault {
        let all: Vec<&str> = Template::operators().collect();
        self.fault("does not exist", &format!("the operators are {}", all.join(", ")))
    }

    fn has_no_length(&self) -> Result<(), TemplateFault> {
        match self.length {
            None => Ok(()),
            Some(_) => Err(self.fault("takes no length", "REQ and RESP have one: %REQ(USER-AGENT):80%")),
        }
    }

    /// The most bytes of its value.
    fn most(&self) -> Result<usize, TemplateFault> {
        let Some(length) = self.length else { return Ok(Template::HEADER_BYTES) };
        match length.parse() {
            Ok(most @ 1..=Template::HEADER_BYTES) => Ok(most),
            _ => Err(self.fault("has a wrong length", "write a number from 1 to 1024")),
        }
    }
}

/// The sources of `REQ` and `RESP`: `X`, or `X?Y`, which is `Y` where `X` is absent.
fn choice(
    written: &Written<'_>,
    headers: &mut Vec<String>,
    is_request: bool,
) -> Result<Choice, TemplateFault> {
    let names = written.argument.unwrap_or_default();
    let (first, other) = names.split_once('?').map_or((names, None), |(first, other)| (first, Some(other)));
    let mut source = |name| source(name, written, headers, is_request);
    Ok(Choice { first: source(first)?, other: other.map(source).transpose()?, most: written.most()? })
}

fn source(
    name: &str,
    written: &Written<'_>,
    headers: &mut Vec<String>,
    is_request: bool,
) -> Result<Source, TemplateFault> {
    let name = name.to_ascii_lowercase();
    let of_request = match name.as_str() {
        ":method" => Some(Source::Method),
        ":path" => Some(Source::Path),
        ":authority" | "host" => Some(Source::Authority),
        "x-request-id" => Some(Source::RequestId),
        _ => None,
    };
    if let Some(known) = of_request.filter(|_| is_request) {
        return Ok(known);
    }
    if CREDENTIALS.contains(&name.as_str()) {
        return Err(written.fault("names a header of credentials", "no log of the sidecar has them"));
    }
    if !is_token(&name) {
        let help = "write a header's name, as in %REQ(USER-AGENT)% or %RESP(CONTENT-TYPE)%; a request also has \
                    :METHOD, :PATH and :AUTHORITY";
        return Err(written.fault("does not name a header", help));
    }
    let at = headers.iter().position(|known| *known == name).unwrap_or_else(|| {
        headers.push(name);
        headers.len() - 1
    });
    Ok(Source::Header(at))
}

/// A token (RFC 9110, section 5.6.2).
fn is_token(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_part)
}

/// The parts of a time, which are written like those of strftime.
fn time_parts(text: &str) -> Result<Vec<TimePart>, TemplateFault> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once('%') {
        parts.push(TimePart::Literal(literal.to_owned()));
        rest = time_part(after, &mut parts).ok_or_else(|| {
            let begin: String = after.chars().take(3).collect();
            TemplateFault::new(
                format!("has a time with `%{begin}`, which does not exist"),
                "a time has %Y, %m, %b, %d, %H, %M, %S, %F, %T, %s, %f, %1f to %9f, %E3S, %E6S, %z, %Z and %%",
            )
        })?;
    }
    parts.push(TimePart::Literal(rest.to_owned()));
    parts.retain(|part| *part != TimePart::Literal(String::new()));
    Ok(parts)
}

/// Adds what `text` begins with, and returns what follows it.
fn time_part<'t>(text: &'t str, parts: &mut Vec<TimePart>) -> Option<&'t str> {
    use TimePart as P;
    let dash = || P::Literal("-".to_owned());
    let colon = || P::Literal(":".to_owned());
    let literal = |text: &str| vec![P::Literal(text.to_owned())];
    let seconds = |digits| vec![P::Second, P::Literal(".".to_owned()), P::Fraction(digits)];
    let table = [
        ("Y", vec![P::Year]),
        ("m", vec![P::Month]),
        ("b", vec![P::MonthName]),
        ("d", vec![P::Day]),
        ("H", vec![P::Hour]),
        ("M", vec![P::Minute]),
        ("S", vec![P::Second]),
        ("F", vec![P::Year, dash(), P::Month, dash(), P::Day]),
        ("T", vec![P::Hour, colon(), P::Minute, colon(), P::Second]),
        ("s", vec![P::Epoch]),
        ("f", vec![P::Fraction(9)]),
        ("E3S", seconds(3)),
        ("E6S", seconds(6)),
        ("z", literal("+0000")),
        ("Z", literal("UTC")),
        ("%", literal("%")),
    ];
    if let [digits @ b'1'..=b'9', b'f', ..] = text.as_bytes() {
        parts.push(P::Fraction(digits - b'0'));
        return text.get(2..);
    }
    let (name, found) = table.into_iter().find(|(name, _)| text.starts_with(name))?;
    parts.extend(found);
    text.strip_prefix(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> TemplateFault {
        Template::parse(text).expect_err(text)
    }

    #[test]
    fn a_template_becomes_a_list_of_literals_and_values_with_the_byte_that_ends_each() {
        let template =
            Template::parse("100%% [%PROTOCOL%] \"%REQ(X-A?:PATH):20%%RESP(b)%\"\n").expect("good");
        let header = |at| Source::Header(at);
        let request = Choice { first: header(0), other: Some(Source::Path), most: 20 };
        let response = Choice { first: header(0), other: None, most: 1024 };
        assert_eq!(
            template.parts,
            [
                Part::Literal("100% [".to_owned()),
                Part::Value { operator: Operator::Plain(Plain::Protocol), end: b']' },
                Part::Literal("] \"".to_owned()),
                Part::Value { operator: Operator::Request(request), end: b'"' },
                Part::Value { operator: Operator::Response(response), end: b'"' },
                Part::Literal("\"".to_owned()),
            ]
        );
        assert_eq!(
            (template.request_headers, template.answer_headers),
            (vec!["x-a".into()], vec!["b".into()])
        );
    }

    #[test]
    fn text_is_a_template_that_names_two_headers() {
        let combined = Template::combined().expect("good");
        assert_eq!(
            (combined.spelling(), &*combined.request_headers),
            ("text", &["referer".into(), "user-agent".into()][..])
        );
    }

    #[test]
    fn every_operator_can_be_written() {
        for name in Template::operators() {
            let argument = if matches!(name, "REQ" | "RESP") { "(X)" } else { "" };
            assert!(Template::parse(&format!("%{name}{argument}%")).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_fault_names_the_operator_and_what_could_stand_there() {
        let unknown = fault("%PROTOCOL% %FOO(A)%");
        assert_eq!(unknown.what, "has the operator `%FOO(A)%`, which does not exist");
        assert!(Template::operators().all(|name| unknown.help.contains(name)), "{unknown:?}");
        for (text, what) in [
            ("%PROTOCOL", "has an operator that does not end: `%PROTOCOL`"),
            ("% %PROTOCOL%", "has an operator that does not end: `% %PROTOCOL%`"),
            ("%REQ(A%", "has an operator that does not end: `%REQ(A%`"),
            ("%REQ(A)B%", "has an operator that does not end: `%REQ(A)B%`"),
            ("%REQ%", "has the operator `%REQ%`, which does not name a header"),
            ("%REQ(A?)%", "has the operator `%REQ(A?)%`, which does not name a header"),
            ("%REQ(:SCHEME)%", "has the operator `%REQ(:SCHEME)%`, which does not name a header"),
            ("%RESP(:PATH)%", "has the operator `%RESP(:PATH)%`, which does not name a header"),
            ("%REQ(A):0%", "has the operator `%REQ(A):0%`, which has a wrong length"),
            ("%REQ(A):1025%", "has the operator `%REQ(A):1025%`, which has a wrong length"),
            ("%DURATION:5%", "has the operator `%DURATION:5%`, which takes no length"),
            ("%DURATION(ms)%", "has the operator `%DURATION(ms)%`, which takes no argument"),
            ("%REQ(Cookie)%", "has the operator `%REQ(Cookie)%`, which names a header of credentials"),
            ("%START_TIME(%Q)%", "has a time with `%Q`, which does not exist"),
            ("%START_TIME(%0f)%", "has a time with `%0f`, which does not exist"),
            ("%PROTOCOL%\n%PROTOCOL%", "has the control character \\u{a}"),
        ] {
            assert_eq!(fault(text).what, what);
        }
    }

    #[test]
    fn a_template_is_bounded() {
        let many = |count: usize, text: fn(usize) -> String| (0..count).map(text).collect::<String>();
        assert_eq!(fault(&many(65, |_| "%DURATION%".into())).what, "has 65 operators, more than 64");
        assert_eq!(fault(&many(17, |n| format!("%REQ(X-{n})%"))).what, "has 17 headers, more than 16");
        assert_eq!(fault(&many(4097, |_| "-".into())).what, "has 4097 bytes, more than 4096");
    }
}
