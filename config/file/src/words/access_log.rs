//! How the access log is written, and where.

use std::path::PathBuf;

use serde_json::Value;

use super::choice::not_one_of;
use crate::schema::{self, Described};
use crate::value::{BadWord, Text, Word, leaves};
use pillion_model::access_format::{LogFormat, Template, TemplateFault};
use pillion_model::telemetry::LogPath;

impl Word for LogFormat {
    const EXPECTED: &'static str = "json, text or a template (\"%REQ(:METHOD)% %RESPONSE_CODE%\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        const WORDS: [&str; 2] = ["json", "text"];
        const LATER: [&str; 1] = ["logfmt"];
        match text {
            "json" => Ok(Self::Json),
            "text" => template(Template::combined()),
            _ if text.contains('%') => template(Template::parse(text)),
            _ if LATER.contains(&text) => Err(BadWord::not_yet(text)),
            _ => {
                Err(not_one_of(text, &WORDS)
                    .or_help("a template has operators: %REQ(:METHOD)% %RESPONSE_CODE%"))
            }
        }
    }
}

fn template(parsed: Result<Template, TemplateFault>) -> Result<LogFormat, BadWord> {
    parsed.map(LogFormat::Template).map_err(|fault| BadWord::new(fault.what).help(fault.help))
}

impl Described for LogFormat {
    fn described() -> Option<Value> {
        schema::any_of([Some(schema::one_of(["json", "text"].into_iter())), Text::described()])
    }
}

impl Word for LogPath {
    const EXPECTED: &'static str = "stdout, stderr or a path";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "stderr" => Ok(Self::Stderr),
            _ => Text::parse(text).map(|Text(path)| Self::File(PathBuf::from(path))),
        }
    }
}

leaves!(
    LogFormat: |format| match format {
        LogFormat::Json => "json".into(),
        LogFormat::Template(template) => template.spelling().into(),
    },
);
