//! Who says where services run, and how the rest of the proxy hears it.
//!
//! A source speaks in [`EndpointUpdate`]s, which are whole: an update lists every endpoint that the service has from now
//! on. What a source hears in pieces, it joins before it speaks. Zones, priorities, health and metadata are carried to
//! the cluster, and nothing there decides by them yet.

use pillion_model::{Cluster, Config, EndpointUpdate};

/// Who tells while a sidecar runs where services are: DNS today. What stands in the configuration is [`written`] there.
pub trait EndpointSource {
    /// From now on this source follows the services of `config` that are its own, and forgets all others.
    fn follow(&mut self, config: &Config);

    /// The next update of any of them; `None`: there is none to come. Nothing is lost when the future is dropped.
    fn next(&mut self) -> impl Future<Output = Option<EndpointUpdate>>;
}

/// The endpoints that stand in the configuration itself, and change with it. `None`: they come from elsewhere.
pub fn written(of: &Cluster) -> Option<EndpointUpdate> {
    let is_written = of.discovery.is_none();
    is_written.then(|| EndpointUpdate::known(of.name.as_str(), of.endpoints.iter().cloned()))
}
