//! Asks the admin port of a running sidecar.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::header::{AUTHORIZATION, HOST};
use http::uri::Authority;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Collected, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use serde_json::Value;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::client::Client;

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
pub(super) struct AdminPort(Authority);

impl FromStr for AdminPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let authority = rest.and_then(|rest| Authority::from_str(rest).ok());
        let usable = |of: &Authority| of.port_u16().is_some() && !of.as_str().contains('@');
        authority
            .filter(usable)
            .map(Self)
            .ok_or_else(|| format!("write the address of the admin port, such as {USUAL}"))
    }
}

impl fmt::Display for AdminPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

/// The answer of an admin port.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl AdminPort {
    /// `target`: path and query.
    ///
    /// # Errors
    /// Nobody answers there.
    pub(super) async fn ask(&self, method: Method, target: &str) -> anyhow::Result<Answer> {
        let asked = timeout(TIMEOUT, self.answered(method, target)).await;
        asked
            .unwrap_or_else(|_elapsed| bail!("no answer within {} s", TIMEOUT.as_secs()))
            .with_context(|| format!("the sidecar at {self} cannot be asked (see --admin)"))
    }

    async fn answered(&self, method: Method, target: &str) -> anyhow::Result<Answer> {
        let (head, body) = self.connect().await?.ask(self.request(method, target)?).await?.into_parts();
        Ok(Answer { status: head.status, text: String::from_utf8_lossy(&body).into_owned() })
    }

    /// Asks for a page that goes on. Returns the connection too, which must be kept while the body is read.
    ///
    /// # Errors
    /// Nobody answers there, or the sidecar refuses.
    pub(super) async fn stream(&self, target: &str) -> anyhow::Result<(Client, Incoming)> {
        let begun = timeout(TIMEOUT, async {
            let mut client = self.connect().await?;
            let response = client.begin(self.request(Method::GET, target)?).await?;
            anyhow::Ok((client, response))
        });
        let (client, response) = begun
            .await
            .unwrap_or_else(|_elapsed| bail!("no answer within {} s", TIMEOUT.as_secs()))
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

    fn request(&self, method: Method, target: &str) -> anyhow::Result<Request<Empty<Bytes>>> {
        let mut request = Request::builder().method(method).uri(target).header(HOST, self.0.as_str());
        if let Ok(token) = std::env::var(TOKEN) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        Ok(request.body(Empty::new())?)
    }

    /// Connects to the first address that accepts a connection.
    async fn connect(&self) -> anyhow::Result<Client> {
        let mut failed = None;
        for address in lookup_host(self.0.as_str()).await? {
            match Client::connect(address).await {
                Ok(client) => return Ok(client),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| anyhow::anyhow!("the name has no address")))
    }
}

impl Answer {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_port_is_a_url_with_a_port_and_no_path() {
        for (text, expected) in [
            ("http://127.0.0.1:15000", Some("http://127.0.0.1:15000")),
            ("http://[::1]:15000/", Some("http://[::1]:15000")),
            ("http://localhost:1", Some("http://localhost:1")),
            ("127.0.0.1:15000", None),
            ("https://127.0.0.1:15000", None),
            ("http://127.0.0.1", None),
            ("http://127.0.0.1:15000/config", None),
            ("http://a@127.0.0.1:15000", None),
            ("", None),
        ] {
            let parsed = text.parse::<AdminPort>();
            assert_eq!(parsed.map(|port| port.to_string()).ok().as_deref(), expected, "{text}");
        }
    }
}
