//! Keeps the keys with which tokens are verified (`inbound.authorization.jwt.jwks`) up to date.
//!
//! There is one follower for the whole process, beside the data path: no request waits for a key set. Keys that cannot be
//! read or fetched leave those in use as they are. A file is read first when its configuration is applied, which fails with
//! it. Keys from a URL are fetched at once, then at every `refresh`, and earlier for a token with an unknown key.

mod fetch;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use pillion_authz::keys::{KeySet, MOST_BYTES};
use pillion_base::ground::Ground;
use pillion_model::authorization::{Authorization as Rules, Jwks, JwksUrl};
use pillion_sidecar::state::Store;
use pillion_sidecar::state::tokens::Keys;
use pillion_telemetry::JwksOutcome;
use pillion_tls::files::{Content, Looked};
use pillion_tls::sha256;
use pillion_upstream::discovery::Resolver;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

/// How often is looked for a new configuration and a new file.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The time between two fetches, whatever tokens ask for.
const EARLIEST: Duration = Duration::from_mins(1);
/// The pauses after failed fetches while there are no keys yet: from 1 s, doubled each time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The keys for this configuration: those in use while their source is the same. How often a URL is fetched changes no key.
///
/// # Errors
/// The file cannot be used.
pub(super) fn keys(of: Option<&Rules>, now: Option<&Arc<Keys>>) -> anyhow::Result<Option<Arc<Keys>>> {
    let Some(source) = of.and_then(|rules| rules.jwt.as_ref()).map(|jwt| &jwt.jwks) else { return Ok(None) };
    if let Some(same) = now.filter(|now| now.source == *source) {
        return Ok(Some(same.clone()));
    }
    if let Some(same) = now.filter(|now| has_same_url(&now.source, source)) {
        return Ok(Some(same.with_source(source.clone())));
    }
    let set = match source {
        Jwks::Url { .. } => None,
        Jwks::File(path) => {
            let read = read(path).and_then(|text| Ok(KeySet::read(&text)?));
            Some(read.with_context(|| format!("inbound.authorization.jwt.jwks.file {}", path.display()))?)
        }
    };
    Ok(Some(Keys::new(source.clone(), set)))
}

fn has_same_url(one: &Jwks, other: &Jwks) -> bool {
    matches!((one, other), (Jwks::Url { url: one, .. }, Jwks::Url { url: other, .. }) if one == other)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MOST_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Follows the source of the keys in use.
pub(super) struct KeyFollower {
    store: Arc<Store>,
    ground: Arc<Ground>,
    resolver: Arc<Resolver>,
    followed: Option<Followed>,
}

struct Followed {
    keys: Arc<Keys>,
    task: AbortHandle,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KeyFollower {
    pub(super) fn new(store: Arc<Store>, ground: Arc<Ground>) -> Self {
        Self { store, ground, resolver: Arc::new(Resolver::system()), followed: None }
    }

    /// To the end of the process.
    pub(super) async fn run(mut self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look();
        }
    }

    fn look(&mut self) {
        let snapshot = self.store.load_full();
        let rules = snapshot.inbound.as_ref().and_then(|side| side.authorization.as_ref());
        let wanted = rules.and_then(|rules| rules.tokens.as_ref()).map(|tokens| &tokens.keys);
        match (wanted, &self.followed) {
            (Some(wanted), Some(followed)) if Arc::ptr_eq(wanted, &followed.keys) => {}
            (Some(wanted), _) => self.followed = Some(self.follow(wanted)),
            (None, _) => self.followed = None,
        }
    }

    fn follow(&self, keys: &Arc<Keys>) -> Followed {
        let reading = Reading { keys: keys.clone(), ground: self.ground.clone(), said: None, content: None };
        let resolver = self.resolver.clone();
        let task = match &keys.source {
            Jwks::File(path) => tokio::spawn(reading.of_file(path.clone())),
            Jwks::Url { url, refresh } => tokio::spawn(reading.of_url(url.clone(), *refresh, resolver)),
        };
        Followed { keys: keys.clone(), task: task.abort_handle() }
    }
}

/// Reads one source again and again.
struct Reading {
    keys: Arc<Keys>,
    ground: Arc<Ground>,
    /// The last failure that was logged, so that each is logged once.
    said: Option<String>,
    /// The SHA-256 of the keys in use.
    content: Option<[u8; 32]>,
}

impl Reading {
    async fn of_file(mut self, path: std::path::PathBuf) {
        let mut file = Looked::new(&path, MOST_BYTES as u64 + 1);
        let mut seen = file.look(SystemTime::now());
        let mut known = None; // the first look may find a file that was written after the configuration was applied
        loop {
            if known != Some(seen) {
                known = Some(seen);
                let source = path.display().to_string();
                match read(&path) {
                    Ok(text) => self.take(&source, &text),
                    Err(error) => self.failed(&source, error.to_string()),
                }
            }
            seen = settled(&mut file).await;
        }
    }

    async fn of_url(mut self, url: JwksUrl, refresh: Duration, resolver: Arc<Resolver>) {
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let earliest = began + EARLIEST;
            match fetch::fetch(&url, &self.ground, &resolver).await {
                Ok(text) => self.take(&url.to_string(), &text),
                Err(why) => self.failed(&url.to_string(), why.to_string()),
            }
            failures = if self.said.is_some() { failures + 1 } else { 0 };
            let is_known = self.keys.load().is_some();
            let dice = self.ground.rng.lock().f64();
            let next = Instant::now() + pause(refresh, failures, is_known, dice);
            tokio::select! { // nothing is lost: a token that misses its key again asks again
                () = sleep_until(next) => {}
                () = self.keys.missed(), if is_known => sleep_until(next.min(earliest)).await,
            }
        }
    }

    /// Puts keys to use if they differ from those in use.
    fn take(&mut self, source: &str, text: &[u8]) {
        let content = sha256(text);
        if self.content == Some(content) {
            self.said = None;
            return self.ground.metrics.jwks_loads(JwksOutcome::Unchanged).inc();
        }
        match KeySet::read(text) {
            Err(why) => self.failed(source, why.to_string()),
            Ok(set) => {
                let (keys, left_out) = (set.len(), set.left_out.len());
                let because = set.left_out.first().cloned();
                tracing::info!(source, keys, left_out, because, "keys for tokens applied");
                self.keys.replace(set);
                (self.content, self.said) = (Some(content), None);
                self.ground.metrics.jwks_loads(JwksOutcome::Applied).inc();
            }
        }
    }

    fn failed(&mut self, source: &str, why: String) {
        self.ground.metrics.jwks_loads(JwksOutcome::Failed).inc();
        if self.said.as_ref() == Some(&why) {
            return;
        }
        match self.keys.load().is_some() {
            true => tracing::warn!(source, "keys for tokens refused, the old ones stay in use: {why}"),
            false => {
                tracing::warn!(source, "no keys for tokens yet, so requests with a token get 503: {why}")
            }
        }
        self.said = Some(why);
    }
}

/// Waits until two looks at the file have found the same content.
async fn settled(file: &mut Looked) -> Content {
    let mut seen = file.look(SystemTime::now());
    loop {
        sleep(LOOK_EVERY).await;
        let now = file.look(SystemTime::now());
        if now == seen {
            return now;
        }
        seen = now;
    }
}

/// The time until the next fetch. `dice` is in [0, 1): many sidecars that were started at once do not ask at once.
fn pause(refresh: Duration, failures: u32, is_known: bool, dice: f64) -> Duration {
    let first = Duration::from_secs(1 << failures.saturating_sub(1).min(5));
    let usual = match (failures, is_known) {
        (0, _) => refresh,
        (_, true) => refresh.min(LONGEST_PAUSE),
        (_, false) => first.min(LONGEST_PAUSE).min(refresh),
    };
    usual.mul_f64(0.9 + 0.2 * dice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_fetch_is_repeated_sooner_and_most_of_all_while_there_are_no_keys() {
        const REFRESH: Duration = Duration::from_mins(5);
        let of = |failures, is_known| pause(REFRESH, failures, is_known, 0.5).as_secs_f64().round();
        assert_eq!((of(0, true), of(0, false)), (300.0, 300.0));
        assert_eq!([1, 2, 3, 6, 99].map(|failures| of(failures, false)), [1.0, 2.0, 4.0, 30.0, 30.0]);
        assert_eq!([1, 99].map(|failures| of(failures, true)), [30.0, 30.0]);
        assert!(pause(REFRESH, 0, true, 0.0) < REFRESH && REFRESH < pause(REFRESH, 0, true, 1.0));
    }
}
