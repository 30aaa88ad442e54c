//! Who says where services run, and how the rest of the proxy hears it.
//!
//! A source speaks in [`EndpointUpdate`]s, which are whole: an update lists every endpoint that the service has from now
//! on. What a source hears in pieces, it joins before it speaks. Zones, priorities, health and metadata are carried to
//! the cluster, and nothing there decides by them yet.

use pillion_model::{Cluster, Config, EndpointUpdate};

/// Who tells where services run: the file and DNS today.
pub trait EndpointSource {
    /// What this source can say of a service in the moment in which a configuration with that service is put to work.
    /// `None`: the endpoints come from elsewhere, or are not known yet.
    fn at_once(&self, of: &Cluster) -> Option<EndpointUpdate>;

    /// From now on this source follows the services of `config` that are its own, and forgets all others.
    fn follow(&mut self, config: &Config);

    /// The next update of any of them; `None`: there is none to come. Nothing is lost when the future is dropped.
    fn next(&mut self) -> impl Future<Output = Option<EndpointUpdate>>;
}

/// The source of the endpoints that stand in the configuration itself.
pub struct Written;

impl EndpointSource for Written {
    fn at_once(&self, of: &Cluster) -> Option<EndpointUpdate> {
        let is_written = of.discovery.is_none();
        is_written.then(|| EndpointUpdate::known(of.name.as_str(), of.endpoints.iter().cloned()))
    }

    fn follow(&mut self, _: &Config) {}

    async fn next(&mut self) -> Option<EndpointUpdate> {
        None // what stands in the configuration changes with the configuration
    }
}
