//! The files that services use for TLS beside the identity: trust bundles and the authorities of the system.
//!
//! A configuration is built from one [`Material`], so that a rotation of the identity reads none of these files, and a
//! file that is half written cannot stop it. [`Material::refresh`] puts new content to use when two checks have found the
//! same, and keeps the content in use while the new one is refused. Deliberately absent: a clock, and tasks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use pillion_model::cluster::UpstreamTls;

use super::identity::credentials::{Bundle, CredentialsError};
use super::identity::system::{MOST_BYTES, NoSystemRoots, Places};
use crate::files::{Content, Looked};

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    #[error(transparent)]
    File(#[from] CredentialsError),
    #[error(transparent)]
    System(#[from] NoSystemRoots),
}

/// A file that cannot be used, and the place of the configuration that names it.
#[derive(Debug, thiserror::Error)]
#[error("{place}")]
pub struct Unusable {
    /// Such as `services.orders.tls`.
    pub place: String,
    pub source: MaterialError,
}

/// The authorities that a service trusts, apart from those of the identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Trusted {
    /// Those of the system.
    System,
    /// For hosts: a server's own certificate may be among them.
    Hosts(PathBuf),
    /// For workloads: CAs alone, because every certificate of the file may sign identities.
    Workloads(PathBuf),
}

impl Trusted {
    /// The authorities of a service. `None`: those of the identity, or none.
    pub fn by(tls: &UpstreamTls) -> Option<Self> {
        match tls {
            UpstreamTls::Off => None,
            UpstreamTls::Simple { trust_bundle: None, .. } => Some(Self::System),
            UpstreamTls::Simple { trust_bundle: Some(path), .. } => Some(Self::Hosts(path.clone())),
            UpstreamTls::Mutual { trust_bundle, .. } => trust_bundle.clone().map(Self::Workloads),
        }
    }
}

/// What is read from a set of files.
trait Read: Clone + Eq + Hash {
    type Value: Clone;

    fn paths(&self) -> Vec<PathBuf>;
    fn read(&self) -> Result<Self::Value, MaterialError>;
}

impl Read for Trusted {
    type Value = Bundle;

    fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::System => Places::of_this_system().paths().map(Path::to_owned).collect(),
            Self::Hosts(path) | Self::Workloads(path) => vec![path.clone()],
        }
    }

    fn read(&self) -> Result<Bundle, MaterialError> {
        Ok(match self {
            Self::System => Places::of_this_system().load()?,
            Self::Hosts(path) => Bundle::load(path)?,
            Self::Workloads(path) => {
                let bundle = Bundle::load(path)?;
                bundle.check_cas(path)?;
                bundle
            }
        })
    }
}

/// The content of all files that a configuration names. It is cheap to clone.
#[derive(Clone, Default)]
pub struct Material {
    bundles: HashMap<Trusted, Loaded<Bundle>>,
}

impl Material {
    /// What these services need, each with its name. Content that `before` has stays the same object while its files are
    /// unchanged. Blocks on file IO.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn of<'a>(
        services: impl Iterator<Item = (&'a str, &'a UpstreamTls)>,
        before: &Self,
        now: SystemTime,
    ) -> Result<Self, Unusable> {
        let trusted = services.filter_map(|(name, tls)| Some((Trusted::by(tls)?, of_service(name))));
        Ok(Self { bundles: load(trusted, &before.bundles, now)? })
    }

    /// The authorities of a service. `None`: it has none apart from those of the identity.
    pub fn bundle(&self, tls: &UpstreamTls) -> Option<&Arc<Bundle>> {
        Some(&self.bundles.get(&Trusted::by(tls)?)?.value)
    }

    /// Whether a service has the same files and content in both.
    pub fn is_same_for(&self, tls: &UpstreamTls, other: &Self) -> bool {
        same(self.bundle(tls), other.bundle(tls))
    }

    /// Whether all content is the same.
    pub fn is(&self, other: &Self) -> bool {
        let has = |(key, loaded): (&Trusted, &Loaded<Bundle>)| {
            other.bundles.get(key).is_some_and(|of| Arc::ptr_eq(&of.value, &loaded.value))
        };
        self.bundles.len() == other.bundles.len() && self.bundles.iter().all(has)
    }

    /// Whether new content was refused, so that older content is in use.
    pub fn is_refused(&self) -> bool {
        self.bundles.values().any(|loaded| loaded.refused.is_some())
    }

    /// Checks the files. Meant to be called once or twice a second: while nothing changes, it costs one `stat` call for
    /// each file. Blocks on file IO.
    pub fn refresh(&mut self, now: SystemTime) -> Refreshed {
        let mut refused = Vec::new();
        let new = renewed(&mut self.bundles, now, &mut refused);
        let next = (!new.is_empty()).then(|| {
            let mut next = self.clone();
            next.bundles.extend(new);
            next
        });
        Refreshed { next, refused }
    }

    /// Notes that the new content of `next` could not be put to use, so that it is not tried again.
    pub fn refuse(&mut self, next: &Self) {
        refuse(&mut self.bundles, &next.bundles);
    }
}

/// What [`Material::refresh`] has found.
#[derive(Default)]
pub struct Refreshed {
    /// The material with new content, to be put to use as a whole.
    pub next: Option<Material>,
    /// Why other new content was refused, once for each content. The content in use stays.
    pub refused: Vec<Unusable>,
}

#[derive(Clone)]
struct Loaded<T> {
    value: Arc<T>,
    /// The first place of the configuration that names the files.
    place: String,
    files: Vec<Looked>,
    /// The content of which `value` was made.
    good: Vec<Content>,
    /// The content at the last check.
    seen: Vec<Content>,
    /// The content that was refused.
    refused: Option<Vec<Content>>,
}

fn of_service(name: &str) -> String {
    format!("services.{name}.tls")
}

fn look(files: &mut [Looked], now: SystemTime) -> Vec<Content> {
    files.iter_mut().map(|file| file.look(now)).collect()
}

fn load<K: Read>(
    wanted: impl Iterator<Item = (K, String)>,
    before: &HashMap<K, Loaded<K::Value>>,
    now: SystemTime,
) -> Result<HashMap<K, Loaded<K::Value>>, Unusable> {
    let mut all = HashMap::new();
    for (key, place) in wanted {
        if let Entry::Vacant(new) = all.entry(key) {
            let loaded = Loaded::load(new.key(), place, before.get(new.key()), now)?;
            new.insert(loaded);
        }
    }
    Ok(all)
}

/// The entries with new content.
fn renewed<K: Read>(
    all: &mut HashMap<K, Loaded<K::Value>>,
    now: SystemTime,
    refused: &mut Vec<Unusable>,
) -> Vec<(K, Loaded<K::Value>)> {
    let mut new = Vec::new();
    for (key, loaded) in all {
        let Some(content) = loaded.due(now) else { continue };
        match key.read() {
            Ok(value) => {
                new.push((
                    key.clone(),
                    Loaded { good: content, refused: None, value: Arc::new(value), ..loaded.clone() },
                ));
            }
            Err(source) => {
                loaded.refused = Some(content);
                refused.push(Unusable { place: loaded.place.clone(), source });
            }
        }
    }
    new
}

fn refuse<K: Read>(all: &mut HashMap<K, Loaded<K::Value>>, next: &HashMap<K, Loaded<K::Value>>) {
    for (key, loaded) in all {
        if let Some(next) = next.get(key).filter(|next| next.good != loaded.good) {
            loaded.refused = Some(next.good.clone());
        }
    }
}

impl<T> Loaded<T> {
    fn load<K: Read<Value = T>>(
        key: &K,
        place: String,
        before: Option<&Self>,
        now: SystemTime,
    ) -> Result<Self, Unusable> {
        let mut files: Vec<_> = key.paths().iter().map(|path| Looked::new(path, MOST_BYTES + 1)).collect();
        let good = look(&mut files, now); // before it is read, so that a later write counts as a change
        let value = match before.filter(|before| before.good == good) {
            Some(before) => before.value.clone(),
            None => match key.read() {
                Ok(value) => Arc::new(value),
                Err(source) => return Err(Unusable { place, source }),
            },
        };
        Ok(Self { value, place, files, seen: good.clone(), good, refused: None })
    }

    /// The content that has to be read: it differs from the content in use, was not refused, and did not change since the
    /// last check, because another program may still be writing.
    fn due(&mut self, now: SystemTime) -> Option<Vec<Content>> {
        let content = look(&mut self.files, now);
        let stands_still = self.seen == content;
        self.seen.clone_from(&content);
        if content == self.good {
            self.refused = None;
            return None;
        }
        (stands_still && self.refused.as_ref() != Some(&content)).then_some(content)
    }
}

fn same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::issue::Ca;
    use pillion_testkit::Scratch;

    fn pem() -> String {
        Ca::generate("cluster.local").expect("a CA").certificate_pem().to_owned()
    }

    #[test]
    fn new_content_is_used_when_two_checks_agree_and_bad_content_is_refused_once() {
        let (scratch, now) = (Scratch::new(), SystemTime::now());
        let path = scratch.write("ca.pem", pem());
        let tls = UpstreamTls::Simple { sni: None, trust_bundle: Some(path) };
        let mut material =
            Material::of([("orders", &tls)].into_iter(), &Material::default(), now).expect("a good file");
        let first = material.bundle(&tls).expect("a bundle").clone();
        let looks = |material: &mut Material| {
            let Refreshed { next, refused } = material.refresh(now);
            let found = (next.is_some(), refused.len());
            *material = next.unwrap_or_else(|| material.clone());
            found
        };
        assert_eq!([looks(&mut material), looks(&mut material)], [(false, 0); 2]);
        scratch.write("ca.pem", "half writ");
        assert_eq!(std::array::from_fn(|_| looks(&mut material)), [(false, 0), (false, 1), (false, 0)]);
        assert!(material.is_refused() && Arc::ptr_eq(&first, material.bundle(&tls).expect("a bundle")));
        scratch.write("ca.pem", pem() + &pem());
        assert_eq!(std::array::from_fn(|_| looks(&mut material)), [(false, 0), (true, 0), (false, 0)]);
        assert_eq!(material.bundle(&tls).expect("a bundle").roots.len(), 2);
        assert!(!material.is_refused());

        let again = Material::of([("orders", &tls)].into_iter(), &material, now).expect("a good file");
        assert!(again.is(&material) && again.is_same_for(&tls, &material));
        assert!(!again.is(&Material::default()));

        scratch.write("ca.pem", pem());
        let (_, next) = (material.refresh(now), material.refresh(now).next.expect("new content"));
        material.refuse(&next);
        assert!(material.refresh(now).next.is_none() && material.is_refused(), "it is not tried again");
    }
}
