//! The headers that an authorizer changes: of the application's request, of its answer, or of a denial.

use http::{HeaderMap, HeaderName, HeaderValue};
use pillion_http::message::Headers;
use pillion_http::seen::are_read_alike;
use pillion_model::{Side, reserved};

use super::messages::{HeaderValueOption, OkHttpResponse};

/// 100: far more than any authorizer changes. Each change looks at all headers.
const MOST: usize = 100;

/// Changes in the order in which they are made.
#[derive(Debug, Default)]
pub(in super::super) struct HeaderChanges(Vec<Change>);

#[derive(Debug)]
enum Change {
    Remove(HeaderName),
    Write { how: Write, name: HeaderName, value: HeaderValue },
}

/// `HeaderValueOption.HeaderAppendAction`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfPresent,
}

impl HeaderChanges {
    /// The changes of the application's request. Headers are removed last, as in Envoy.
    ///
    /// # Errors
    /// One of them cannot be made.
    pub(super) fn of_request(of: &OkHttpResponse) -> Result<Self, String> {
        let mut changes = Self::written(&of.headers, Some(Side::Request), Write::Overwrite)?;
        if of.headers_to_remove.len() > MOST {
            return Err(format!("it removes more than {MOST} headers"));
        }
        for name in &of.headers_to_remove {
            if name.starts_with(':') || reserved(name, Side::Request).is_some() {
                continue; // Envoy, too, ignores what would make the request malformed
            }
            changes.0.push(Change::Remove(header_name(name)?));
        }
        Ok(changes)
    }

    /// The changes of the application's answer.
    ///
    /// # Errors
    /// One of them cannot be made.
    pub(super) fn of_answer(of: &OkHttpResponse) -> Result<Self, String> {
        Self::written(&of.response_headers_to_add, Some(Side::Answer), Write::Append)
    }

    /// The headers of a denial. Those that may not reach the client are left out later, as for an authorizer over HTTP.
    /// Where an option says nothing, one name may stand several times, as `set-cookie` does: no value of the client's can
    /// be among them.
    ///
    /// # Errors
    /// One of them is malformed.
    pub(super) fn denial(options: &[HeaderValueOption]) -> Result<Headers, String> {
        let mut headers = Headers::Map(HeaderMap::new());
        Self::written(options, None, Write::Append)?.apply(&mut headers);
        Ok(headers)
    }

    /// `unsaid`: how a header is written whose option does not say it. In Envoy's `OkHttpResponse.headers`, `append` is
    /// false then: a value that the client has sent must not survive.
    fn written(options: &[HeaderValueOption], side: Option<Side>, unsaid: Write) -> Result<Self, String> {
        if options.len() > MOST {
            return Err(format!("it changes more than {MOST} headers"));
        }
        options.iter().map(|option| Change::of(option, side, unsaid)).collect::<Result<_, _>>().map(Self)
    }

    pub(in super::super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the changes. What is written stands there in one spelling alone: an application may read a header that the
    /// client has sent in another one in its place.
    pub(in super::super) fn apply(self, headers: &mut Headers) {
        for change in self.0 {
            match change {
                Change::Remove(name) => remove(headers, &name),
                Change::Write { how, name, value } => write(headers, how, &name, &value),
            }
        }
    }
}

fn write(headers: &mut Headers, how: Write, name: &HeaderName, value: &HeaderValue) {
    let is_there = headers.named(name.as_str()).next().is_some();
    match how {
        Write::AddIfAbsent if is_there => return,
        Write::OverwriteIfPresent if !is_there => return,
        Write::Append => {
            let own = name.as_str().as_bytes();
            headers.remove_where(|other| are_read_alike(other, own) && !other.eq_ignore_ascii_case(own));
        }
        Write::AddIfAbsent | Write::Overwrite | Write::OverwriteIfPresent => remove(headers, name),
    }
    headers.append_named(name, value);
}

fn remove(headers: &mut Headers, name: &HeaderName) {
    headers.remove_where(|other| are_read_alike(other, name.as_str().as_bytes()));
}

impl Change {
    fn of(option: &HeaderValueOption, side: Option<Side>, unsaid: Write) -> Result<Self, String> {
        let header = option.header.as_ref().ok_or("it changes a header without a name")?;
        let name = header_name(&header.key)?;
        if let Some((why, _)) = side.and_then(|side| reserved(name.as_str(), side)) {
            return Err(format!("it changes {name}, {why}"));
        }
        let value = if header.raw_value.is_empty() { &header.value } else { &header.raw_value };
        let value =
            HeaderValue::from_bytes(value).map_err(|_bad| format!("its header {name} is malformed"))?;
        let how = match (&option.append, option.append_action) {
            (Some(append), _) => {
                if append.value {
                    Write::Append
                } else {
                    Write::Overwrite
                }
            }
            (None, 0) => unsaid, // the number of APPEND_IF_EXISTS_OR_ADD is also that of an absent field
            (None, 1) => Write::AddIfAbsent,
            (None, 2) => Write::Overwrite,
            (None, 3) => Write::OverwriteIfPresent,
            (None, other) => return Err(format!("it changes {name} in an unknown way ({other})")),
        };
        Ok(Self::Write { how, name, value })
    }
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::try_from(text).map_err(|_bad| "it changes a header whose name is malformed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::messages::{BoolValue, HeaderValue as Value};
    use super::*;

    fn option(name: &str, value: &str, append: Option<bool>, append_action: i32) -> HeaderValueOption {
        let header = Value { key: name.to_owned(), value: value.into(), raw_value: Vec::new() };
        let append = append.map(|value| BoolValue { value });
        HeaderValueOption { header: Some(header), append, append_action }
    }

    fn changed(options: &[HeaderValueOption], removed: &[&str]) -> Result<Vec<String>, String> {
        let mut headers = Headers::Map(HeaderMap::from_iter(
            [("x-a", "1"), ("x_a", "2"), ("x-b", "3")]
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
        ));
        let headers_to_remove = removed.iter().map(|name| (*name).to_owned()).collect();
        let of = OkHttpResponse { headers: options.to_vec(), headers_to_remove, ..OkHttpResponse::default() };
        HeaderChanges::of_request(&of)?.apply(&mut headers);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect();
        all.sort();
        Ok(all)
    }

    #[test]
    fn each_way_of_changing_a_header_leaves_no_other_spelling_of_it() {
        for (append, action, expected) in [
            (None, 0, vec!["x-a=new", "x-b=3"]),
            (Some(true), 0, vec!["x-a=1", "x-a=new", "x-b=3"]),
            (Some(true), 2, vec!["x-a=1", "x-a=new", "x-b=3"]),
            (Some(false), 0, vec!["x-a=new", "x-b=3"]),
            (None, 1, vec!["x-a=1", "x-b=3", "x_a=2"]),
            (None, 2, vec!["x-a=new", "x-b=3"]),
            (None, 3, vec!["x-a=new", "x-b=3"]),
        ] {
            let found = changed(&[option("X-A", "new", append, action)], &[]);
            assert_eq!(found, Ok(expected.into_iter().map(str::to_owned).collect()), "{append:?} {action}");
        }
        let of_absent = |action| changed(&[option("x-c", "new", None, action)], &[]).map(|all| all.len());
        assert_eq!([0, 1, 2, 3].map(of_absent), [Ok(4), Ok(4), Ok(4), Ok(3)]);
        assert_eq!(changed(&[], &["X-A", "host", ":path", "content-length"]), Ok(vec!["x-b=3".to_owned()]));
    }

    #[test]
    fn headers_of_a_denial_and_of_an_answer_are_appended_where_the_option_says_nothing() {
        let cookies =
            |append, action| ["a=1", "b=2"].map(|value| option("set-cookie", value, append, action)).to_vec();
        for (append, action, expected) in
            [(None, 0, 2), (Some(true), 0, 2), (Some(false), 0, 1), (None, 1, 1), (None, 2, 1), (None, 3, 0)]
        {
            let denial = HeaderChanges::denial(&cookies(append, action)).map(|all| all.iter().count());
            assert_eq!(denial, Ok(expected), "{append:?} {action}");
        }
        let of = OkHttpResponse { response_headers_to_add: cookies(None, 0), ..OkHttpResponse::default() };
        let mut headers = Headers::Map(HeaderMap::new());
        HeaderChanges::of_answer(&of).expect("changes").apply(&mut headers);
        assert_eq!(headers.iter().count(), 2);
    }

    #[test]
    fn headers_of_the_sidecar_are_neither_written_nor_removed_in_any_spelling() {
        for name in
            ["Content-Length", "content.length", "transfer_encoding", "x!request.id", "x.pillion_via", "HOST"]
        {
            let written = changed(&[option(name, "1", None, 2)], &[]);
            assert!(written.is_err_and(|why| why.contains("it changes")), "{name}");
            let headers_to_remove = vec![name.to_owned()];
            let of = OkHttpResponse { headers_to_remove, ..OkHttpResponse::default() };
            assert!(HeaderChanges::of_request(&of).is_ok_and(|changes| changes.is_empty()), "{name}");
        }
    }

    #[test]
    fn changes_that_cannot_be_made_are_refused() {
        for (options, removed, expected) in [
            (vec![option("x-a", "a\nb", None, 0)], vec![], "header x-a is malformed"),
            (vec![option("x a", "b", None, 0)], vec![], "name is malformed"),
            (vec![option(":path", "/", None, 2)], vec![], "name is malformed"),
            (vec![option("x-a", "b", None, 4)], vec![], "unknown way (4)"),
            (vec![option("Host", "b", None, 2)], vec![], "names the destination"),
            (vec![option("x_pillion_via", "b", None, 2)], vec![], "only sidecars may send"),
            (vec![option("x-forwarded-client-cert", "b", None, 2)], vec![], "only sidecars may send"),
            (vec![option("transfer-encoding", "chunked", None, 2)], vec![], "concerns a single connection"),
            (vec![option("x-a", "b", None, 0); MOST + 1], vec![], "more than 100"),
            (vec![HeaderValueOption::default()], vec![], "without a name"),
            (vec![], vec!["a b"], "name is malformed"),
            (vec![], vec!["x-a"; MOST + 1], "more than 100"),
        ] {
            let why = changed(&options, &removed).err().unwrap_or_default();
            assert!(why.contains(expected), "{expected}: {why}");
        }
    }
}
