//! `${NAME}`, `${NAME:-default}` and `$$` inside the texts of the file.
//!
//! Pure: the environment is an argument. The value of a variable is text and stays text: it never becomes a list, a
//! block, a key or null, whatever it holds.

use crate::value::BadWord;
use pillion_model::text::shortened;

/// The environment: gives the value of a variable, or `None` where it is not set.
pub(crate) type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// The most defaults within defaults. Each is a call on the stack, and real files nest no more than two.
const DEEPEST: usize = 16;

/// A text with its variables replaced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub(crate) text: String,
    /// Whether the whole text is a default that the file gives. Then it counts as if it were written without quotes.
    pub(crate) bare: bool,
}

/// Replaces the variables of a text; the result has at most `room` bytes.
///
/// A default replaces a variable that is not set or empty, as in a shell. It may contain variables, and braces in
/// pairs. A dollar sign that is followed by neither a brace nor a dollar sign is kept.
pub(crate) fn replace(text: &str, environment: Environment<'_>, room: usize) -> Result<Replaced, BadWord> {
    let pieces = Scanner { rest: text }.pieces(0)?;
    let mut writer = Writer { environment, room, text: String::new() };
    let bare = match pieces.as_slice() {
        [Piece::Variable(variable)] => writer.variable(variable)?,
        pieces => {
            writer.pieces(pieces)?;
            false
        }
    };
    Ok(Replaced { text: writer.text, bare })
}

#[derive(Debug)]
enum Piece<'s> {
    Text(&'s str),
    Variable(Variable<'s>),
}

#[derive(Debug)]
struct Variable<'s> {
    name: &'s str,
    default: Option<Vec<Piece<'s>>>,
}

/// The text that has not been scanned yet.
struct Scanner<'s> {
    rest: &'s str,
}

impl<'s> Scanner<'s> {
    /// Scans to the end of the text or, inside a default (depth above 0), to the brace that ends the default.
    fn pieces(&mut self, depth: usize) -> Result<Vec<Piece<'s>>, BadWord> {
        let signs: &[char] = if depth == 0 { &['$'] } else { &['$', '{', '}'] };
        let (mut pieces, mut open) = (Vec::new(), 0usize);
        while let Some(at) = self.rest.find(signs) {
            pieces.extend(self.text(at));
            if self.rest.starts_with("${") {
                pieces.push(Piece::Variable(self.variable(depth)?));
                continue;
            }
            match self.rest.as_bytes().first() {
                Some(b'}') if open == 0 => {
                    self.skip(1);
                    return Ok(pieces);
                }
                Some(b'}') => open -= 1,
                Some(b'{') => open += 1,
                // the first of two dollar signs is dropped, the second stays
                _ if self.rest.starts_with("$$") => self.skip(1),
                _ => {}
            }
            pieces.extend(self.text(1));
        }
        pieces.extend(self.text(self.rest.len()));
        if depth == 0 { Ok(pieces) } else { Err(unterminated()) }
    }

    fn text(&mut self, length: usize) -> Option<Piece<'s>> {
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        (!text.is_empty()).then_some(Piece::Text(text))
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// Scans a variable; the scanner stands at its `${`.
    fn variable(&mut self, depth: usize) -> Result<Variable<'s>, BadWord> {
        if depth >= DEEPEST {
            return Err(BadWord::new(format!("has defaults nested more than {DEEPEST} deep")));
        }
        let whole = self.rest;
        self.skip(2);
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, after) = self.rest.split_at(end.ok_or_else(unterminated)?);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(misspelt(whole));
        }
        if let Some(default) = after.strip_prefix(":-") {
            self.rest = default;
            return Ok(Variable { name, default: Some(self.pieces(depth + 1)?) });
        }
        self.rest = after.strip_prefix('}').ok_or_else(|| misspelt(whole))?;
        Ok(Variable { name, default: None })
    }
}

fn unterminated() -> BadWord {
    BadWord::new("has a `${` without its `}`")
        .help("write ${NAME} or ${NAME:-default}; write $$ for a dollar sign")
}

fn misspelt(from: &str) -> BadWord {
    let shown = from.split_inclusive('}').next().unwrap_or_default();
    BadWord::new(format!("has `{}`, which is no variable", shortened(shown))).help(
        "write ${NAME} or ${NAME:-default}, names with letters, digits and _; write $$ for a dollar sign",
    )
}

struct Writer<'e> {
    environment: Environment<'e>,
    room: usize,
    text: String,
}

impl Writer<'_> {
    /// Writes the pieces. Returns whether all of the text comes from the file itself.
    fn pieces(&mut self, pieces: &[Piece<'_>]) -> Result<bool, BadWord> {
        let mut own = true;
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.push(text)?,
                Piece::Variable(variable) => own &= self.variable(variable)?,
            }
        }
        Ok(own)
    }

    /// Writes a variable. Returns whether its default was used, which is text of the file itself.
    fn variable(&mut self, variable: &Variable<'_>) -> Result<bool, BadWord> {
        let held = (self.environment)(variable.name);
        match (held.filter(|held| !held.is_empty() || variable.default.is_none()), &variable.default) {
            (Some(held), _) => self.push(&held).map(|()| false),
            (None, Some(default)) => self.pieces(default),
            (None, None) => Err(unset(variable.name)),
        }
    }

    fn push(&mut self, text: &str) -> Result<(), BadWord> {
        if self.text.len() + text.len() > self.room {
            return Err(BadWord::new("holds variables that make the file longer than 4 MiB"));
        }
        self.text.push_str(text);
        Ok(())
    }
}

fn unset(name: &str) -> BadWord {
    let name = shortened(name);
    BadWord::new(format!("uses `${{{name}}}`, which is not set"))
        .help(format!("set it, or give a default: ${{{name}:-…}}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn environment(name: &str) -> Option<String> {
        let value = match name {
            "N" => "4",
            "POD" => "web-7",
            "_x9" => "low",
            "EMPTY" => "",
            "NULL" => "~",
            "YAML" => "a: [b]\n- c",
            "DOLLARS" => "$$ ${POD}",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn replaced(text: &str) -> Result<Replaced, BadWord> {
        replace(text, &environment, 1000)
    }

    #[test]
    fn a_malformed_or_unset_variable_is_refused_with_its_text() {
        let cases = [
            ("${}", "has `${}`, which is no variable"),
            ("a ${} b", "has `${}`, which is no variable"),
            ("${:-x}", "has `${:-x}`, which is no variable"),
            ("${ N }", "has `${ N }`, which is no variable"),
            ("${1N}", "has `${1N}`, which is no variable"),
            ("${a.b}", "has `${a.b}`, which is no variable"),
            ("${N-x}", "has `${N-x}`, which is no variable"),
            ("${N:x}", "has `${N:x}`, which is no variable"),
            ("${N:", "has `${N:`, which is no variable"),
            ("${N:?}", "has `${N:?}`, which is no variable"),
            ("${ä}", "has `${ä}`, which is no variable"),
            ("${${N}}", "has `${${N}`, which is no variable"),
            ("${", "has a `${` without its `}`"),
            ("${N", "has a `${` without its `}`"),
            ("a ${N:-", "has a `${` without its `}`"),
            ("${N:-{}", "has a `${` without its `}`"),
            ("${N:-${POD}", "has a `${` without its `}`"),
            ("${ABSENT}", "uses `${ABSENT}`, which is not set"),
            ("x ${N} ${ABSENT} y", "uses `${ABSENT}`, which is not set"),
            ("${ABSENT:-${ALSO}}", "uses `${ALSO}`, which is not set"),
        ];
        for (text, what) in cases {
            let bad = replaced(text).unwrap_err();
            assert!(bad.what == what && bad.help.is_some(), "{text:?} {bad:?}");
        }
    }

    #[test]
    fn variables_and_defaults_are_replaced() {
        let cases = [
            ("${N}", "4"),
            ("${_x9}", "low"),
            ("a-${POD}-b", "a-web-7-b"),
            ("${N}${N}${POD}", "44web-7"),
            ("10.0.0.${N}:80", "10.0.0.4:80"),
            ("Bearer ${POD}, x=${N}; y", "Bearer web-7, x=4; y"),
            ("/healthz?pod=${POD}&n=${N:-0}", "/healthz?pod=web-7&n=4"),
            ("${ABSENT:-x}", "x"),
            ("${N:-x}", "4"),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("${ABSENT:-}", ""),
            ("<${ABSENT:-}>", "<>"),
            ("${ABSENT:-a:-b}", "a:-b"),
            ("${ABSENT:-[::]:80}", "[::]:80"),
            ("${ABSENT:- a b }", " a b "),
            // braces in pairs belong to the default
            ("${ABSENT:-{a}}", "{a}"),
            ("${ABSENT:-{a{b}c}d}e", "{a{b}c}de"),
            ("${ABSENT:-}}", "}"),
            ("${ABSENT:-${POD}}", "web-7"),
            ("${ABSENT:-<${ALSO:-{${N}}}>}", "<{4}>"),
            // a default that is not used is not evaluated
            ("${N:-${ABSENT}}", "4"),
        ];
        for (text, expected) in cases {
            assert_eq!(replaced(text).unwrap().text, expected, "{text:?}");
        }
    }

    #[test]
    fn a_dollar_sign_is_doubled_before_a_brace_and_is_itself_elsewhere() {
        let cases = [
            ("$$", "$"),
            ("$$$$", "$$"),
            ("$$$", "$$"),
            ("$", "$"),
            ("a$", "a$"),
            ("$a $1 $(b)", "$a $1 $(b)"),
            ("$${N}", "${N}"),
            ("$$${N}", "$4"),
            ("$$$${N}", "$${N}"),
            ("{N} {} }{", "{N} {} }{"),
            ("${ABSENT:-a$$b}", "a$b"),
            ("${ABSENT:-$}", "$"),
            ("${ABSENT:-$${N}}", "${N}"),
        ];
        for (text, expected) in cases {
            assert_eq!(replaced(text).unwrap().text, expected, "{text:?}");
        }
    }

    #[test]
    fn the_value_of_a_variable_is_not_scanned_for_variables() {
        assert_eq!(replaced("${YAML}").unwrap().text, "a: [b]\n- c");
        assert_eq!(replaced("${DOLLARS}").unwrap().text, "$$ ${POD}");
    }

    #[test]
    fn only_a_default_that_is_the_whole_text_counts_as_written_without_quotes() {
        for text in ["${ABSENT:-}", "${ABSENT:-~}", "${EMPTY:-null}", "${ABSENT:-${ALSO:-~}}"] {
            assert!(replaced(text).unwrap().bare, "{text}");
        }
        for text in
            ["${EMPTY}", "${NULL}", "${NULL:-x}", "${ABSENT:-${NULL}}", " ${ABSENT:-}", "$$", "${N}${A:-}"]
        {
            assert!(!replaced(text).unwrap().bare, "{text}");
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let nested = |depth: usize| format!("{}x{}", "${A:-".repeat(depth), "}".repeat(depth));
        assert_eq!(replaced(&nested(DEEPEST)).unwrap().text, "x");
        assert!(replaced(&nested(DEEPEST + 1)).unwrap_err().what.contains("nested"));
        assert!(replaced(&"${A:-".repeat(100_000)).is_err());
        assert_eq!(replaced(&"${N}".repeat(1000)).unwrap().text.len(), 1000);
        assert!(replaced(&"${N}".repeat(1001)).unwrap_err().what.contains("4 MiB"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_the_replacement_panic(text in "[${}:\\-NAä_1 ]{0,40}") {
            drop(replaced(&text));
        }

        #[test]
        fn a_text_with_doubled_dollar_signs_is_replaced_by_the_original_text(text in ".{0,40}") {
            prop_assert_eq!(replaced(&text.replace('$', "$$")).unwrap().text, text);
        }

        #[test]
        fn the_value_of_a_variable_is_inserted_unchanged(held in ".{1,40}") {
            let environment = |_: &str| Some(held.clone());
            prop_assert_eq!(replace("${X:-y}", &environment, 1000).unwrap().text, held);
        }
    }
}
