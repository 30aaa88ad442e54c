//! Asks the admin port of a running sidecar.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::header::AUTHORIZATION;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::body::{Bytes, Incoming};
use serde_json::Value;
use tokio::time::timeout;

use super::client::Client;
use super::port::Port;

/// The address of the admin port if the command line names none.
pub(super) const USUAL: &str = "http://127.0.0.1:15000";
/// The variable with the token of `admin.token`. It is no argument, because other users see the arguments of a process.
const TOKEN: &str = "PILLION_ADMIN_TOKEN";
/// From the connection to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The sentence of a refusal is shorter.
const REFUSAL_BYTES: usize = 64 * 1024;

/// The admin port as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AdminPort(Port);

impl FromStr for AdminPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl fmt::Display for AdminPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The answer of an admin port.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl AdminPort {
    pub(super) const fn port(&self) -> &Port {
        &self.0
    }

    /// `target`: path and query.
    ///
    /// # Errors
    /// Nobody answers there.
    pub(super) async fn ask(&self, method: Method, target: &str) -> anyhow::Result<Answer> {
        let asked = timeout(TIMEOUT, self.answered(method, target)).await;
        asked
            .unwrap_or_else(|_elapsed| Err(late()))
            .with_context(|| format!("the sidecar at {self} cannot be asked (see --admin)"))
    }

    async fn answered(&self, method: Method, target: &str) -> anyhow::Result<Answer> {
        let (head, body) = self.0.connect().await?.ask(self.request(method, target)?).await?.into_parts();
        Ok(Answer { status: head.status, text: String::from_utf8_lossy(&body).into_owned() })
    }

    /// Asks for a page that goes on. Returns the connection too, which must be kept while the body is read.
    ///
    /// # Errors
    /// Nobody answers there, or the sidecar refuses.
    pub(super) async fn stream(&self, target: &str) -> anyhow::Result<(Client, Incoming)> {
        let begun = timeout(TIMEOUT, async {
            let mut client = self.0.connect().await?;
            let response = client.begin(self.request(Method::GET, target)?).await?;
            anyhow::Ok((client, response))
        });
        let (client, response) = begun
            .await
            .unwrap_or_else(|_elapsed| Err(late()))
            .with_context(|| format!("the sidecar at {self} cannot be asked (see --admin)"))?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            let text = Limited::new(body, REFUSAL_BYTES).collect().await.map(Collected::to_bytes);
            let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
            Answer { status: head.status, text }.json()?;
            bail!("the sidecar answers {}", head.status);
        }
        Ok((client, body))
    }

    fn request(&self, method: Method, target: &str) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = self.0.request(method, target);
        if let Ok(token) = std::env::var(TOKEN) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        Ok(request.body(Full::default())?)
    }
}

/// The error of a call without an answer, which a caller can tell from a refusal.
fn late() -> anyhow::Error {
    let why = format!("no answer within {} s", TIMEOUT.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, why).into()
}

impl Answer {
    /// # Errors
    /// The sidecar has refused the call.
    pub(super) fn accepted(&self) -> anyhow::Result<()> {
        match self.status {
            StatusCode::OK => Ok(()),
            _ => self.json().map(drop),
        }
    }

    /// The content of a good answer.
    ///
    /// # Errors
    /// The sidecar has refused the call, or its answer is not JSON.
    pub(super) fn json(&self) -> anyhow::Result<Value> {
        match self.status {
            StatusCode::OK => serde_json::from_str(&self.text)
                .context("the answer of the sidecar is not JSON; is it an admin port?"),
            StatusCode::UNAUTHORIZED => {
                bail!("the sidecar wants the token of `admin.token`: set the variable {TOKEN}")
            }
            StatusCode::NOT_FOUND if self.text.starts_with("there are ") => {
                bail!("the sidecar has no such page; is it of an older version?")
            }
            status => bail!("the sidecar answers {}: {}", status.as_u16(), self.text.trim_end()),
        }
    }
}
