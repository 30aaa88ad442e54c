//! Foreign texts for use in our own messages.

/// At most 60 characters of a foreign text. Control characters become spaces, so that the text stays on its line and
/// cannot control a terminal.
pub fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The known word that was most likely meant. `None`: no known word is similar.
pub fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let typed = shortened(typed).to_lowercase().replace('-', "_");
    let scored = known.iter().map(|word| (strsim::jaro_winkler(&typed, word), *word));
    // 0.8: with this score `tmeout` and `time_out` find `timeout`, and unrelated words find nothing
    scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_the_known_word_and_an_unrelated_word_finds_none() {
        assert_eq!(nearest("tmeout", &["tls", "timeout"]), Some("timeout"));
        assert_eq!(nearest("bananas", &["tls", "timeout"]), None);
    }
}
