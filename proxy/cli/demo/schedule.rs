//! When the flaky replica is well, answers 503 or refuses connections: settled before the first request.
//!
//! Pure: a seed is a story without end, and nothing that the proxy does changes it.

use std::ops::RangeInclusive;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// Answers everything with 503.
    Failing,
    /// Its port is closed, and so are the connections it had.
    Refusing,
}

/// A time of one mood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spell {
    pub(crate) mood: Mood,
    pub(crate) lasts: Duration,
}

const PAUSE: RangeInclusive<u32> = 30..=60;
/// Over before anybody is ejected: what retries alone must bear.
const HICCUP: RangeInclusive<u32> = 2..=5;
/// Five errors in a row eject: at the demo's rate a replica's share of the requests is enough several times.
const ILLNESS: RangeInclusive<u32> = 50..=90;

/// What follows on what, over and over; each lasts so many hundredths of the pace.
const ROUND: [(Mood, RangeInclusive<u32>); 8] = [
    (Mood::Well, PAUSE),
    (Mood::Failing, HICCUP),
    (Mood::Well, PAUSE),
    (Mood::Failing, ILLNESS),
    (Mood::Well, PAUSE),
    (Mood::Failing, HICCUP),
    (Mood::Well, PAUSE),
    (Mood::Refusing, ILLNESS),
];

/// One spell after another, for ever.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    dice: fastrand::Rng,
    pace: Duration,
    round: std::iter::Cycle<std::array::IntoIter<(Mood, RangeInclusive<u32>), 8>>,
}

impl Schedule {
    pub(crate) fn new(seed: u64, pace: Duration) -> Self {
        Self { dice: fastrand::Rng::with_seed(seed), pace, round: ROUND.into_iter().cycle() }
    }
}

impl Iterator for Schedule {
    type Item = Spell;

    fn next(&mut self) -> Option<Spell> {
        let (mood, hundredths) = self.round.next()?;
        Some(Spell { mood, lasts: self.pace * self.dice.u32(hundredths) / 100 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACE: Duration = Duration::from_secs(1);

    /// Spells, and when each begins.
    fn first_seconds(seed: u64, seconds: u64) -> Vec<(Duration, Spell)> {
        let mut clock = Duration::ZERO;
        let dated = Schedule::new(seed, PACE).map(|spell| {
            let begins = clock;
            clock += spell.lasts;
            (begins, spell)
        });
        dated.take_while(|(begins, _)| begins.as_secs() < seconds).collect()
    }

    #[test]
    fn a_seed_is_a_story() {
        assert_eq!(first_seconds(7, 60), first_seconds(7, 60));
        assert_ne!(first_seconds(7, 60), first_seconds(8, 60));
    }

    proptest! {
        #[test]
        fn ten_seconds_hold_every_kind_of_trouble_early_enough(seed: u64) {
            let story = first_seconds(seed, 10);
            let illness = |mood| {
                story.iter().find(|(_, spell)| spell.mood == mood && spell.lasts >= PACE / 2).map(|(at, _)| *at)
            };
            prop_assert!(illness(Mood::Failing).is_some_and(|at| at < Duration::from_secs(2)));
            prop_assert!(illness(Mood::Refusing).is_some_and(|at| at < Duration::from_secs(5)));
        }

        #[test]
        fn it_is_well_between_two_troubles(seed: u64) {
            let moods: Vec<Mood> = first_seconds(seed, 30).iter().map(|(_, spell)| spell.mood).collect();
            prop_assert!(moods.windows(2).all(|two| (two[0] == Mood::Well) != (two[1] == Mood::Well)));
        }
    }
}
