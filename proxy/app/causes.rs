//! The text of an error with its causes, each once.
//!
//! Some errors include their cause in their own sentence and also return it as a source. Listing all sources would then
//! repeat the cause.

pub(crate) fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read ca.pem: {0}; it must exist")]
    struct Unreadable(#[source] io::Error);

    #[test]
    fn c11_a_cause_that_the_sentence_already_names_is_not_repeated() {
        let error =
            anyhow::Error::new(Unreadable(io::Error::other("no such file"))).context("services.a.tls");
        assert_eq!(with_causes(&error), "services.a.tls: cannot read ca.pem: no such file; it must exist");
        let error = anyhow::Error::new(io::Error::other("in use")).context("cannot listen on 1.2.3.4:5");
        assert_eq!(with_causes(&error), "cannot listen on 1.2.3.4:5: in use");
    }
}
