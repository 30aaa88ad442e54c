//! Regular expressions that match a whole value: of a path, a header, a query parameter; or a part of a log line.
//!
//! Time in proportion to the value, whatever the expression: a lazy DFA has no backtracking. What an expression may
//! take is bounded when it is read: its text, what it is compiled to, and the states that each thread keeps of it.
//! A value is bytes: `.` is any byte but a line feed, and `\w`, `\d`, `\s` are ASCII's.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::pool::Pool;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind};

/// A regular expression, compiled.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    compiled: Arc<Compiled>,
}

struct Compiled {
    dfa: DFA,
    caches: Pool<Cache, MakeCache>,
}

type MakeCache = Box<dyn Fn() -> Cache + Send + Sync + UnwindSafe + RefUnwindSafe>;

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("is a regular expression of more than {} bytes", Pattern::LONGEST)]
    Long,
    #[error("is a regular expression that compiles to more than {} KiB", Pattern::LARGEST / 1024)]
    Large,
    /// With what is wrong.
    #[error("is no regular expression: {0}")]
    Malformed(String),
}

impl Pattern {
    /// Bytes of the text. Longer ones are lists of values, which are better routes of their own.
    pub const LONGEST: usize = 1024;
    /// Bytes of the compiled expression, and of the states that a thread keeps of it: `/v[0-9]+/orders/[^/]+` takes
    /// 2 KiB, and four times `[a-z0-9-]{1,63}` 20 KiB.
    pub const LARGEST: usize = 64 * 1024;

    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.len() > Self::LONGEST {
            return Err(PatternError::Long);
        }
        let dfa = built(text)?;
        let made = dfa.clone();
        let caches = Pool::new(Box::new(move || made.create_cache()) as MakeCache);
        Ok(Self { text: text.into(), compiled: Arc::new(Compiled { dfa, caches }) })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `value` is what it describes.
    pub fn fits(&self, value: &[u8]) -> bool {
        let Compiled { dfa, caches } = &*self.compiled;
        let input = Input::new(value).anchored(Anchored::Yes);
        // The search returns the longest match from the first byte on. An error means that the search gave up at a byte,
        // which this automaton is not configured to do.
        let longest = dfa.try_search_fwd(&mut caches.get(), &input).ok().flatten();
        longest.is_some_and(|end| end.offset() == value.len())
    }

    /// Whether a part of `value` is what it describes.
    pub fn is_in(&self, value: &[u8]) -> bool {
        let Compiled { dfa, caches } = &*self.compiled;
        // An error means that the search gave up at a byte, which this automaton is not configured to do.
        let found = dfa.try_search_fwd(&mut caches.get(), &Input::new(value).earliest(true));
        found.ok().flatten().is_some()
    }
}

fn built(text: &str) -> Result<DFA, PatternError> {
    let nfa = thompson::Config::new()
        .utf8(false)
        .nfa_size_limit(Some(Pattern::LARGEST))
        .which_captures(WhichCaptures::None);
    let dfa = DFA::config().match_kind(MatchKind::All).cache_capacity(Pattern::LARGEST);
    let syntax = syntax::Config::new().unicode(false).utf8(false);
    let parsed = syntax::parse_with(text, &syntax).map_err(|error| PatternError::Malformed(what(&error)))?;
    let mut compiler = thompson::Compiler::new();
    let nfa = compiler.configure(nfa).build_from_hir(&parsed).map_err(|_too_large| PatternError::Large)?;
    DFA::builder().configure(dfa).build_from_nfa(nfa).map_err(|_too_large| PatternError::Large)
}

/// The last line of the parser's picture of the fault, which says it in words.
fn what(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_whole_values_alone() {
        for (pattern, value, expected) in [
            ("/v[0-9]+", "/v12", true),
            ("/v[0-9]+", "/v12/x", false),
            ("/v[0-9]+", "x/v12", false),
            ("a|b", "b", true),
            ("a|b", "bc", false),
            ("", "", true),
            ("", "a", false),
            ("(?i)abc", "aBC", true),
            ("(?m)a$", "a\nb", false),
            (r"\d{3}", "123", true),
            (r"\w+", "é", false),
            (".*", "é", true),
            ("(?x) a # a comment", "a", true),
        ] {
            let fits = Pattern::new(pattern).map(|pattern| pattern.fits(value.as_bytes()));
            assert_eq!(fits, Ok(expected), "{pattern} {value}");
        }
    }

    #[test]
    fn a_pattern_is_found_within_a_value() {
        for (pattern, value, expected) in [
            ("^DEBUG", "DEBUG x", true),
            ("^DEBUG", "INFO DEBUG", false),
            ("health", "GET /healthz 200", true),
            ("z$", "GET /healthz 200", false),
            (r"^\d{4}-", "2026-11-28 ready", true),
            ("", "", true),
        ] {
            assert_eq!(Pattern::new(pattern).map(|of| of.is_in(value.as_bytes())), Ok(expected), "{pattern}");
        }
    }

    #[test]
    fn an_absent_value_has_a_reason() {
        for (text, expected) in [
            ("(a", "is no regular expression: unclosed group"),
            ("a)|(b", "is no regular expression: unopened group"),
            ("[a-z]{1,999}{1,999}", "is a regular expression that compiles to more than 64 KiB"),
            (r"(a)\1", "is no regular expression: backreferences are not supported"),
        ] {
            assert_eq!(Pattern::new(text).map_err(|error| error.to_string()), Err(expected.to_owned()));
        }
        assert_eq!(Pattern::new(&"a".repeat(1025)), Err(PatternError::Long));
    }

    /// States that a value needs and that do not fit are made anew: nothing grows, and nothing is answered wrongly.
    #[test]
    fn an_expression_with_more_states_than_are_kept_is_answered_all_the_same() {
        let pattern = Pattern::new("(?:[ab]{1,12}c){1,6}|(?:a|b)*a(?:a|b){12}").expect("a pattern");
        let mut rng = 7_u64;
        let value: Vec<u8> = std::iter::repeat_with(|| {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if rng >> 63 == 0 { b'a' } else { b'b' }
        })
        .take(60_000)
        .collect();
        let expected = value.get(value.len() - 13) == Some(&b'a');
        assert_eq!(pattern.fits(&value), expected);
        assert!(pattern.compiled.caches.get().memory_usage() <= Pattern::LARGEST);
    }
}
