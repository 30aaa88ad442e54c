//! Applies credentials that have changed, of the sidecar and of its services.

use std::sync::Arc;
use std::time::SystemTime;

use pillion_model::identity::{Identity as Source, WorkloadApi};
use pillion_model::{Config, SpiffeId};

use super::Controller;
use crate::app::own::{self, Identity};
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::watch::{Outcome, Rotating};
use pillion_tls::material::{Material, Refreshed};

impl Controller {
    /// Applies a configuration with the identity that it names.
    pub(super) fn put_read(&mut self, config: &Arc<Config>, material: Material) -> anyhow::Result<()> {
        let same_identity = match (&config.identity, &self.config.identity) {
            (Some(next), Some(now)) => next.reads_the_same_as(now),
            (next, now) => next == now,
        };
        if self.generation > 0 && same_identity {
            return self.put(config, self.identity.clone(), material);
        }
        let (identity, rotating) = match &config.identity {
            Some(Source::Files(files)) => {
                own::at_start(files).map(|(identity, rotating)| (identity, Some(rotating)))?
            }
            Some(Source::WorkloadApi(api)) => (self.until_issued(api)?, None),
            None => (Identity::None, None),
        };
        if let (Identity::Awaited(why), true) = (&identity, self.generation > 0) {
            anyhow::bail!("identity: {why}"); // the current state stays in use
        }
        self.put(config, identity, material)?;
        self.rotating = rotating;
        self.refuses_answer = false;
        Ok(())
    }

    /// The identity until the Workload API has issued one: the one in use, so that a reload can go over from files.
    ///
    /// # Errors
    /// There is none in use, and the sidecar serves without one. It would refuse everything until an answer comes.
    fn until_issued(&self, api: &WorkloadApi) -> anyhow::Result<Identity> {
        match &self.identity {
            Identity::None if self.generation > 0 => anyhow::bail!(
                "identity.workload_api: the sidecar has no identity so far, and cannot wait for one while it serves; that \
                 takes a restart"
            ),
            Identity::None | Identity::Awaited(_) => {
                Ok(Identity::Awaited(format!("the Workload API at {api} has not answered yet").into()))
            }
            known @ Identity::Known(_) => Ok(known.clone()),
        }
    }

    /// Applies the same configuration with other credentials.
    ///
    /// # Errors
    /// The credentials cannot be used. In that case nothing has changed.
    pub fn rotate(&mut self, credentials: Credentials) -> anyhow::Result<()> {
        let had_lists = self.credentials().is_some_and(|own| !own.revocations.is_empty());
        if had_lists && credentials.revocations.is_empty() {
            tracing::warn!(
                "the revocation list was removed: peers with revoked certificates are accepted again"
            );
        }
        let renamed = self.credentials().and_then(|own| renamed(&own.id, &credentials.id));
        let (config, material) = (self.config.clone(), self.material.clone());
        self.put(&config, Identity::Known(Arc::new(credentials)), material)?;
        if let Some(renamed) = renamed {
            tracing::warn!("{renamed}");
        }
        Ok(())
    }

    /// Checks the files of the identity and applies changes. Returns whether there were any.
    ///
    /// # Errors
    /// The files cannot be used; this is reported once for each content. In that case nothing has changed.
    pub fn look_at_identity(&mut self, now: SystemTime) -> anyhow::Result<bool> {
        match self.rotating.as_mut().map(|rotating| rotating.look(now)) {
            None | Some(Outcome::Same) => Ok(false),
            Some(Outcome::Refused(why)) => Err(why.into()),
            Some(Outcome::Swapped(credentials)) => {
                let put = self.rotate(*credentials);
                if let (Err(_), Some(rotating)) = (&put, &mut self.rotating) {
                    // the cause is outside these files
                    rotating.put_back(now);
                }
                put.map(|()| true)
            }
        }
    }

    /// Checks the files of services' TLS and applies changes. Returns whether there were any, and why others cannot be
    /// used; each content is refused once, and the content in use stays.
    pub fn look_at_material(&mut self, now: SystemTime) -> (bool, Vec<anyhow::Error>) {
        let Refreshed { next, refused } = self.material.refresh(now);
        let mut refused: Vec<_> = refused.into_iter().map(anyhow::Error::from).collect();
        let Some(next) = next else { return (false, refused) };
        let (config, identity) = (self.config.clone(), self.identity.clone());
        match self.put(&config, identity, next.clone()) {
            Ok(()) => (true, refused),
            Err(why) => {
                self.material.refuse(&next);
                refused.push(why);
                (false, refused)
            }
        }
    }

    /// Notes why there are still no certificates.
    pub(in crate::app) fn still_awaits(&mut self, why: &str) {
        if let Identity::Awaited(said) = &mut self.identity {
            *said = why.into();
        }
    }

    /// Notes whether the last answer of a Workload API was refused.
    pub(in crate::app) const fn note_answer(&mut self, is_refused: bool) {
        self.refuses_answer = is_refused;
    }

    /// Whether the last answer of a Workload API was refused, or the files of the identity or of services hold content
    /// that was.
    pub(in crate::app) fn refuses_certificates(&self) -> bool {
        self.refuses_answer
            || self.rotating.as_ref().is_some_and(Rotating::is_refused)
            || self.material.is_refused()
    }

    /// Why there are no certificates yet.
    pub fn awaits(&self) -> Option<Arc<str>> {
        match &self.identity {
            Identity::Awaited(why) => Some(why.clone()),
            Identity::None | Identity::Known(_) => None,
        }
    }

    pub(in crate::app) fn credentials(&self) -> Option<&Credentials> {
        self.identity.credentials()
    }

    /// Our own certificate in DER.
    #[cfg(test)]
    pub(crate) fn own_certificate(&self) -> Option<Vec<u8>> {
        self.credentials().and_then(|own| own.chain().first()).map(|certificate| certificate.to_vec())
    }
}

/// A sentence for an identity that replaces another one, as one of a workload that was registered anew may.
fn renamed(before: &SpiffeId, now: &SpiffeId) -> Option<String> {
    let what = "peers that name the former one refuse this sidecar";
    (before != now).then(|| format!("the sidecar's identity is {now} now, and was {before}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_sentence_for_another_identity_and_none_for_the_same() {
        let id = |name: &str| format!("spiffe://cluster.local/ns/shop/sa/{name}").parse::<SpiffeId>();
        let (web, shop) = (id("web").expect("an ID"), id("shop").expect("an ID"));
        assert_eq!(renamed(&web, &web), None);
        let told = renamed(&web, &shop).unwrap_or_default();
        assert!(told.contains("sa/shop now, and was spiffe://cluster.local/ns/shop/sa/web"), "{told}");
    }
}
