//! `pillion wait`: waits until a sidecar is ready.

use std::io;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::ending::lasting;
use super::port::Port;

/// The metrics port if the command line names none.
const USUAL: &str = "http://127.0.0.1:15020";
/// The pause after the first question. A sidecar is usually ready within 50 ms.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause. Each question costs a connection, and a quarter of a second more does not matter after seconds.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How long one question waits for its answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// The longest text of an answer that is repeated.
const MOST_TEXT: usize = 1024;

#[derive(Debug, Args)]
pub struct Wait {
    /// How long to wait at most, such as 500ms, 30s or 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = lasting)]
    timeout: Duration,
    /// The metrics port of the sidecar
    #[arg(long, value_name = "URL", default_value = USUAL)]
    metrics: Port,
}

impl Wait {
    /// # Errors
    /// The sidecar is not ready in time. The text has the last reason.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(until_ready(&self.metrics, self.timeout))
    }
}

/// Asks `/ready` of a metrics or admin port until the sidecar is ready.
///
/// # Errors
/// The sidecar is not ready in time.
pub(super) async fn until_ready(port: &Port, patience: Duration) -> anyhow::Result<()> {
    let (deadline, mut pause) = (Instant::now() + patience, FIRST_PAUSE);
    let mut why = format!("{port} does not answer");
    while let left = deadline.saturating_duration_since(Instant::now())
        && !left.is_zero()
    {
        match timeout(left.min(ANSWER_PATIENCE), asked(port)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(said)) => why = said,
            Err(_elapsed) => {} // an earlier reason says more
        }
        sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    bail!("the sidecar is not ready after {patience:?}: {why}")
}

/// Asks once. The error is the reason why the sidecar is not ready.
async fn asked(port: &Port) -> Result<(), String> {
    let answered = async {
        let request = port.request(Method::GET, "/ready").body(Full::<Bytes>::default())?;
        port.connect().await?.ask(request).await
    };
    let answer = answered.await.map_err(|error| unreached(port, &error))?;
    match answer.status() {
        StatusCode::OK => Ok(()),
        status => Err(not_ready(port, status, &String::from_utf8_lossy(answer.body()))),
    }
}

fn unreached(port: &Port, error: &anyhow::Error) -> String {
    let is_refused = error.downcast_ref::<io::Error>().map(io::Error::kind);
    match is_refused {
        Some(io::ErrorKind::ConnectionRefused) => {
            format!("nothing listens at {port}; has the sidecar started, and is its port another one?")
        }
        _ => format!("{port} cannot be asked: {error}"),
    }
}

/// The reason in an answer of `/ready`.
fn not_ready(port: &Port, status: StatusCode, text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match (status, line.strip_prefix("not ready: ")) {
        (StatusCode::SERVICE_UNAVAILABLE, Some(reason)) => reason.chars().take(MOST_TEXT).collect(),
        _ => format!("{port} answers {}; is it the metrics port of a sidecar?", status.as_u16()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_an_answer_is_what_ready_says() {
        let port: Port = USUAL.parse().expect("an address");
        for (status, text, expected) in [
            (503, "not ready: draining\n", "draining"),
            (503, "not ready: waiting for a\nb\n", "waiting for a"),
            (
                503,
                "upstream failed\n",
                "http://127.0.0.1:15020 answers 503; is it the metrics port of a sidecar?",
            ),
            (404, "", "http://127.0.0.1:15020 answers 404; is it the metrics port of a sidecar?"),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(not_ready(&port, status, text), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_at_its_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        drop(listener);
        let port: Port = format!("http://{address}").parse().expect("an address");
        let began = Instant::now();
        let failed =
            until_ready(&port, Duration::from_secs(3)).await.expect_err("nobody is there").to_string();
        assert_eq!(began.elapsed(), Duration::from_secs(3));
        assert!(failed.starts_with("the sidecar is not ready after 3s: "), "{failed}");
    }
}
