//! Judges a version before it takes its place.

use std::cell::Cell;
use std::path::Path;

use bytes::Bytes;
use pillion_model::sync::Check;
use saphyr_parser::{Event, Parser};
use serde::de::IgnoredAny;

use super::command::{CommandFault, run};
use super::version::{Content, quoted};

/// Punctuation from one event of the YAML parser to the next. The parser keeps what is within the outermost brackets, of which
/// each part takes some 170 bytes: 70 MB, where a version of 16 MiB would take gigabytes.
const MOST_MARKS: usize = 200_000;
/// Lists and maps of YAML within each other.
const DEEPEST: usize = 1000;
/// Anchors of YAML. The parser keeps the name of each one to the end of the file, in some 100 bytes.
const MOST_ANCHORS: usize = 10_000;

/// Why a version is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Bad {
    #[error("{0}is not JSON (line {1}, column {2})")]
    Json(String, usize, usize),
    #[error("{0}is not YAML (line {1}, column {2})")]
    Yaml(String, usize, usize),
    #[error("{0}is not UTF-8")]
    NotUtf8(String),
    #[error(
        "{0}has more than {MOST_MARKS} commas, quotes and the like in one list in brackets or in one text, which `yaml` does not read: use `json` or `exec`"
    )]
    Wide(String),
    #[error("{0}has more than {DEEPEST} lists and maps within each other")]
    Deep(String),
    #[error("{0}has more than {MOST_ANCHORS} anchors, which `yaml` does not read: use `exec`")]
    Anchors(String),
    #[error("its check: {0}")]
    Command(#[source] CommandFault),
}

impl Bad {
    /// Whether the same version can pass later: it was not judged at all.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Command(
                CommandFault::NotStarted(..) | CommandFault::Left(_) | CommandFault::Slow { .. },
            ) => true,
            Self::Command(CommandFault::Failed(_, ending)) => ending.is_from_outside(),
            _ => false,
        }
    }
}

/// Judges a version, which is written at `path`.
pub(crate) async fn passes(check: &Check, content: &Content, path: &Path) -> Result<(), Bad> {
    match content {
        Content::File(bytes) => is_well_formed(check, "it ", bytes)?,
        Content::Folder(folder) => {
            for (name, bytes) in folder.files() {
                is_well_formed(check, &format!("{} ", quoted(name)), bytes)?;
            }
        }
    }
    match &check.exec {
        Some(command) => run(command, &path.to_string_lossy()).await.map_err(Bad::Command),
        None => Ok(()),
    }
}

fn is_well_formed(check: &Check, what: &str, bytes: &Bytes) -> Result<(), Bad> {
    if !check.json && !check.yaml {
        return Ok(());
    }
    let text = std::str::from_utf8(bytes).map_err(|_bytes| Bad::NotUtf8(what.to_owned()))?;
    if check.json
        && let Err(error) = serde_json::from_str::<IgnoredAny>(text)
    {
        return Err(Bad::Json(what.to_owned(), error.line(), error.column()));
    }
    if check.yaml { is_yaml(what, text) } else { Ok(()) }
}

/// Reads it to its end, in bounded memory.
fn is_yaml(what: &str, text: &str) -> Result<(), Bad> {
    let (marks, mut depth) = (Cell::new(0), 0_usize);
    let bounded = text.chars().take_while(|char| {
        marks.set(marks.get() + usize::from(char.is_ascii_punctuation()));
        marks.get() <= MOST_MARKS
    });
    for event in Parser::new_from_iter(bounded) {
        if marks.get() > MOST_MARKS {
            return Err(Bad::Wide(what.to_owned()));
        }
        let (event, _) = event.map_err(|error| {
            let place = error.marker();
            Bad::Yaml(what.to_owned(), place.line(), place.col() + 1)
        })?;
        match &event {
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            _ => {}
        }
        if anchor(&event) > MOST_ANCHORS {
            return Err(Bad::Anchors(what.to_owned()));
        }
        if depth > DEEPEST {
            return Err(Bad::Deep(what.to_owned()));
        }
        marks.set(0);
    }
    Ok(())
}

/// Which anchor of the file the event has, counted from 1, or 0.
const fn anchor(event: &Event<'_>) -> usize {
    match event {
        Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
            *anchor
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pillion_model::sync::SyncCommand;
    use pillion_testkit::Scratch;
    use proptest::prelude::*;

    use super::super::version::Folder;
    use super::*;

    async fn judged(check: &Check, text: &'static str) -> Result<(), String> {
        let content = Content::File(text.into());
        passes(check, &content, Path::new("/dev/null")).await.map_err(|bad| bad.to_string())
    }

    #[tokio::test]
    async fn json_and_yaml_are_read_to_their_end() {
        let json = Check { json: true, ..Check::default() };
        for (text, is_good) in
            [("{\"a\": [1]}", true), ("", false), ("{\"a\": secret}", false), ("{} {}", false)]
        {
            let judged = judged(&json, text).await;
            assert_eq!(judged.is_ok(), is_good, "{text} {judged:?}");
            assert!(!judged.is_err_and(|why| why.contains("secret")));
        }
        let yaml = Check { yaml: true, ..Check::default() };
        for (text, is_good) in
            [("a: 1\nb: [2]\n", true), ("", true), ("a: [1\nb: 'secret", false), ("a: 1\n b: 2\n", false)]
        {
            let judged = judged(&yaml, text).await;
            assert_eq!(judged.is_ok(), is_good, "{text} {judged:?}");
            assert!(!judged.is_err_and(|why| why.contains("secret")));
        }
    }

    #[test]
    fn what_is_not_utf8_is_neither_json_nor_yaml() {
        for check in [Check { json: true, ..Check::default() }, Check { yaml: true, ..Check::default() }] {
            let judged = is_well_formed(&check, "it ", &Bytes::from_static(b"{\"a\":\"\xff\xfe\"}"));
            assert!(matches!(judged, Err(Bad::NotUtf8(_))), "{judged:?}");
        }
    }

    /// A list of 16 MiB in brackets would take gigabytes, and so would 16 MiB of dashes. Anchors would take 170 MB.
    #[test]
    fn yaml_is_read_in_bounded_memory() {
        for part in ["1,", "a: b,"] {
            let wide = is_yaml("it ", &format!("[{}", part.repeat(2 * MOST_MARKS))).unwrap_err();
            assert!(matches!(wide, Bad::Wide(_)), "{part:?} {wide}");
        }
        assert!(matches!(is_yaml("it ", &"- ".repeat(2 * DEEPEST)), Err(Bad::Deep(_))));
        let anchors = |count: usize| (1..=count).map(|nth| format!("- &a{nth}\n")).collect::<String>();
        assert!(matches!(is_yaml("it ", &anchors(MOST_ANCHORS + 1)), Err(Bad::Anchors(_))));
        let lists: String = (0..=MOST_ANCHORS).map(|nth| format!("--- &a{nth} [x]\n")).collect();
        assert!(matches!(is_yaml("it ", &lists), Err(Bad::Anchors(_))), "also of many documents in one file");
        assert!(is_yaml("it ", &anchors(MOST_ANCHORS)).is_ok());
        for text in ["- 1, 2\n".repeat(MOST_MARKS), format!("[{}1]", "1,".repeat(MOST_MARKS / 4))] {
            assert!(is_yaml("it ", &text).is_ok());
        }
    }

    #[tokio::test]
    async fn each_file_of_a_folder_is_judged() {
        let check = Check { json: true, ..Check::default() };
        let files = vec![("a".to_owned(), "{}".into()), ("b".to_owned(), "{".into())];
        let content = Content::Folder(Folder::new(files).unwrap());
        let why = passes(&check, &content, Path::new("/dev/null")).await.unwrap_err();
        assert_eq!(why.to_string(), "\"b\" is not JSON (line 1, column 1)");
        assert!(!why.is_passing());
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_started_or_is_killed_judges_nothing() {
        let exec = |program: &str| {
            let words = program.split(' ').chain(["{file}"]).map(str::to_owned).collect();
            Check { exec: Some(SyncCommand { words, timeout: Duration::from_secs(30) }), ..Check::default() }
        };
        let content = Content::File("x".into());
        let bad = passes(&exec("false"), &content, Path::new("/x")).await.unwrap_err();
        assert!(!bad.is_passing(), "{bad}");
        let scratch = Scratch::new();
        let killed = format!("sh {}", scratch.write("killed", "kill -9 $$").display());
        let told = |code: u8| {
            format!("sh {}", scratch.write(&format!("told-{code}"), format!("exit {code}")).display())
        };
        for program in ["/no/such", &killed, &told(137), &told(143)] {
            let bad = passes(&exec(program), &content, Path::new("/x")).await.unwrap_err();
            assert!(bad.is_passing(), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_content_makes_a_check_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let check = Check { json: true, yaml: true, exec: None };
            drop(is_well_formed(&check, "", &bytes.clone().into()));
            let check = Check { json: false, ..check };
            drop(is_well_formed(&check, "", &bytes.into()));
        }
    }
}
