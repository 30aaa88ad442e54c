//! Decides what is shed when the process takes more memory than it may.
//!
//! Pure: what is used, the limit and the time come as arguments. The order is fixed. First the caches of services give
//! up a part of what they hold, and the allocator what it keeps ([`Shedding::purge_is_due`]), and the memory is measured once
//! more. Then clients that have proven nothing are
//! closed, then new connections are refused, then connections at rest are closed. Each step is kept until usage has been well below the limit for a while, so that it does not begin
//! and end in turn.

use std::time::Duration;

use tokio::time::Instant;

/// How far shedding has come. Each step includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Nothing,
    /// Clients without a proven identity that are not admitted yet are closed.
    Strangers,
    /// New connections are refused.
    Refusing,
    /// Connections at rest are closed.
    Resting,
}

impl Step {
    const fn further(self) -> Self {
        match self {
            Self::Nothing => Self::Strangers,
            Self::Strangers => Self::Refusing,
            Self::Refusing | Self::Resting => Self::Resting,
        }
    }

    const fn back(self) -> Self {
        match self {
            Self::Resting => Self::Refusing,
            Self::Refusing => Self::Strangers,
            Self::Strangers | Self::Nothing => Self::Nothing,
        }
    }
}

/// One part in 40 of the limit. This far above it there is no time for one step after another: of a cgroup whose 90 % are
/// the limit, three quarters of the rest are left.
const FAR: u64 = 40;
/// One part in 10 of the limit. This far below it the memory is well.
const WELL: u64 = 10;
/// How long the memory has to be well before a step is taken back: longer than a client waits until it connects again.
const WELL_FOR: Duration = Duration::from_secs(1);
/// How long usage has to be below the limit, however little, before a step is taken back all the same: a process that needs
/// most of its memory at rest would refuse connections for ever.
const CALM_FOR: Duration = Duration::from_secs(10);
/// The allocator is asked again after this time. It looks through all of its arenas for some 100 µs.
const PURGE_EVERY: Duration = Duration::from_millis(100);

/// The shortest pause between two looks. A look takes some 70 µs.
const SHORTEST: Duration = Duration::from_millis(5);

/// Remembers what was decided before.
#[derive(Debug)]
pub struct Shedding {
    /// The last look, and what was used then.
    last: Option<(Instant, u64)>,
    step: Step,
    well_since: Option<Instant>,
    /// Since when usage has not been above the limit, or since the last step back.
    calm_since: Option<Instant>,
    purged: Option<Instant>,
}

/// What is to be done after one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actions {
    /// The step in force.
    pub step: Step,
    /// Bytes above the limit, which are to be freed by the steps in force. 0: nothing is closed.
    pub excess: u64,
    /// When to look again.
    pub next: Duration,
}

impl Default for Shedding {
    fn default() -> Self {
        Self { last: None, step: Step::Nothing, well_since: None, calm_since: None, purged: None }
    }
}

impl Shedding {
    /// Whether the allocator is to give back what it keeps, before anybody is closed for memory that nobody uses.
    pub fn purge_is_due(&mut self, used: u64, limit: u64, now: Instant) -> bool {
        let is_due = used > limit && self.purged.is_none_or(|last| now.duration_since(last) >= PURGE_EVERY);
        if is_due {
            self.purged = Some(now);
        }
        is_due
    }

    /// Decides by the bytes that are `used` of `limit`.
    pub fn look(&mut self, used: u64, limit: u64, now: Instant) -> Actions {
        let excess = used.saturating_sub(limit);
        self.step = match excess {
            0 => self.step_below(used, limit, now),
            _ if excess > limit / FAR => Step::Resting,
            _ => self.step.further(),
        };
        if excess > 0 {
            (self.well_since, self.calm_since) = (None, None);
        }
        let until_full = self.until_full(used, limit, now);
        self.last = Some((now, used));
        let next = pause(used, limit).min((until_full / 2).max(SHORTEST));
        Actions { step: self.step, excess, next }
    }

    /// When the limit is reached if usage grows on as it has since the last look.
    fn until_full(&self, used: u64, limit: u64, now: Instant) -> Duration {
        let grown = self.last.and_then(|(then, before)| {
            let growth = used.checked_sub(before).filter(|growth| *growth > 0)?;
            Some((now.saturating_duration_since(then), growth))
        });
        let Some((within, growth)) = grown else { return Duration::MAX };
        let looks = limit.saturating_sub(used) as f64 / growth as f64;
        Duration::try_from_secs_f64(within.as_secs_f64() * looks).unwrap_or(Duration::MAX)
    }

    /// The step while usage is not above the limit: one step back for each [`WELL_FOR`] in which the memory was well, or for each
    /// [`CALM_FOR`] in which it was within the limit.
    fn step_below(&mut self, used: u64, limit: u64, now: Instant) -> Step {
        self.well_since = (used <= limit - limit / WELL).then(|| self.well_since.unwrap_or(now));
        let calm_since = *self.calm_since.get_or_insert(now);
        let has_passed = |since: Instant, time| now.duration_since(since) >= time;
        if !self.well_since.is_some_and(|since| has_passed(since, WELL_FOR))
            && !has_passed(calm_since, CALM_FOR)
        {
            return self.step;
        }
        (self.well_since, self.calm_since) = (self.well_since.map(|_| now), Some(now));
        self.step.back()
    }
}

/// The time until the next look where usage does not grow: the less memory is left, the sooner.
const fn pause(used: u64, limit: u64) -> Duration {
    Duration::from_millis(match () {
        () if used > limit => 10,
        () if used > limit - limit / 4 => 50,
        () if used > limit / 2 => 200,
        () => 500,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: u64 = 1000;
    const ABOVE: u64 = 1001;
    const BETWEEN: u64 = 950;
    const BELOW: u64 = 900;

    /// Looks once for each usage, with `pause` between them. Returns the steps.
    fn steps(of: &mut Shedding, now: &mut Instant, pause: Duration, usages: &[u64]) -> Vec<Step> {
        let look = |used: &u64| {
            *now += pause;
            of.look(*used, LIMIT, *now).step
        };
        usages.iter().map(look).collect()
    }

    #[test]
    fn each_look_above_the_limit_goes_one_step_further() {
        let (mut of, mut now) = (Shedding::default(), Instant::now());
        let ten = Duration::from_millis(10);
        use Step::*;
        assert_eq!(steps(&mut of, &mut now, ten, &[LIMIT, ABOVE, ABOVE]), [Nothing, Strangers, Refusing]);
        assert_eq!(steps(&mut of, &mut now, ten, &[ABOVE, ABOVE, LIMIT]), [Resting; 3]);
        assert_eq!(of.look(ABOVE, LIMIT, now).excess, 1);
    }

    #[test]
    fn the_allocator_is_asked_above_the_limit_alone_and_not_each_time() {
        let (mut of, now) = (Shedding::default(), Instant::now());
        assert!(!of.purge_is_due(LIMIT, LIMIT, now));
        assert!(of.purge_is_due(ABOVE, LIMIT, now) && !of.purge_is_due(ABOVE, LIMIT, now));
        assert!(of.purge_is_due(ABOVE, LIMIT, now + PURGE_EVERY));
    }

    #[test]
    fn far_above_the_limit_every_step_is_taken_at_once() {
        let actions = Shedding::default().look(LIMIT + LIMIT / 40 + 1, LIMIT, Instant::now());
        assert_eq!((actions.step, actions.excess), (Step::Resting, 26));
    }

    #[test]
    fn a_step_is_taken_back_only_after_a_second_well_below_the_limit() {
        let (mut of, mut now) = (Shedding::default(), Instant::now());
        of.look(2 * LIMIT, LIMIT, now);
        let half = Duration::from_millis(500);
        use Step::*;
        assert_eq!(steps(&mut of, &mut now, half, &[BETWEEN; 10]), [Resting; 10]);
        assert_eq!(steps(&mut of, &mut now, half, &[BELOW, BELOW, BETWEEN]), [Resting; 3]);
        let back = [Resting, Resting, Refusing, Refusing, Strangers, Strangers, Nothing, Nothing, Nothing];
        assert_eq!(steps(&mut of, &mut now, half, &[BELOW; 9]), back);
        assert_eq!(steps(&mut of, &mut now, half, &[ABOVE, ABOVE]), [Strangers, Refusing], "all begins anew");
    }

    #[test]
    fn within_the_limit_for_ten_seconds_a_step_is_taken_back_however_little_is_free() {
        let (mut of, mut now) = (Shedding::default(), Instant::now());
        of.look(2 * LIMIT, LIMIT, now);
        let five = Duration::from_secs(5);
        use Step::*;
        let expected = [Resting, Resting, Refusing, Refusing, Strangers, Strangers, Nothing];
        assert_eq!(steps(&mut of, &mut now, five, &[LIMIT; 7]), expected);
    }

    #[test]
    fn less_memory_is_looked_at_more_often() {
        let pauses = [0, 501, 751, 1001].map(|used| pause(used, LIMIT).as_millis());
        assert_eq!(pauses, [500, 200, 50, 10]);
    }

    #[test]
    fn memory_that_grows_is_looked_at_before_it_reaches_the_limit() {
        let (mut of, now) = (Shedding::default(), Instant::now());
        let mut look = |used, at| of.look(used, LIMIT, now + Duration::from_millis(at)).next.as_millis();
        assert_eq!(look(100, 0), 500);
        assert_eq!(look(400, 300), 300, "600 more come within 600 ms");
        assert_eq!(look(700, 400), 50, "300 within 100 ms");
        assert_eq!(look(990, 500), 5);
        assert_eq!(look(980, 600), 50, "it does not grow");
    }

    proptest! {
        /// Whatever the usage does: nothing is closed at or below the limit, no step is left out on the way down, new
        /// connections are admitted again only a second after they were refused, and a look is never far away.
        #[test]
        fn shedding_keeps_its_order_and_does_not_flap(
            looks in proptest::collection::vec((0_u64..3000, 1_u64..700), 1..300),
            limit in 1_u64..2000,
        ) {
            let (mut of, mut now) = (Shedding::default(), Instant::now());
            let (mut before, mut was_above) = (Step::Nothing, None);
            for (used, pause) in looks {
                now += Duration::from_millis(pause);
                let actions = of.look(used, limit, now);
                prop_assert_eq!(actions.excess, used.saturating_sub(limit));
                prop_assert!((5..=500).contains(&actions.next.as_millis()));
                if actions.excess == 0 {
                    prop_assert!(actions.step <= before && actions.step >= before.back());
                } else {
                    was_above = Some(now);
                    prop_assert!(actions.step >= before);
                }
                if actions.step < before {
                    prop_assert!(was_above.is_none_or(|then| now - then >= WELL_FOR));
                }
                before = actions.step;
            }
        }

        /// Memory that stays above the limit is met with every step within three looks, and a limit that is kept for four
        /// seconds ends them all.
        #[test]
        fn shedding_begins_and_ends(used in 0_u64..3000, limit in 1_u64..2000, pause in 1_u64..2000) {
            let (mut of, mut now) = (Shedding::default(), Instant::now());
            let mut step = Step::Nothing;
            for _ in 0..3 {
                now += Duration::from_millis(pause);
                step = of.look(used.max(limit + 1), limit, now).step;
            }
            prop_assert_eq!(step, Step::Resting);
            for _ in 0..4 {
                of.look(0, limit, now);
                now += WELL_FOR;
                step = of.look(0, limit, now).step;
            }
            prop_assert_eq!(step, Step::Nothing);
        }
    }
}
