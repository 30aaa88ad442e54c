//! Texts of others inside our own sentences.

/// At most 60 characters of what somebody wrote, for messages: one line each, and nothing that moves a terminal.
pub fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The known word that was most likely meant. `None`: none of them is near.
pub fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let typed = shortened(typed).to_lowercase().replace('-', "_");
    let scored = known.iter().map(|word| (strsim::jaro_winkler(&typed, word), *word));
    // 0.8: `tmeout` and `time_out` find `timeout`, strangers find nothing
    scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_word_that_was_meant_and_a_stranger_finds_none() {
        assert_eq!(nearest("tmeout", &["tls", "timeout"]), Some("timeout"));
        assert_eq!(nearest("bananas", &["tls", "timeout"]), None);
    }
}
