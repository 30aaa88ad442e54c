//! The files that are used for TLS beside the identity: trust bundles, the authorities of the system, and certificates
//! with their keys.
//!
//! A configuration is built from one [`Material`], so that a rotation of the identity reads none of these files, and a
//! file that is half written cannot stop it. [`Material::refresh`] puts new content to use when two checks have found the
//! same, and keeps the content in use while the new one is refused. Deliberately absent: a clock, and tasks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use pillion_model::cluster::UpstreamTls;
use pillion_model::identity::KeyPair;
use pillion_model::listener::PortTls;
use serde_json::{Value, json};

use super::identity::Validity;
use super::identity::credentials::{Bundle, CredentialsError};
use super::identity::pair::Pair;
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

impl MaterialError {
    /// The Unix second from which the same files can be used. `None` when something else than time is wrong.
    fn usable_from(&self) -> Option<i64> {
        match self {
            Self::File(error) => error.usable_from(),
            Self::System(_) => None,
        }
    }
}

/// The place of the configuration that names files: `services.orders.tls`, or `inbound.ports.8080.tls`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Service(String),
    Port(u16),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "services.{name}.tls"),
            Self::Port(port) => write!(f, "inbound.ports.{port}.tls"),
        }
    }
}

/// A file that cannot be used, and the place of the configuration that names it.
#[derive(Debug, thiserror::Error)]
#[error("{place}")]
pub struct Unusable {
    pub place: Place,
    pub source: MaterialError,
}

/// The authorities that a service trusts, apart from those of the identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Trusted {
    /// Those of the system.
    System,
    /// For hosts: a server's own certificate may be among them.
    Hosts(PathBuf),
    /// For workloads, and for clients outside the mesh: CAs alone, because every certificate of the file may sign others.
    Cas(PathBuf),
}

impl Trusted {
    /// The authorities of a service. `None`: those of the identity, or none.
    pub fn by(tls: &UpstreamTls) -> Option<Self> {
        match tls {
            UpstreamTls::Off => None,
            UpstreamTls::Simple { trust_bundle: None, .. } => Some(Self::System),
            UpstreamTls::Simple { trust_bundle: Some(path), .. } => Some(Self::Hosts(path.clone())),
            UpstreamTls::Mutual { trust_bundle, .. } => trust_bundle.clone().map(Self::Cas),
        }
    }
}

/// What is read from a set of files.
trait Read: Clone + Eq + Hash {
    type Value: Clone;

    fn paths(&self) -> Vec<PathBuf>;
    /// `before` is the value in use, and `now` is in Unix seconds.
    fn read(&self, before: Option<&Self::Value>, now: i64) -> Result<Self::Value, MaterialError>;
}

impl Read for Trusted {
    type Value = Bundle;

    fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::System => Places::of_this_system().paths().map(Path::to_owned).collect(),
            Self::Hosts(path) | Self::Cas(path) => vec![path.clone()],
        }
    }

    fn read(&self, _: Option<&Bundle>, _: i64) -> Result<Bundle, MaterialError> {
        Ok(match self {
            Self::System => Places::of_this_system().load()?,
            Self::Hosts(path) => Bundle::load(path)?,
            Self::Cas(path) => {
                let bundle = Bundle::load(path)?;
                bundle.check_cas(path)?;
                bundle
            }
        })
    }
}

impl Read for KeyPair {
    type Value = Pair;

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.certificate.clone(), self.key.clone()]
    }

    fn read(&self, before: Option<&Pair>, now: i64) -> Result<Pair, MaterialError> {
        Ok(Pair::load(self, before, now)?)
    }
}

/// The files that a configuration names, each with the place that names it.
#[derive(Default)]
pub struct Wanted {
    bundles: Vec<(Trusted, Place)>,
    pairs: Vec<(KeyPair, Place)>,
}

impl Wanted {
    pub fn add_service(&mut self, name: &str, tls: &UpstreamTls) {
        let place = || Place::Service(name.to_owned());
        self.bundles.extend(Trusted::by(tls).map(|trusted| (trusted, place())));
        self.pairs.extend(own(tls).map(|own| (own.clone(), place())));
    }

    pub fn add_port(&mut self, port: u16, tls: &PortTls) {
        self.bundles.extend(of_clients(tls).map(|trusted| (trusted, Place::Port(port))));
        self.pairs.extend(tls.certificates.iter().map(|pair| (pair.clone(), Place::Port(port))));
    }
}

/// The authorities of the certificates of a port's clients.
fn of_clients(tls: &PortTls) -> Option<Trusted> {
    tls.clients.trust_bundle().cloned().map(Trusted::Cas)
}

/// The files of our own certificate for a service.
fn own(tls: &UpstreamTls) -> Option<&KeyPair> {
    match tls {
        UpstreamTls::Simple { own, .. } => own.as_ref(),
        UpstreamTls::Off | UpstreamTls::Mutual { .. } => None,
    }
}

/// The content of all files that a configuration names. It is cheap to clone.
#[derive(Clone, Default)]
pub struct Material {
    bundles: HashMap<Trusted, Loaded<Bundle>>,
    pairs: HashMap<KeyPair, Loaded<Pair>>,
}

impl Material {
    /// Reads what is wanted. Content that `before` has stays the same object while its files are unchanged. Blocks on file
    /// IO.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn of(wanted: Wanted, before: &Self, now: SystemTime) -> Result<Self, Unusable> {
        let Wanted { bundles, pairs } = wanted;
        Ok(Self { bundles: load(bundles, &before.bundles, now)?, pairs: load(pairs, &before.pairs, now)? })
    }

    /// The authorities of a service. `None`: it has none apart from those of the identity.
    pub fn bundle(&self, tls: &UpstreamTls) -> Option<&Arc<Bundle>> {
        Some(&self.bundles.get(&Trusted::by(tls)?)?.value)
    }

    /// Our own certificate for a service alone.
    pub fn own(&self, tls: &UpstreamTls) -> Option<&Arc<Pair>> {
        self.pair(own(tls)?)
    }

    fn pair(&self, files: &KeyPair) -> Option<&Arc<Pair>> {
        Some(&self.pairs.get(files)?.value)
    }

    /// The certificates of a port.
    pub fn pairs(&self, tls: &PortTls) -> Vec<Arc<Pair>> {
        tls.certificates.iter().filter_map(|files| self.pair(files)).cloned().collect()
    }

    /// The authorities of the certificates of a port's clients.
    pub fn clients(&self, tls: &PortTls) -> Option<&Arc<Bundle>> {
        Some(&self.bundles.get(&of_clients(tls)?)?.value)
    }

    /// Whether a port has the same content in both.
    pub fn is_same_for_port(&self, tls: &PortTls, other: &Self) -> bool {
        let is_same = |files| same(self.pair(files), other.pair(files));
        tls.certificates.iter().all(is_same) && same(self.clients(tls), other.clients(tls))
    }

    /// Whether a service has the same files and content in both.
    pub fn is_same_for(&self, tls: &UpstreamTls, other: &Self) -> bool {
        same(self.bundle(tls), other.bundle(tls)) && same(self.own(tls), other.own(tls))
    }

    /// Whether all content is the same.
    pub fn is(&self, other: &Self) -> bool {
        all_same(&self.bundles, &other.bundles) && all_same(&self.pairs, &other.pairs)
    }

    /// Whether new content was refused, so that older content is in use.
    pub fn is_refused(&self) -> bool {
        let mut bundles = self.bundles.values().map(Loaded::is_refused);
        bundles.any(|refused| refused) || self.pairs.values().any(Loaded::is_refused)
    }

    /// Our own certificates, each with the place of the configuration that names it.
    pub fn validities(&self) -> impl Iterator<Item = (&Place, Validity)> {
        self.pairs.values().map(|loaded| (&loaded.place, loaded.value.validity))
    }

    /// Our own certificates, as the page `/certs` shows them. The order is that of their places.
    pub fn to_json(&self) -> Vec<Value> {
        let mut pairs: Vec<_> = self.pairs.values().map(|loaded| (&loaded.place, &loaded.value)).collect();
        pairs.sort_by_key(|(place, _)| *place);
        let shown = |(place, pair): (&Place, &Arc<Pair>)| json!({ "used_by": place.to_string(), "certificates": pair.to_json() });
        pairs.into_iter().map(shown).collect()
    }

    /// Checks the files. Meant to be called once or twice a second: while nothing changes, it costs one `stat` call for
    /// each file. Blocks on file IO.
    pub fn refresh(&mut self, now: SystemTime) -> Refreshed {
        let mut refused = Vec::new();
        let bundles = renewed(&mut self.bundles, now, &mut refused);
        let pairs = renewed(&mut self.pairs, now, &mut refused);
        let is_new = !bundles.is_empty() || !pairs.is_empty();
        let next = is_new.then(|| {
            let mut next = self.clone();
            next.bundles.extend(bundles);
            next.pairs.extend(pairs);
            next
        });
        Refreshed { next, refused }
    }

    /// Notes that the new content of `next` could not be put to use, so that it is not tried again.
    pub fn refuse(&mut self, next: &Self) {
        refuse(&mut self.bundles, &next.bundles);
        refuse(&mut self.pairs, &next.pairs);
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
    place: Place,
    files: Vec<Looked>,
    /// The content of which `value` was made.
    good: Vec<Content>,
    /// The content at the last check.
    seen: Vec<Content>,
    refused: Option<Refused>,
}

#[derive(Clone)]
struct Refused {
    content: Vec<Content>,
    /// The Unix second from which the same content can be used, if only time is wrong.
    again: Option<i64>,
}

fn look(files: &mut [Looked], now: SystemTime) -> Vec<Content> {
    files.iter_mut().map(|file| file.look(now)).collect()
}

fn load<K: Read>(
    wanted: Vec<(K, Place)>,
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
        match key.read(Some(&loaded.value), unix(now)) {
            Ok(value) => {
                new.push((
                    key.clone(),
                    Loaded { good: content, refused: None, value: Arc::new(value), ..loaded.clone() },
                ));
            }
            Err(source) => {
                loaded.refused = Some(Refused { content, again: source.usable_from() });
                refused.push(Unusable { place: loaded.place.clone(), source });
            }
        }
    }
    new
}

fn refuse<K: Read>(all: &mut HashMap<K, Loaded<K::Value>>, next: &HashMap<K, Loaded<K::Value>>) {
    for (key, loaded) in all {
        if let Some(next) = next.get(key).filter(|next| next.good != loaded.good) {
            loaded.refused = Some(Refused { content: next.good.clone(), again: None });
        }
    }
}

impl<T> Loaded<T> {
    fn load<K: Read<Value = T>>(
        key: &K,
        place: Place,
        before: Option<&Self>,
        now: SystemTime,
    ) -> Result<Self, Unusable> {
        let mut files: Vec<_> = key.paths().iter().map(|path| Looked::new(path, MOST_BYTES + 1)).collect();
        let good = look(&mut files, now); // before it is read, so that a later write counts as a change
        let value = match before.filter(|before| before.good == good) {
            Some(before) => before.value.clone(),
            None => match key.read(before.map(|before| &*before.value), unix(now)) {
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
        let is_known = |refused: &Refused| {
            refused.content == content && refused.again.is_none_or(|again| unix(now) < again)
        };
        (stands_still && !self.refused.as_ref().is_some_and(is_known)).then_some(content)
    }

    const fn is_refused(&self) -> bool {
        self.refused.is_some()
    }
}

fn unix(now: SystemTime) -> i64 {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn all_same<K: Read>(one: &HashMap<K, Loaded<K::Value>>, other: &HashMap<K, Loaded<K::Value>>) -> bool {
    let has = |(key, loaded): (&K, &Loaded<K::Value>)| {
        other.get(key).is_some_and(|of| Arc::ptr_eq(&of.value, &loaded.value))
    };
    one.len() == other.len() && one.iter().all(has)
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
    use crate::identity::issue::{Ca, CertificateRequest};
    use pillion_testkit::Scratch;
    use rcgen::KeyPair as KeyPairOfRcgen;
    use time::OffsetDateTime;

    fn pem() -> String {
        Ca::generate("cluster.local").expect("a CA").certificate_pem().to_owned()
    }

    #[test]
    fn new_content_is_used_when_two_checks_agree_and_bad_content_is_refused_once() {
        let (scratch, now) = (Scratch::new(), SystemTime::now());
        let path = scratch.write("ca.pem", pem());
        let tls = UpstreamTls::Simple { sni: None, trust_bundle: Some(path), own: None };
        let wanted = || {
            let mut wanted = Wanted::default();
            wanted.add_service("orders", &tls);
            wanted
        };
        let mut material = Material::of(wanted(), &Material::default(), now).expect("a good file");
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

        let again = Material::of(wanted(), &material, now).expect("a good file");
        assert!(again.is(&material) && again.is_same_for(&tls, &material));
        assert!(!again.is(&Material::default()));

        scratch.write("ca.pem", pem());
        let (_, next) = (material.refresh(now), material.refresh(now).next.expect("new content"));
        material.refuse(&next);
        assert!(material.refresh(now).next.is_none() && material.is_refused(), "it is not tried again");
    }

    #[test]
    fn a_key_that_does_not_fit_and_a_certificate_that_is_not_valid_replace_none_that_is() {
        let (scratch, now) = (Scratch::new(), OffsetDateTime::now_utc());
        let ca = Ca::generate("cluster.local").expect("a CA");
        let write = |seconds: std::ops::Range<i64>| {
            let at = |seconds| now + time::Duration::seconds(seconds);
            let (not_before, not_after) = (at(seconds.start), at(seconds.end));
            let hosts = vec!["client.test".to_owned()];
            let request = CertificateRequest { uris: Vec::new(), hosts, not_before, not_after };
            let issued = ca.sign(&request).expect("signed");
            scratch.write("tls.crt", issued.certificate);
            scratch.write("tls.key", issued.key);
        };
        let files = KeyPair { certificate: scratch.path("tls.crt"), key: scratch.path("tls.key") };
        let tls = UpstreamTls::Simple {
            sni: None,
            trust_bundle: Some(scratch.write("ca", pem())),
            own: Some(files),
        };
        let mut wanted = Wanted::default();
        wanted.add_service("api", &tls);
        write(-20..-10);
        let mut material = Material::of(wanted, &Material::default(), now.into())
            .expect("an expired one, which is the only one");
        let mut looks = |seconds: i64| {
            let now = SystemTime::from(now + time::Duration::seconds(seconds));
            let mut told = Vec::new();
            for _ in 0..2 {
                let Refreshed { next, refused } = material.refresh(now);
                told.extend(refused.iter().map(|unusable| unusable.source.to_string()));
                if let Some(next) = next {
                    told.push("new".to_owned());
                    material = next;
                }
            }
            told.concat()
        };
        write(-10..3600);
        assert_eq!(looks(0), "new");
        write(-20..-10);
        assert!(looks(0).contains("tls.crt expired at"));
        write(60..7200);
        assert!(looks(0).contains("tls.crt is valid only from"));
        assert_eq!([looks(30), looks(61)], ["", "new"], "it is tried again when it is valid");
        scratch.write("tls.key", KeyPairOfRcgen::generate().expect("a key").serialize_pem());
        assert!(looks(61).contains("does not belong to the first certificate in"));
        assert_eq!(
            material.validities().map(|(place, _)| place.to_string()).collect::<Vec<_>>(),
            ["services.api.tls"]
        );
        let shown = Value::from(material.to_json()).to_string();
        assert!(shown.contains("services.api.tls") && !shown.to_lowercase().contains("private"), "{shown}");
    }
}
