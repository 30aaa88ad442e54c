//! Where versions come from: waits for news of one source.

use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderName, Method, StatusCode};
use pillion_model::sync::{self, Store, Sync, SyncToken, WebUrl};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::asker::{AskFault, Asker, BEARER, Question};
use super::consul;
use super::etcd::{self, Lines, Range, Told};
use super::files::{Look, Looks, Unread};
use super::pace::{between, between_looks, between_questions, until_next_look};
use super::version::{BadVersion, Content};
use super::web::{Meaning, Validators};
use pillion_companion::asking::{AskError, Body};

/// The time for an answer that does not wait for a change.
const PATIENCE: Duration = Duration::from_secs(15);
/// An answer within this time has not waited for a change.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long a watch of etcd lasts, so that one whose server has gone without a word is found.
const WATCH: Duration = Duration::from_mins(5);
/// The time between two looks for a key of etcd that does not exist, or whose watch has ended.
const ABSENT: Duration = Duration::from_secs(2);

/// What a source says.
#[derive(Debug)]
pub(crate) enum News {
    Same,
    /// There is no such file or key.
    Absent,
    Version(Content),
}

/// Why a source says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silent {
    #[error(transparent)]
    Ask(#[from] AskFault),
    #[error("it answered {0}{hint}", hint = hint(*.0))]
    Status(StatusCode),
    #[error(transparent)]
    Consul(#[from] consul::BadAnswer),
    #[error(transparent)]
    Etcd(#[from] etcd::BadAnswer),
    #[error(transparent)]
    Version(#[from] BadVersion),
    #[error(transparent)]
    Files(#[from] Unread),
}

impl Silent {
    /// Whether the source has a version that cannot be taken, because of its size or its names.
    pub(crate) const fn is_of_version(&self) -> bool {
        match self {
            Self::Files(why) => why.is_of_version(),
            Self::Version(_)
            | Self::Ask(AskFault::Ask(AskError::TooLong(_)))
            | Self::Consul(consul::BadAnswer::Version(_))
            | Self::Etcd(etcd::BadAnswer::Version(_)) => true,
            _ => false,
        }
    }
}

impl From<AskError> for Silent {
    fn from(error: AskError) -> Self {
        Self::Ask(error.into())
    }
}

/// The next step after a status.
fn hint(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => ": look at `token` and what it may read",
        301 | 302 | 303 | 307 | 308 => ": redirects are not followed, write the address where it leads",
        _ => "",
    }
}

pub(crate) struct Source {
    kind: Kind,
    token: Option<SyncToken>,
    every: Duration,
    /// Whether the operator has asked for that time.
    is_asked_for: bool,
    /// When it was asked last. `None`: not yet, or it is to be asked at once.
    asked: Option<Instant>,
    /// The answers in a row that came at once and brought nothing new.
    idle: u32,
}

enum Kind {
    Consul { store: Store, index: u64 },
    Etcd(Box<Etcd>),
    Web { url: WebUrl, validators: Validators },
    Files(Looks),
}

struct Etcd {
    /// The key as it is written, and with a slash before it: etcd's keys often begin with one.
    spellings: [Store; 2],
    /// The revision up to which the key is known, and its spelling.
    known: Option<(u64, usize)>,
    /// Whether the last look found neither spelling.
    is_absent: bool,
}

impl Source {
    pub(crate) fn new(sync: &Sync) -> Self {
        let kind = match &sync.from.source {
            sync::Source::Consul(store) => Kind::Consul { store: store.clone(), index: 0 },
            sync::Source::Etcd(store) => Kind::Etcd(Box::new(Etcd::new(store))),
            sync::Source::Web(url) => Kind::Web { url: url.clone(), validators: Validators::default() },
            sync::Source::Files(files) => Kind::Files(Looks::new(files.clone())),
        };
        let every = sync.every.unwrap_or_else(|| sync.from.usual_interval());
        let (token, is_asked_for) = (sync.token.clone(), sync.every.is_some());
        Self { kind, token, every, is_asked_for, asked: None, idle: 0 }
    }

    /// Forgets what is known, so that the next news is the whole version, at once.
    pub(crate) fn forget(&mut self) {
        self.asked = None;
        match &mut self.kind {
            Kind::Consul { index, .. } => *index = 0,
            Kind::Etcd(etcd) => etcd.known = None,
            Kind::Web { validators, .. } => *validators = Validators::default(),
            Kind::Files(looks) => looks.forget(),
        }
    }

    /// The last answer has brought a version that was not known.
    pub(crate) fn was_new(&mut self) {
        self.idle = 0;
    }

    /// Waits for the next news. Dropped, it loses nothing: the next call asks again.
    pub(crate) async fn next(&mut self, asker: &Asker) -> Result<News, Silent> {
        if let Some(asked) = self.asked {
            sleep_until(asked + self.pause(asked, asker)).await;
        }
        let asked = Instant::now();
        self.asked = Some(asked);
        let news = self.ask(asker).await;
        self.idle = if asked.elapsed() < AT_ONCE { self.idle.saturating_add(1) } else { 0 };
        news
    }

    async fn ask(&mut self, asker: &Asker) -> Result<News, Silent> {
        let token = self.token.as_ref();
        match &mut self.kind {
            Kind::Consul { store, index } => ask_consul(store, index, token, asker).await,
            Kind::Etcd(etcd) => etcd.next(token, asker).await,
            Kind::Web { url, validators } => ask_web(url, validators, token, asker).await,
            Kind::Files(looks) => Ok(match looks.look(SystemTime::now())? {
                Look::Same => News::Same,
                Look::Absent => News::Absent,
                Look::Version(content) => News::Version(content),
            }),
        }
    }

    /// The time from a question to the next one.
    fn pause(&self, asked: Instant, asker: &Asker) -> Duration {
        let dice = asker.ground.rng.lock().f64();
        match &self.kind {
            Kind::Etcd(etcd) if etcd.is_absent => between(ABSENT, dice),
            Kind::Consul { .. } | Kind::Etcd(_) => between_questions(self.idle),
            Kind::Files(looks) => {
                let every =
                    if self.is_asked_for { self.every } else { between_looks(self.every, looks.files()) };
                until_next_look(asked.saturating_duration_since(asker.began), every)
            }
            Kind::Web { .. } => between(self.every, dice),
        }
    }
}

async fn ask_consul(
    store: &Store,
    index: &mut u64,
    token: Option<&SyncToken>,
    asker: &Asker,
) -> Result<News, Silent> {
    let question = Question::of_store(store, Method::GET, &consul::question(store, *index))?;
    let question = question.with_token(HeaderName::from_static(consul::TOKEN), "", token)?;
    let answer = asker.ask(question, consul::patience(*index)).await?;
    let status = answer.status();
    if status != StatusCode::OK && status != StatusCode::NOT_FOUND {
        return Err(Silent::Status(status));
    }
    let said = answer.headers().get(consul::INDEX).and_then(|said| said.to_str().ok());
    let next = consul::next_index(*index, said)?;
    if next == *index {
        return Ok(News::Same);
    }
    let content = match status {
        StatusCode::OK => consul::read(store, &answer.into_body()?)?,
        _ => None,
    };
    *index = next;
    Ok(content.map_or(News::Absent, News::Version))
}

async fn ask_web(
    url: &WebUrl,
    validators: &mut Validators,
    token: Option<&SyncToken>,
    asker: &Asker,
) -> Result<News, Silent> {
    let (header, scheme) = BEARER;
    let mut question = Question::of_web(url, Method::GET)?.with_token(header, scheme, token)?;
    validators.add_to(question.request.headers_mut());
    let answer = asker.ask(question, PATIENCE).await?;
    match validators.meaning(answer.status()) {
        Meaning::Same => Ok(News::Same),
        Meaning::Absent => {
            *validators = Validators::default(); // the same content is news when it comes back
            Ok(News::Absent)
        }
        Meaning::Failure => Err(Silent::Status(answer.status())),
        Meaning::Content => {
            let (head, content) = answer.into_parts();
            let content = Content::file(content?.into())?;
            *validators = Validators::of(&head.headers);
            Ok(News::Version(content))
        }
    }
}

impl Etcd {
    fn new(store: &Store) -> Self {
        let other = Store { key: format!("/{}", store.key), ..store.clone() };
        Self { spellings: [store.clone(), other], known: None, is_absent: false }
    }

    async fn next(&mut self, token: Option<&SyncToken>, asker: &Asker) -> Result<News, Silent> {
        if let Some((revision, spelling)) = self.known {
            let [written, other] = &self.spellings;
            let store = if spelling == 0 { written } else { other };
            until_changed(store, revision, token, asker).await?;
        }
        (self.known, self.is_absent) = (None, false);
        for (spelling, store) in self.spellings.iter().enumerate() {
            let Range { revision, content } = range(store, token, asker).await?;
            if let Some(content) = content {
                self.known = Some((revision, spelling));
                return Ok(News::Version(content));
            }
        }
        self.is_absent = true;
        Ok(News::Absent)
    }
}

async fn range(store: &Store, token: Option<&SyncToken>, asker: &Asker) -> Result<Range, Silent> {
    let question = Question::of_store(store, Method::POST, etcd::RANGE)?;
    let question = question.with_token(AUTHORIZATION, "", token)?.with_json(etcd::range_question(store));
    let answer = asker.ask(question, PATIENCE).await?;
    if answer.status() != StatusCode::OK {
        return Err(Silent::Status(answer.status()));
    }
    Ok(etcd::read(store, &answer.into_body()?)?)
}

/// Waits until something may have changed after `revision`. A watch is not trusted for long.
async fn until_changed(
    store: &Store,
    revision: u64,
    token: Option<&SyncToken>,
    asker: &Asker,
) -> Result<(), Silent> {
    let dice = asker.ground.rng.lock().f64();
    let until = Instant::now() + between(WATCH, dice);
    let question = Question::of_store(store, Method::POST, etcd::WATCH)?;
    let question =
        question.with_token(AUTHORIZATION, "", token)?.with_json(etcd::watch_question(store, revision));
    let answer = asker.begin(question, PATIENCE).await?;
    if answer.status() != StatusCode::OK {
        return Err(Silent::Status(answer.status()));
    }
    let mut body = answer.into_body();
    let told = timeout_at(until, heard(&mut body)).await.unwrap_or(Ok(Told::Changed))?;
    if told == Told::Ended {
        sleep(between(ABSENT, dice)).await; // a server that ends each watch at once is not asked without a pause
    }
    Ok(())
}

/// The first message of a watch that says something.
async fn heard(body: &mut Body) -> Result<Told, Silent> {
    let mut lines = Lines::default();
    while let Some(bytes) = body.next().await {
        lines.add(&bytes?);
        while let Some(line) = lines.next() {
            match etcd::heard(&line)? {
                Told::Nothing => {}
                told => return Ok(told),
            }
        }
        if lines.is_long() {
            return Ok(Told::Changed);
        }
    }
    Ok(Told::Ended)
}
