//! The sources that report where services run, and the form of their reports.
//!
//! A source reports whole [`EndpointUpdate`]s: each lists every endpoint that the service has from now on. A source
//! that learns endpoints one by one joins them first. Health and metadata are carried to the cluster, but no decision
//! uses them yet.

use pillion_model::{Cluster, Config, EndpointUpdate};

/// A source that reports at run time where services are: DNS and Kubernetes. Endpoints in the configuration file need no source;
/// see [`written`].
pub trait EndpointSource {
    /// Follows the services of `config` that belong to this source from now on, and forgets all others.
    fn follow(&mut self, config: &Config);

    /// The next update of any service. `None` when no more will come. Dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = Option<EndpointUpdate>>;
}

/// The endpoints that are listed in the configuration itself, and change with it. `None` when the endpoints have
/// another source.
pub fn written(of: &Cluster) -> Option<EndpointUpdate> {
    let is_written = of.discovery.is_none();
    is_written.then(|| EndpointUpdate::known(of.name.as_str(), of.endpoints.iter().cloned()))
}
