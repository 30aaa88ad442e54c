//! `pillion drain`: what a preStop hook runs. Inbound of a running sidecar drains, and the sidecar goes on for the
//! application.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use http::Method;
use serde_json::Value;
use tokio::time::sleep;

use super::admin::{AdminPort, USUAL};
use super::output::{print, print_failure};

/// The pause between two questions. Each costs the sidecar a connection.
const PAUSE: Duration = Duration::from_millis(200);
/// How many questions in a row may stay without an answer. A sidecar that has ended accepts no connection at all.
const MOST_BROKEN: usize = 5;

#[derive(Debug, Args)]
pub struct Drain {
    /// The admin port of the sidecar
    #[arg(long, value_name = "URL", default_value = USUAL)]
    admin: AdminPort,
}

/// What a sidecar says of the drain of its inbound side.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Draining,
    Idle,
    /// `drain.timeout` is over, and this many connections are at work.
    TimedOut(u64),
}

/// How the drain went.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Idle,
    TimedOut(u64),
    /// The process was told to end meanwhile, and listens no more. It has nothing left to drain.
    Ended,
}

/// What the failure of a question says of a sidecar.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No process listens there.
    Refused,
    /// The connection ended without an answer.
    Broken,
    /// No answer came in time, or the network failed.
    Late,
    /// Anything else, such as an answer that refuses: the sidecar may still drain.
    Unclear,
}

impl Drain {
    /// Returns when inbound is idle, at `drain.timeout`, or when the sidecar has ended.
    ///
    /// # Errors
    /// The sidecar cannot be asked, or refuses.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.drained())
    }

    async fn drained(self) -> anyhow::Result<()> {
        match outcome(self.order().await?, async || self.order().await).await? {
            Outcome::Idle => print("inbound is drained\n"),
            Outcome::Ended => print("the sidecar has ended\n"),
            Outcome::TimedOut(at_work) => {
                print_failure(&format!(
                    "drain.timeout is over, and {at_work} inbound connections are still at work"
                ));
                Ok(())
            }
        }
    }

    /// Orders the drain. A further order joins the first.
    async fn order(&self) -> anyhow::Result<Said> {
        said(&self.admin.ask(Method::POST, "/drain?only=inbound").await?.json()?)
    }
}

/// Asks again and again how far the drain is, after it was ordered and `said` was answered.
async fn outcome(
    mut said: Said,
    mut ask: impl AsyncFnMut() -> anyhow::Result<Said>,
) -> anyhow::Result<Outcome> {
    let mut broken = 0;
    loop {
        match said {
            Said::Draining => sleep(PAUSE).await,
            Said::Idle => return Ok(Outcome::Idle),
            Said::TimedOut(at_work) => return Ok(Outcome::TimedOut(at_work)),
        }
        let why = match ask().await {
            Ok(answer) => {
                (said, broken) = (answer, 0);
                continue;
            }
            Err(why) => why,
        };
        broken += 1;
        match failure(&why) {
            Failure::Refused => return Ok(Outcome::Ended),
            // the next question tells whether it has ended
            Failure::Broken | Failure::Late if broken <= MOST_BROKEN => {}
            Failure::Broken | Failure::Late | Failure::Unclear => {
                return Err(why).context("the drain has begun, and how far it is cannot be learnt");
            }
        }
    }
}

pub(super) fn failure(why: &anyhow::Error) -> Failure {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof};
    for cause in why.chain() {
        match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(ConnectionRefused) => return Failure::Refused,
            Some(BrokenPipe | ConnectionReset | UnexpectedEof) => return Failure::Broken,
            Some(_other) => return Failure::Late,
            None => {}
        }
        let of_http = cause.downcast_ref::<hyper::Error>();
        if of_http
            .is_some_and(|error| error.is_incomplete_message() || error.is_closed() || error.is_canceled())
        {
            return Failure::Broken;
        }
    }
    Failure::Unclear
}

fn said(answer: &Value) -> anyhow::Result<Said> {
    let at_work = answer.get("at_work").and_then(Value::as_u64).unwrap_or_default();
    match answer.get("inbound").and_then(Value::as_str) {
        Some("draining") => Ok(Said::Draining),
        Some("idle") => Ok(Said::Idle),
        Some("timed_out") => Ok(Said::TimedOut(at_work)),
        _ => bail!("the sidecar's answer does not say how far its drain is; is it of another version?"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    fn error(kind: io::ErrorKind) -> anyhow::Error {
        anyhow::Error::new(io::Error::from(kind)).context("the sidecar cannot be asked")
    }

    /// The outcome with these answers, and with refused connections after them.
    async fn with(answers: Vec<anyhow::Result<Said>>) -> anyhow::Result<Outcome> {
        let mut answers = answers.into_iter();
        let refused = || Err(error(io::ErrorKind::ConnectionRefused));
        outcome(Said::Draining, async || answers.next().unwrap_or_else(refused)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_has_ended_when_it_listens_no_more_and_not_for_any_failure() {
        let broken = || Err(error(io::ErrorKind::ConnectionReset));
        let late = || Err(error(io::ErrorKind::TimedOut));
        let refuses = || Err(anyhow::anyhow!("the sidecar answers 403"));
        for (answers, expected) in [
            (vec![], Some(Outcome::Ended)),
            (vec![Ok(Said::Draining), broken()], Some(Outcome::Ended)),
            (vec![broken(), broken(), Ok(Said::Draining), Ok(Said::Idle)], Some(Outcome::Idle)),
            (vec![Ok(Said::TimedOut(3))], Some(Outcome::TimedOut(3))),
            (vec![late(), Ok(Said::Draining), late(), broken(), Ok(Said::Idle)], Some(Outcome::Idle)),
            ((0..=MOST_BROKEN).map(|_| broken()).collect(), None),
            ((0..=MOST_BROKEN).map(|_| late()).collect(), None),
            (vec![Ok(Said::Draining), refuses()], None),
        ] {
            let said = format!("{answers:?}");
            assert_eq!(with(answers).await.ok(), expected, "{said}");
        }
        let why = with(vec![refuses()]).await.expect_err("it lives");
        assert_eq!(
            format!("{why:#}"),
            "the drain has begun, and how far it is cannot be learnt: the sidecar answers 403"
        );
    }

    /// The failures as the client of the admin port has them.
    #[tokio::test]
    async fn a_connection_that_ends_is_told_from_one_that_is_refused_and_from_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let admin: AdminPort = format!("http://{address}").parse().expect("an address");
        let asked = async || failure(&Drain { admin: admin.clone() }.order().await.expect_err("no answer"));
        let answering = async |answer: &[u8]| {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.expect("a request") > 0);
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.expect("an open connection");
        };
        assert_eq!(tokio::join!(asked(), answering(b"")).0, Failure::Broken);
        let other = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(tokio::join!(asked(), answering(other)).0, Failure::Unclear);
        let half = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{";
        assert_eq!(tokio::join!(asked(), answering(half)).0, Failure::Broken);
        drop(listener);
        assert_eq!(asked().await, Failure::Refused);
    }

    /// The clock stands still but for the patience of the client.
    #[tokio::test]
    async fn an_answer_that_does_not_come_is_late() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let admin: AdminPort = format!("http://{address}").parse().expect("an address");
        tokio::time::pause();
        let why = Drain { admin }.order().await.expect_err("no answer");
        assert_eq!(failure(&why), Failure::Late);
        assert!(format!("{why:#}").ends_with(": no answer within 10 s"), "{why:#}");
    }

    #[test]
    fn an_answer_says_how_far_the_drain_is() {
        for (answer, expected) in [
            (json!({ "inbound": "draining", "at_work": 2 }), Some(Said::Draining)),
            (json!({ "inbound": "idle", "at_work": 0 }), Some(Said::Idle)),
            (json!({ "inbound": "timed_out", "at_work": 2 }), Some(Said::TimedOut(2))),
            (json!({ "inbound": "gone" }), None),
            (json!([]), None),
        ] {
            assert_eq!(said(&answer).ok(), expected, "{answer}");
        }
    }
}
