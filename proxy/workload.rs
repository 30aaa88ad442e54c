//! The client of a SPIFFE Workload API: it asks for the identity of this process, and hears of each new one.
//!
//! One call stays open, `FetchX509SVID`: each of its messages has the identity with all trust bundles, so that they are
//! put to use together ([`messages`], [`answer`]). When the call ends, it is made again after a pause. Deliberately
//! absent: JWT-SVIDs, `FetchX509Bundles`, which has nothing that is not in these messages, and the use of what was
//! issued.

mod answer;
mod messages;

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pillion_grpc::connection::Io;
use pillion_grpc::prost::Message as _;
use pillion_grpc::{Client, Code, Connection, Messages, Request, Status};
use pillion_model::identity::WorkloadApi;
use pillion_model::text::shortened;
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::unix_now;
use pillion_tls::sha256;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use answer::BadAnswer;
use messages::{X509SvidRequest, X509SvidResponse as Answer};

const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// Without this field a Workload API refuses every request, so that no web page can make one (SPIFFE Workload Endpoint,
/// 5).
const SECURITY_FIELD: (&str, &str) = ("workload.spiffe.io", "true");
/// gRPC's name for the server at a Unix socket.
const ORIGIN: &str = "http://localhost";
/// 4 MiB: what gRPC's libraries accept by default, so an agent sends no longer message.
const LONGEST: usize = 4 * 1024 * 1024;
/// The longest time until the first answer to a call, which an agent sends at once. Later ones come when something
/// changes, perhaps after hours.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause after a first failure. It doubles with each further one, up to [`LONGEST_PAUSE`], and a random part of up
/// to a half is left out.
const PAUSE: Duration = Duration::from_millis(500);
/// Short enough that a workload which has just been registered becomes ready soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// News that wait for their reader. While there are more, the call is not read on.
const NEWS: usize = 1;

/// What was heard from a Workload API.
#[derive(Debug)]
pub(crate) enum News {
    Issued(Box<Credentials>),
    /// It answers again, after a failure that was told, and what it issued last is still current.
    Same,
    Failed(Failure),
}

/// Why nothing was issued. Each is told once until another one, or an identity, follows.
#[derive(Debug, thiserror::Error)]
#[error("the Workload API at {api}: {why}")]
pub(crate) struct Failure {
    api: String,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error(
        "cannot connect to the socket: {0}; the agent must run, and the sidecar's user must have access to the socket"
    )]
    Unreachable(io::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error(
        "no identity is registered for this process ({0:?}); register the workload, with selectors that match the \
         sidecar's process (in SPIRE: `spire-server entry create`)"
    )]
    NotRegistered(String),
    #[error("the call is refused ({code:?}: {said:?}); is this the socket of a SPIFFE Workload API?")]
    Refused { code: Code, said: String },
    #[error("the call broke off ({code:?}: {said:?})")]
    BrokeOff { code: Code, said: String },
    #[error("the call was ended by the agent")]
    Ended,
    #[error("the answer is refused: it is longer than {} MiB", LONGEST / (1024 * 1024))]
    TooLong,
    #[error("the answer is refused: {0}")]
    BadAnswer(#[from] BadAnswer),
}

impl From<Status> for Why {
    fn from(status: Status) -> Self {
        let (code, said) = (status.code(), shortened(status.message()));
        match code {
            Code::PermissionDenied => Self::NotRegistered(said),
            Code::OutOfRange => Self::TooLong, // pillion-grpc's, for a message beyond its bound
            Code::InvalidArgument | Code::Unimplemented | Code::Unauthenticated => {
                Self::Refused { code, said }
            }
            _ => Self::BrokeOff { code, said },
        }
    }
}

impl Failure {
    /// Whether there was an answer, which could not be used.
    pub(crate) const fn is_bad_answer(&self) -> bool {
        matches!(self.why, Why::BadAnswer(_) | Why::TooLong)
    }
}

type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Connects to a socket. Tests connect to an agent in memory, because a paused clock and sockets of the kernel do not go
/// together.
pub(crate) type Dial = Arc<dyn Fn(&Path) -> Dialled + Send + Sync>;

pub(crate) fn dial_unix() -> Dial {
    Arc::new(|socket| {
        let socket = socket.to_owned();
        Box::pin(async move {
            let io: Box<dyn Io> = Box::new(UnixStream::connect(socket).await?);
            Ok(io)
        })
    })
}

/// Follows a Workload API until the receiver is dropped.
pub(crate) fn follow(
    api: WorkloadApi,
    dial: Dial,
) -> (mpsc::Receiver<News>, impl Future<Output = ()> + Send) {
    let (tell, heard) = mpsc::channel(NEWS);
    let mut following = Following { api, dial, tell, issued: None, told: None, failures: 0 };
    (heard, async move { while following.attempt().await.is_ok() {} })
}

struct Following {
    api: WorkloadApi,
    dial: Dial,
    tell: mpsc::Sender<News>,
    /// The hash of the answer that was issued last.
    issued: Option<[u8; 32]>,
    /// The failure that was told last, unless an answer has followed.
    told: Option<String>,
    /// How many attempts have failed since the last good answer.
    failures: u32,
}

/// Nobody hears the news any more.
struct Unheard;

impl Following {
    /// Makes the call, hears it to its end, and waits until the next may be made.
    async fn attempt(&mut self) -> Result<(), Unheard> {
        let answers = first_answer(&self.api, &self.dial).await;
        let ended = match answers {
            Ok((first, messages)) => self.hear(first, messages).await?,
            Err(why) => why,
        };
        self.note_end(ended).await?;
        let pause = pause(self.failures, fastrand::f64());
        self.failures = self.failures.saturating_add(1);
        tokio::select! { // nothing is lost: without a receiver there is no further attempt
            () = sleep(pause) => Ok(()),
            () = self.tell.closed() => Err(Unheard),
        }
    }

    /// Hears one answer after the other. Returns why no more came.
    async fn hear(&mut self, first: Answer, mut messages: Messages<Answer>) -> Result<Why, Unheard> {
        let mut next: Result<_, Status> = Ok(Some(first));
        loop {
            match next {
                Ok(Some(answer)) => {
                    if let Some(bad) = self.take(answer).await? {
                        return Ok(bad.into());
                    }
                }
                Ok(None) => return Ok(Why::Ended),
                Err(status) => return Ok(status.into()),
            }
            next = tokio::select! { // nothing is lost: without a receiver the call ends
                next = messages.next() => next,
                () = self.tell.closed() => return Err(Unheard),
            };
        }
    }

    /// Tells what an answer issues, if it is new. Returns why it cannot be used. The answer, which has the key, is not kept.
    async fn take(&mut self, answer: Answer) -> Result<Option<BadAnswer>, Unheard> {
        let hash = sha256(&answer.encode_to_vec());
        let told = self.told.take();
        let news = if self.issued == Some(hash) {
            told.map(|_failure| News::Same)
        } else {
            match answer::read(&answer, self.api.trust_domain.as_deref(), unix_now()) {
                Ok(credentials) => Some(News::Issued(Box::new(credentials))),
                Err(bad) => {
                    self.told = told;
                    return Ok(Some(bad));
                }
            }
        };
        (self.issued, self.failures) = (Some(hash), 0);
        if let Some(news) = news {
            self.say(news).await?;
        }
        Ok(None)
    }

    /// Tells the end of a call, unless it was told already. An agent that restarts is no news: the end of a call that
    /// was good is told when the next one fails, too.
    async fn note_end(&mut self, why: Why) -> Result<(), Unheard> {
        let was_good = self.failures == 0 && self.issued.is_some();
        let is_denied = matches!(why, Why::NotRegistered(_));
        let failure = Failure { api: self.api.to_string(), why };
        let is_news = !was_good || is_denied || failure.is_bad_answer();
        let text = failure.to_string();
        if !is_news || self.told.as_ref() == Some(&text) {
            tracing::debug!("{text}");
            return Ok(());
        }
        self.told = Some(text);
        self.say(News::Failed(failure)).await
    }

    async fn say(&self, news: News) -> Result<(), Unheard> {
        self.tell.send(news).await.map_err(|_unheard| Unheard)
    }
}

/// Makes the call and waits for its first answer.
async fn first_answer(api: &WorkloadApi, dial: &Dial) -> Result<(Answer, Messages<Answer>), Why> {
    let asking = async {
        let io = dial(&api.socket).await.map_err(Why::Unreachable)?;
        let connection = Connection::open(io).await?;
        let mut client = Client::new(connection, http::Uri::from_static(ORIGIN), LONGEST);
        let mut request = Request::new(X509SvidRequest {});
        let (field, value) = SECURITY_FIELD;
        request.metadata_mut().insert(field, value.parse().map_err(|_invalid| Why::Ended)?);
        let mut messages = client.server_streaming(FETCH, request, PATIENCE).await?;
        let first = messages.next().await?.ok_or(Why::Ended)?;
        Ok((first, messages))
    };
    timeout_at(Instant::now() + PATIENCE, asking).await.unwrap_or(Err(Why::Silent))
}

/// The pause after this many failures before it. `random` is from 0 to 1.
fn pause(failures: u32, random: f64) -> Duration {
    let whole = PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
    whole.mul_f64(1.0 - random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound_and_half_of_each_may_be_left_out() {
        let millis = |failures, random| pause(failures, random).as_millis();
        let longest = [0, 1, 2, 3, 4, 5, 100, u32::MAX].map(|failures| millis(failures, 0.0));
        assert_eq!(longest, [500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000]);
        assert_eq!([millis(0, 1.0), millis(9, 1.0), millis(9, 0.5)], [250, 5000, 7500]);
    }
}
