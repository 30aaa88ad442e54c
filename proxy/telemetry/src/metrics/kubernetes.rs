//! What is counted of the watches of Kubernetes' API server.

use super::Metrics;
use crate::family::{IntCounter, IntGauge};
use crate::labels::{ListCause, WatchState};

impl Metrics {
    pub fn kubernetes_watches(&self, state: WatchState) -> IntGauge {
        self.families.kubernetes_watches.of((state,))
    }

    pub fn kubernetes_lists(&self, cause: ListCause) -> IntCounter {
        self.families.kubernetes_lists.of((cause,))
    }

    /// Sets when the watch that has been silent for the longest time was last heard. `None`: there is no watch.
    pub fn set_kubernetes_heard(&self, heard: Option<i64>) {
        match heard {
            Some(heard) => self.families.kubernetes_heard.of(()).set(heard),
            None => self.families.kubernetes_heard.remove(|()| true),
        }
    }
}
