//! The order of questions about one kind of objects of a namespace: a list in pages, then one watch after the other from
//! where the last one ended, and a new list when the server no longer knows what happened since.
//!
//! Random parts of pauses come in as `dice`, in [0, 1): many sidecars that lose one server do not come back at once.

use std::time::Duration;

/// The objects of one page. With a hundred endpoints in each slice, which Kubernetes fills them with, 50 take 2 MiB.
const PAGE: u32 = 50;
/// The objects of one list. What a server has beyond is not used, as no more is kept.
const MOST_LISTED: usize = 20_000;
/// The pages of one list beyond one for each object: filters of a server may leave pages empty. A list that has more never ends.
const MOST_EMPTY: usize = 400;
/// How long a watch lasts, at least, and how much longer at most. The server closes it then, so that a connection that was
/// lost without a word is noticed in minutes. client-go asks for five to ten.
const WATCH: Duration = Duration::from_mins(4);
const LONGER: Duration = Duration::from_mins(2);
/// A watch that lasted this long was a good one.
const STEADY: Duration = Duration::from_secs(5);
/// The pause after a first failure. It doubles with each further one up to [`LONGEST_PAUSE`], and a random part of up to a
/// half is left out.
const PAUSE: Duration = Duration::from_secs(1);
/// client-go's longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What `retry-after` may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(2);

/// The next question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    List { limit: u32, next: Option<String> },
    Watch { from: String, lasting: Duration },
}

/// How a question ended, other than with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server ended the watch, as it does after a while.
    Closed,
    /// The version, or the rest of the list, has been forgotten (410).
    Expired,
    /// There was no answer, a refusal, or the connection broke off. `after`: when the server wants to be asked again.
    Failed { after: Option<Duration> },
    /// The server does not accept the question, perhaps because of the version in it.
    Refused,
    /// What the server sent cannot be read, so that a change may be missing.
    Unreadable,
    /// The page has too many bytes.
    TooLong,
    /// The list has page after page, and hardly an object.
    Endless,
}

/// What a page was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// There are more.
    Part,
    /// The last one.
    Whole,
    /// The last one that is asked for, although there are more.
    Enough,
}

/// Why a list begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Start,
    /// Other services are followed.
    Services,
    Expired,
    Refused,
    Unreadable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Listing { next: Option<String>, pages: usize, objects: usize },
    Watching { from: String },
}

/// Where one kind of objects of a namespace stands.
#[derive(Debug)]
pub struct Follow {
    phase: Phase,
    cause: Cause,
    /// Questions in a row that brought neither a steady watch nor news.
    failures: u32,
    /// Whether the present watch has brought news.
    has_news: bool,
    page: u32,
}

impl Default for Follow {
    fn default() -> Self {
        let phase = Phase::Listing { next: None, pages: 0, objects: 0 };
        Self { phase, cause: Cause::Start, failures: 0, has_news: false, page: PAGE }
    }
}

impl Follow {
    pub fn step(&self, dice: f64) -> Step {
        match &self.phase {
            Phase::Listing { next, .. } => Step::List { limit: self.page, next: next.clone() },
            Phase::Watching { from } => {
                Step::Watch { from: from.clone(), lasting: WATCH + LONGER.mul_f64(dice) }
            }
        }
    }

    /// Why a list begins now. `None`: it goes on, or there is a watch.
    pub const fn begins_list(&self) -> Option<Cause> {
        match self.phase {
            Phase::Listing { pages: 0, .. } => Some(self.cause),
            _ => None,
        }
    }

    /// Questions in a row that failed.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// A page with so many objects has come.
    ///
    /// # Errors
    /// The list never ends.
    pub fn listed(&mut self, version: String, next: Option<String>, objects: usize) -> Result<Listed, End> {
        let Phase::Listing { pages, objects: before, .. } = self.phase else { return Ok(Listed::Part) };
        let (pages, objects) = (pages.saturating_add(1), before.saturating_add(objects));
        let listed = match &next {
            None => Listed::Whole,
            Some(_) if objects >= MOST_LISTED => Listed::Enough,
            Some(_) if pages >= MOST_EMPTY.saturating_add(objects) => return Err(End::Endless),
            Some(_) => Listed::Part,
        };
        self.phase = match listed {
            Listed::Part => Phase::Listing { next, pages, objects },
            Listed::Whole | Listed::Enough => Phase::Watching { from: version },
        };
        Ok(listed)
    }

    /// An event or a bookmark has come.
    pub fn heard(&mut self, version: &str) {
        if let Phase::Watching { from } = &mut self.phase {
            self.has_news |= from != version;
            version.clone_into(from);
        }
    }

    /// Begins a new list, because other services are followed.
    pub fn list_anew(&mut self) {
        self.begin_list(Cause::Services);
    }

    /// The question has ended. Returns the pause before the next one. `lasted`: since the answer to a watch began.
    pub fn ended(&mut self, end: End, lasted: Duration, dice: f64) -> Duration {
        let is_list = matches!(self.phase, Phase::Listing { .. });
        let goes_on = !is_list && matches!(end, End::Closed | End::Failed { .. });
        let has_news = std::mem::take(&mut self.has_news) && goes_on;
        let failures = if lasted >= STEADY || has_news { 0 } else { self.failures };
        self.failures = failures.saturating_add(1);
        match end {
            _ if goes_on => {}
            End::TooLong => {
                self.page = (self.page / 2).max(1);
                self.begin_list(self.cause);
            }
            End::Expired => self.begin_list(Cause::Expired),
            End::Refused if !is_list => self.begin_list(Cause::Refused),
            End::Unreadable => self.begin_list(Cause::Unreadable),
            End::Closed | End::Failed { .. } | End::Refused | End::Endless => self.begin_list(self.cause),
        }
        let own = pause(failures, dice);
        match end {
            End::Failed { after: Some(after) } => {
                after.min(LONGEST_RETRY_AFTER).max(own) + PAUSE.mul_f64(dice)
            }
            _ => own,
        }
    }

    fn begin_list(&mut self, cause: Cause) {
        self.cause = cause;
        self.phase = Phase::Listing { next: None, pages: 0, objects: 0 };
    }
}

/// The pause after this many failures before it.
fn pause(failures: u32, dice: f64) -> Duration {
    let whole = PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
    whole.mul_f64(1.0 - dice / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_mins(5);

    fn list(limit: u32, next: Option<&str>) -> Step {
        Step::List { limit, next: next.map(str::to_owned) }
    }

    fn watching(from: &str) -> Follow {
        let mut follow = Follow::default();
        assert_eq!(follow.listed(from.into(), None, 1), Ok(Listed::Whole));
        follow
    }

    fn from(follow: &Follow) -> String {
        match follow.step(0.0) {
            Step::Watch { from, .. } => from,
            list => format!("{list:?}"),
        }
    }

    #[test]
    fn a_list_is_asked_for_page_by_page_and_then_a_watch_from_its_version() {
        let mut follow = Follow::default();
        assert_eq!((follow.step(0.5), follow.begins_list()), (list(50, None), Some(Cause::Start)));
        assert_eq!(follow.listed("7".into(), Some("more".into()), 50), Ok(Listed::Part));
        assert_eq!((follow.step(0.5), follow.begins_list()), (list(50, Some("more")), None));
        assert_eq!(follow.listed("7".into(), None, 1), Ok(Listed::Whole));
        assert_eq!(follow.step(0.5), Step::Watch { from: "7".into(), lasting: WATCH + LONGER / 2 });
        follow.heard("9");
        assert_eq!(from(&follow), "9");
    }

    #[test]
    fn a_watch_that_ends_goes_on_from_the_last_version_and_one_that_expired_begins_a_list() {
        for end in [End::Closed, End::Failed { after: None }] {
            let mut follow = watching("7");
            follow.heard("8");
            assert_eq!(follow.ended(end, LONG, 0.0), PAUSE);
            assert_eq!(from(&follow), "8");
        }
        let ends = [
            (End::Expired, Cause::Expired),
            (End::Refused, Cause::Refused),
            (End::Unreadable, Cause::Unreadable),
        ];
        for (end, cause) in ends {
            let mut follow = watching("7");
            follow.ended(end, LONG, 0.0);
            assert_eq!((follow.step(0.0), follow.begins_list()), (list(50, None), Some(cause)));
        }
    }

    #[test]
    fn a_list_that_breaks_off_begins_anew() {
        let mut follow = Follow::default();
        follow.listed("7".into(), Some("more".into()), 50).unwrap();
        follow.ended(End::Failed { after: None }, NO_TIME, 0.0);
        assert_eq!(follow.step(0.0), list(50, None));
    }

    #[test]
    fn pages_that_are_too_long_become_smaller() {
        let mut follow = Follow::default();
        let limits: Vec<_> = (0..8)
            .map(|_| {
                follow.ended(End::TooLong, NO_TIME, 0.0);
                follow.page
            })
            .collect();
        assert_eq!(limits, [25, 12, 6, 3, 1, 1, 1, 1]);
    }

    #[test]
    fn a_long_list_is_used_to_a_bound_and_watched_whatever_the_size_of_its_pages() {
        for (objects, pages) in [(50, 400), (7, 2858), (1, 20_000)] {
            let mut follow = Follow::default();
            let more = || Some("more".to_owned());
            let enough = (1..).find(|_| follow.listed("7".into(), more(), objects) == Ok(Listed::Enough));
            assert_eq!((enough, from(&follow)), (Some(pages), "7".to_owned()));
        }
    }

    #[test]
    fn a_list_of_empty_pages_is_given_up_and_asked_for_again_in_pages_of_the_same_size() {
        let mut follow = Follow::default();
        let more = || Some("more".to_owned());
        let end = (1..).find(|_| follow.listed("7".into(), more(), 0) == Err(End::Endless));
        assert_eq!(end, Some(MOST_EMPTY));
        let pauses: Vec<_> = (0..6).map(|_| follow.ended(End::Endless, NO_TIME, 0.0).as_secs()).collect();
        assert_eq!((pauses, follow.step(0.0)), (vec![1, 2, 4, 8, 16, 30], list(50, None)));
    }

    #[test]
    fn pauses_grow_while_no_watch_is_steady_and_half_of_each_may_be_left_out() {
        let mut follow = watching("7");
        let mut pause = |lasted, dice| follow.ended(End::Closed, lasted, dice).as_millis();
        let many: Vec<_> = (0..7).map(|_| pause(NO_TIME, 0.0)).collect();
        assert_eq!(many, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(pause(NO_TIME, 0.99), 15_150);
        assert_eq!([pause(LONG, 0.5), pause(NO_TIME, 0.5)], [750, 1500], "a steady one in between");
    }

    #[test]
    fn a_watch_with_news_that_breaks_off_early_goes_on_soon_and_a_list_does_not_come_soon_again() {
        let mut follow = watching("7");
        let mut end = |version: &str, end| {
            follow.heard(version);
            follow.ended(end, NO_TIME, 0.0).as_secs()
        };
        assert_eq!(["8", "9", "9", "9", "10"].map(|version| end(version, End::Closed)), [1, 1, 2, 4, 1]);
        assert_eq!([end("11", End::Expired), end("12", End::Expired)], [2, 4]);
    }

    #[test]
    fn a_server_that_forgets_at_once_is_not_asked_in_a_circle() {
        let mut follow = Follow::default();
        let mut waited = NO_TIME;
        for _ in 0..10 {
            follow.listed("7".into(), None, 1).unwrap();
            waited += follow.ended(End::Expired, NO_TIME, 0.5);
        }
        assert!(waited > Duration::from_mins(2), "{waited:?}");
    }

    #[test]
    fn the_server_says_when_it_wants_to_be_asked_again_within_a_bound() {
        let pause = |after| {
            let mut follow = watching("7");
            follow.ended(End::Failed { after: Some(Duration::from_secs(after)) }, NO_TIME, 0.0).as_secs()
        };
        assert_eq!([pause(0), pause(20), pause(1_000_000)], [1, 20, 120]);
    }
}
