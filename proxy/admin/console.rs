//! Between the admin port and who runs the sidecar: what is told on one side, and orders from the other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use pillion_model::Config;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::config;
use pillion_sidecar::state::Store;

/// Orders that wait: a person gives one at a time.
const ORDERS: usize = 16;
/// From `POST /reload` to its answer, at the latest.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What somebody wants of a running sidecar.
#[derive(Debug)]
pub(crate) enum Order {
    /// Answered with what came of it.
    Reload(oneshot::Sender<Result<String, String>>),
    /// As SIGTERM.
    Drain,
    /// Drain and end without `drain.delay`.
    Quit,
}

pub(crate) struct Console {
    /// Read by the pages, one after the other.
    published: ArcSwap<Published>,
    orders: mpsc::Sender<Order>,
    /// The clusters as they are.
    pub(super) store: Arc<Store>,
}

/// What the pages show of the configuration at work; published whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published {
    /// When it was put to work.
    pub(crate) loaded_at: Option<SystemTime>,
    /// `None`: built-in defaults and flags.
    pub(crate) file: Option<PathBuf>,
    pub(crate) config: Arc<Config>,
    /// What stands in the file, for the places of its keys.
    pub(crate) text: Option<Arc<str>>,
    /// Keys that the command line set over the file, with their flags.
    pub(crate) flags: Vec<(&'static str, &'static str)>,
    /// Why a later configuration than the one at work was refused; `None` once one was taken.
    pub(crate) last_refusal: Option<Refusal>,
    /// Why later certificates than the ones in use were refused; `None` once some were taken.
    pub(crate) certificates_refused: Option<Refusal>,
    /// As the credentials describe themselves; never a key.
    pub(crate) credentials: Vec<Value>,
}

#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) at: SystemTime,
    /// All of it, as `pillion check` prints it.
    pub(crate) why: String,
}

/// Why an order was not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotTaken {
    #[error("{ORDERS} orders wait already")]
    Full,
    #[error("this sidecar takes no orders (it is not run by `pillion run`, or it is ending)")]
    Nobody,
    #[error("no answer within {} s; /config and the log tell what becomes of it", RELOAD_TIMEOUT.as_secs())]
    TooLate,
    #[error("{0}")]
    Refused(String),
}

impl Published {
    /// The refusal of a configuration or of certificates, whichever was later.
    pub(super) fn latest_refusal(&self) -> Option<&Refusal> {
        let all = self.last_refusal.iter().chain(&self.certificates_refused);
        all.max_by_key(|refusal| refusal.at)
    }
}

impl Console {
    /// Orders arrive at the receiver; while there is none they are refused.
    pub(crate) fn new(store: Arc<Store>) -> (Arc<Self>, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(ORDERS);
        (Arc::new(Self { published: ArcSwap::default(), orders, store }), receiver)
    }

    /// From now on the pages show this.
    pub(crate) fn publish(&self, published: Published) {
        self.published.store(Arc::new(published));
    }

    /// Changes some of what is shown; for one caller at a time.
    pub(crate) fn amend(&self, change: impl FnOnce(&mut Published)) {
        let mut published = Published::clone(&self.published.load());
        change(&mut published);
        self.publish(published);
    }

    /// A part of the configuration. Reads the text of the file for it: one caller at a time, on a thread that has time.
    ///
    /// # Errors
    /// There is no such service.
    pub(super) fn config(&self, asked: &config::Selection) -> Result<Value, config::NoSuchService> {
        config::page(&self.published(), self.store.load().generation, asked)
    }

    /// Asked with every look at the files: changes nothing where none are told as refused.
    pub(crate) fn forget_refused_certificates(&self) {
        if self.published.load().certificates_refused.is_some() {
            self.amend(|published| published.certificates_refused = None);
        }
    }

    pub(super) fn certificates(&self) -> Value {
        let published = self.published();
        let refusal = published.certificates_refused.as_ref().map(config::refusal);
        json!({ "identities": published.credentials, "last_refusal": refusal })
    }

    pub(super) fn published(&self) -> Arc<Published> {
        self.published.load_full()
    }

    pub(super) fn order(&self, order: Order) -> Result<(), NotTaken> {
        self.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotTaken::Full,
            mpsc::error::TrySendError::Closed(_) => NotTaken::Nobody,
        })
    }

    /// A sentence about what became of it.
    pub(super) async fn reload(&self) -> Result<String, NotTaken> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Reload(answer))?;
        match tokio::time::timeout(RELOAD_TIMEOUT, answered).await {
            Ok(Ok(done)) => done.map_err(NotTaken::Refused),
            Ok(Err(_gone)) => Err(NotTaken::Nobody),
            Err(_elapsed) => Err(NotTaken::TooLate),
        }
    }
}
