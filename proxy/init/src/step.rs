//! One command of a plan: what runs, its input, and the commands that undo it.

use std::fmt;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::machine::find;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) program: String,
    pub(crate) words: Vec<String>,
    /// Standard input.
    pub(crate) script: Option<String>,
    /// Commands that run when a later step fails.
    pub(crate) back: Vec<Self>,
}

/// A command that failed, with its error output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedStep {
    pub(crate) command: String,
    pub(crate) said: String,
}

impl Step {
    pub(crate) fn new(program: impl Into<String>, words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { program: program.into(), words, script: None, back: Vec::new() }
    }

    pub(crate) fn reading(self, script: String) -> Self {
        Self { script: Some(script), ..self }
    }

    pub(crate) fn or_back(mut self, back: impl IntoIterator<Item = Self>) -> Self {
        self.back.extend(back);
        self
    }

    fn describe(&self) -> String {
        [std::slice::from_ref(&self.program), &self.words].concat().join(" ")
    }

    /// Runs the command and returns its output.
    pub(crate) fn run(&self) -> Result<String, FailedStep> {
        let failed = |said: String| FailedStep { command: self.describe(), said };
        let program =
            find(&self.program).ok_or_else(|| failed(format!("{} is not installed", self.program)))?;
        let mut command = Command::new(program);
        command.args(&self.words).env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        if let (Some(mut input), Some(script)) = (child.stdin.take(), &self.script) {
            // a program that ends before it has read all input reports the reason itself
            _ = input.write_all(script.as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(failed(error_text(&text(&output.stderr), &output.status.to_string()))),
        }
    }
}

/// The first lines of a program's error output, or its exit status.
fn error_text(stderr: &str, status: &str) -> String {
    const MAX_LINES: usize = 4;
    let lines: Vec<_> =
        stderr.lines().map(str::trim).filter(|line| !line.is_empty()).take(MAX_LINES).collect();
    if lines.is_empty() { status.to_owned() } else { lines.join("; ") }
}

/// A line of a shell script that does the same.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.script {
            None => writeln!(f, "{}", self.describe()),
            Some(script) => write!(f, "{} <<'END'\n{script}END\n", self.describe()),
        }
    }
}

/// Runs all steps. If one fails, the finished steps are undone in reverse order.
pub(crate) fn run_all(steps: &[Step]) -> Result<(), (FailedStep, Vec<FailedStep>)> {
    for (index, step) in steps.iter().enumerate() {
        if let Err(failed) = step.run() {
            let done = steps.iter().take(index).rev();
            let back = done.flat_map(|step| &step.back).filter_map(|step| step.run().err()).collect();
            return Err((failed, back));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Step {
        Step::new("sh", &["-s"]).reading(script.to_owned())
    }

    #[test]
    fn a_failure_undoes_the_finished_steps_in_reverse() {
        let file = std::env::temp_dir().join(format!("pillion-init-steps-{}", std::process::id()));
        let append = |word: &str| shell(&format!("printf %s\\  {word} >>{}", file.display()));
        let steps = [
            append("one").or_back([append("-one")]),
            append("two").or_back([append("-two")]),
            shell("echo no >&2; exit 3").or_back([append("never")]),
            append("never"),
        ];
        let (failed, back) = run_all(&steps).expect_err("the third fails");
        assert_eq!((failed.said.as_str(), back), ("no", Vec::new()));
        assert_eq!(std::fs::read_to_string(&file).expect("written"), "one two -two -one ");
        std::fs::remove_file(&file).expect("removed");
    }

    #[test]
    fn a_program_that_is_absent_is_named() {
        let failed = Step::new("pillion-absent", &["-x"]).run().expect_err("absent");
        assert_eq!(failed.said, "pillion-absent is not installed");
        assert_eq!(failed.command, "pillion-absent -x");
    }
}
