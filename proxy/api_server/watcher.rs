//! Follows one kind of objects of a namespace: asks, notes the answers, and waits, to the end of the process.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Response, StatusCode};
use pillion_http::message::Headers;
use pillion_kubernetes::follow::{Cause, End, Follow, Listed, Step};
use pillion_kubernetes::frames::{BadFrame, Frames};
use pillion_kubernetes::objects::{self, BadAnswer, Event, Kind, Status};
use pillion_sidecar::layers::pushback::Pushback;
use pillion_telemetry::{ListCause, WatchState};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::client::{Client, Unasked};
use super::{Known, Touched};
use pillion_companion::asking::{AskError, Body};

/// From a question to the head of its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// From the head to the last byte of a page.
const PATIENCE_FOR_A_PAGE: Duration = Duration::from_mins(1);
/// How much longer than it was asked for a watch may last.
const GRACE: Duration = Duration::from_secs(30);
/// 8 MiB: the largest page.
const MOST_PAGE_BYTES: usize = 8 * 1024 * 1024;
/// 2 MiB: the largest event. etcd keeps no object of more than 1.5 MiB.
const MOST_EVENT_BYTES: usize = 2 * 1024 * 1024;
/// 64 KiB: the reason of a refusal.
const MOST_REASON_BYTES: usize = 64 * 1024;

/// The characters of a server's reason that are told: a refusal names the account, the verb and the resource.
const MOST_SAID: usize = 300;

/// Follows one kind of objects of a namespace.
pub(crate) struct Watcher {
    of: (Arc<str>, Kind),
    /// The own one, if it is known.
    node: Option<Arc<str>>,
    known: Arc<Known>,
    client: Arc<Client>,
    follow: Follow,
    /// Wakes it when other services are followed.
    wake: Arc<Notify>,
    /// The failure that was logged last, unless an answer has followed.
    told: Option<String>,
    /// What the pages of the present list had beyond the bounds.
    left_out: usize,
    /// The namespace has more objects than are kept, and the log says so.
    is_beyond: bool,
}

/// How a question ended.
struct Ended {
    end: End,
    /// Since the answer to a watch began.
    lasted: Duration,
    /// Why, unless it is usual.
    why: Option<Box<Failure>>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Unasked(#[from] Unasked),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Slow,
    #[error("its list is not complete within {} s", PATIENCE_FOR_A_PAGE.as_secs())]
    SlowPage,
    #[error("a watch was not ended in time")]
    Silent,
    #[error(
        "it refuses the sidecar ({code}: {said:?}); bind a Role with get, list and watch on {resource} to its service account"
    )]
    Forbidden { code: u16, said: String, resource: &'static str },
    #[error("it does not know the sidecar ({code}: {said:?}); is the token of this cluster, and valid?")]
    Unknown { code: u16, said: String },
    #[error("it answered {code} ({said:?})")]
    Answered { code: u16, said: String },
    #[error("the connection broke off: {0}")]
    BrokeOff(AskError),
    #[error("its answer cannot be used: {0}")]
    BadAnswer(#[from] BadAnswer),
    #[error("its answer cannot be used: {0}")]
    BadFrame(#[from] BadFrame),
    #[error("a page of its list has more than {} KiB", MOST_PAGE_BYTES / 1024)]
    TooLong,
    #[error("its list does not end: it has page after page, and hardly an object")]
    Endless,
}

impl Failure {
    /// Whether asking again without a change at the server or in the files is in vain.
    const fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::Forbidden { .. }
                | Self::Unknown { .. }
                | Self::Unasked(Unasked::NotFound(_) | Unasked::Setup(_) | Unasked::BadToken)
                | Self::BadAnswer(_)
                | Self::BadFrame(_)
        )
    }
}

impl Ended {
    fn failed(end: End, why: impl Into<Failure>) -> Self {
        Self { end, lasted: Duration::ZERO, why: Some(Box::new(why.into())) }
    }

    fn by(why: impl Into<Failure>) -> Self {
        Self::failed(End::Failed { after: None }, why)
    }
}

impl Watcher {
    pub(crate) fn new(
        of: (Arc<str>, Kind),
        node: Option<Arc<str>>,
        known: Arc<Known>,
        client: Arc<Client>,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            of,
            node,
            known,
            client,
            follow: Follow::default(),
            wake,
            told: None,
            left_out: 0,
            is_beyond: false,
        }
    }

    /// Until the task is aborted.
    pub(crate) async fn run(mut self) {
        let wake = self.wake.clone();
        loop {
            tokio::select! { // a question that is dropped is asked again, in the new list
                biased;
                () = wake.notified() => self.follow.list_anew(),
                () = self.step() => {}
            }
        }
    }

    /// Asks the next question, and waits until the one after it may be asked.
    async fn step(&mut self) {
        let dice = self.dice();
        let asked = match self.follow.step(dice) {
            Step::List { limit, next } => self.list(limit, next).await,
            Step::Watch { from, lasting } => self.watch(&from, lasting).await,
        };
        if let Err(Ended { end, lasted, why }) = asked {
            let pause = self.follow.ended(end, lasted, self.dice());
            self.note_end(why);
            sleep(pause).await;
        }
    }

    fn dice(&self) -> f64 {
        self.client.ground.rng.lock().f64()
    }

    async fn list(&mut self, limit: u32, next: Option<String>) -> Result<(), Ended> {
        let ((namespace, kind), known) = (self.of.clone(), self.known.clone());
        if let Some(cause) = self.follow.begins_list() {
            self.left_out = 0;
            self.note(WatchState::Listing, None);
            self.client.ground.metrics.kubernetes_lists(label(cause)).inc();
            known.change(&namespace, |of| {
                of.begin_list(kind);
                Touched::nothing()
            });
        }
        let mut query = vec![("limit", limit.to_string())];
        query.extend(next.map(|next| ("continue", next)));
        let mut body = self.ask(query).await?;
        let reading = timeout(PATIENCE_FOR_A_PAGE, body.whole(MOST_PAGE_BYTES)).await;
        let bytes = match reading.map_err(|_slow| Ended::by(Failure::SlowPage))? {
            Ok(bytes) => bytes,
            Err(AskError::TooLong(_)) => return Err(Ended::failed(End::TooLong, Failure::TooLong)),
            Err(broken) => return Err(Ended::by(Failure::BrokeOff(broken))),
        };
        let mut page = objects::page(kind, &bytes, self.node.as_deref())
            .map_err(|bad| Ended::failed(End::Unreadable, bad))?;
        drop(bytes);
        let (version, next) = (std::mem::take(&mut page.version), page.next.take());
        let listed = self.follow.listed(version, next, page.objects.len());
        let listed = listed.map_err(|end| Ended::failed(end, Failure::Endless))?;
        let is_complete = listed != Listed::Part;
        let mut left_out = usize::from(listed == Listed::Enough);
        known.change(&namespace, |of| {
            left_out += of.take_page(page);
            if !is_complete {
                return Touched::nothing();
            }
            of.end_list(kind);
            Touched::All
        });
        self.left_out += left_out;
        if is_complete {
            self.note_bounds(self.left_out > 0);
            self.is_heard();
        }
        Ok(())
    }

    async fn watch(&mut self, from: &str, lasting: Duration) -> Result<(), Ended> {
        let query = vec![
            ("watch", "true".to_owned()),
            ("allowWatchBookmarks", "true".to_owned()),
            ("resourceVersion", from.to_owned()),
            ("timeoutSeconds", lasting.as_secs().to_string()),
        ];
        let mut body = self.ask(query).await?;
        let began = Instant::now();
        self.is_heard();
        let ended = match timeout_at(began + lasting + GRACE, self.hear(&mut body)).await {
            Ok(ended) => ended,
            Err(_elapsed) => Ended::by(Failure::Silent),
        };
        Err(Ended { lasted: began.elapsed(), ..ended })
    }

    /// Takes the events of a watch to its end.
    async fn hear(&mut self, body: &mut Body) -> Ended {
        let mut frames = Frames::new(MOST_EVENT_BYTES);
        loop {
            let events = match body.next().await {
                None if frames.is_between() => {
                    return Ended { end: End::Closed, lasted: Duration::ZERO, why: None };
                }
                None => return Ended::by(Failure::BadFrame(BadFrame::CutOff)),
                Some(Err(broken)) => return Ended::by(Failure::BrokeOff(broken)),
                Some(Ok(bytes)) => frames.take(&bytes),
            };
            let events = match events {
                Ok(events) => events,
                Err(bad) => return Ended::failed(End::Unreadable, bad),
            };
            for bytes in events {
                if let Err(ended) = self.take(&bytes) {
                    return ended;
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let (namespace, kind) = self.of.clone();
        let event = objects::event(kind, bytes, self.node.as_deref())
            .map_err(|bad| Ended::failed(End::Unreadable, bad))?;
        match &event {
            Event::Failed(status) => return Err(refused(status, kind, None)),
            Event::Set { version, .. } | Event::Removed { version, .. } | Event::Bookmark { version } => {
                self.follow.heard(version);
            }
        }
        let mut is_beyond = false;
        self.known.clone().change(&namespace, |of| {
            let (touched, beyond) = of.apply(kind, event);
            is_beyond = beyond;
            Touched::Services(touched)
        });
        // only a list shows that nothing is left out any more
        self.note_bounds(is_beyond || self.is_beyond);
        self.is_heard();
        Ok(())
    }

    /// Asks for the objects, and returns the content of a good answer.
    async fn ask(&self, mut query: Vec<(&'static str, String)>) -> Result<Body, Ended> {
        let (namespace, kind) = &self.of;
        query.extend(self.known.selector(namespace, *kind).flatten());
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let path = format!("{}?{query}", kind.path(namespace));
        let asking = async {
            let answer = self.client.get(&path).await.map_err(Ended::by)?;
            match answer.status() {
                StatusCode::OK => Ok(answer.into_body()),
                _ => Err(refusal(answer, *kind).await),
            }
        };
        timeout(PATIENCE, asking).await.unwrap_or_else(|_elapsed| Err(Ended::by(Failure::Slow)))
    }

    fn note(&self, state: WatchState, why: Option<Arc<str>>) {
        let heard = (state == WatchState::Watching).then(|| self.client.ground.network.unix_now());
        self.known.note(&self.of, (state, why), heard);
        self.known.tell(&self.client.ground.metrics);
    }

    /// The server has answered.
    fn is_heard(&mut self) {
        self.note(WatchState::Watching, None);
        if self.told.take().is_some() {
            let (namespace, kind) = &self.of;
            tracing::info!(
                namespace = &**namespace,
                resource = kind.resource(),
                "the API server answers again"
            );
        }
    }

    /// Notes why a question has failed, and logs it once. A watch that breaks off is nothing special: it is logged when the
    /// question after it fails as well.
    fn note_end(&mut self, why: Option<Box<Failure>>) {
        let Some(why) = why else { return };
        let (is_lasting, text) = (why.is_lasting(), why.to_string());
        let said: Arc<str> = text.as_str().into();
        self.note(WatchState::Waiting, Some(said.clone()));
        let (namespace, kind) = self.of.clone();
        self.known.change(&namespace, |of| match of.fail(kind, said) {
            true => Touched::All,
            false => Touched::nothing(),
        });
        let resource = kind.resource();
        if self.told.as_ref() == Some(&text) || !is_lasting && self.follow.failures() < 2 {
            tracing::debug!(namespace = &*namespace, resource, "{text}");
            return;
        }
        tracing::warn!(
            namespace = &*namespace,
            resource,
            "the API server of Kubernetes: {text}; known endpoints stay"
        );
        self.told = Some(text);
    }

    /// Logs that the namespace has more objects than are kept, and once that it has no more.
    fn note_bounds(&mut self, is_beyond: bool) {
        let (namespace, kind) = &self.of;
        let (namespace, resource) = (&**namespace, kind.resource());
        match (is_beyond, std::mem::replace(&mut self.is_beyond, is_beyond)) {
            (true, false) => tracing::warn!(
                namespace,
                resource,
                left_out = self.left_out.max(1),
                "the namespace has more objects than are kept; those that are known stay"
            ),
            (false, true) => {
                tracing::info!(namespace, resource, "all objects of the namespace are kept again")
            }
            _ => {}
        }
    }
}

const fn label(cause: Cause) -> ListCause {
    match cause {
        Cause::Start => ListCause::Start,
        Cause::Services => ListCause::Services,
        Cause::Expired => ListCause::Expired,
        Cause::Refused => ListCause::Refused,
        Cause::Unreadable => ListCause::Unreadable,
    }
}

/// What an answer means that is no good one.
async fn refusal(answer: Response<Body>, kind: Kind) -> Ended {
    let (head, mut body) = answer.into_parts();
    let said = body.whole(MOST_REASON_BYTES).await.unwrap_or_default();
    refused(&objects::status(head.status.as_u16(), &said), kind, after(&head.headers))
}

fn refused(status: &Status, kind: Kind, after: Option<Duration>) -> Ended {
    let (code, said) = (status.code, status.message.chars().take(MOST_SAID).collect());
    if status.is_expired() {
        return Ended { end: End::Expired, lasted: Duration::ZERO, why: None };
    }
    let why = match code {
        401 => Failure::Unknown { code, said },
        403 => Failure::Forbidden { code, said, resource: kind.resource() },
        _ => Failure::Answered { code, said },
    };
    // 504 is for a version that the server does not have yet, as after a restore of an older state
    let end = if matches!(code, 400 | 404 | 500 | 504) { End::Refused } else { End::Failed { after } };
    Ended::failed(end, why)
}

/// When the server wants to be asked again.
fn after(headers: &HeaderMap) -> Option<Duration> {
    match Pushback::of(&Headers::Map(headers.clone()), false, SystemTime::now())? {
        Pushback::NotBefore(after) | Pushback::Exactly(after) => Some(after),
        Pushback::Never => None,
    }
}
