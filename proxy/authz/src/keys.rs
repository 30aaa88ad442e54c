//! The public keys of an issuer (RFC 7517), each with the algorithms that it may verify.
//!
//! A key decides on the algorithm, never the token: so a public key is no secret of HMAC, and `none` needs none. Keys that
//! cannot be used are left out, because issuers publish keys for other purposes in the same set.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use pillion_model::text::shortened;
use serde::Deserialize;
use serde_json::Value;

/// 256 KiB: a set of a hundred RSA keys with their certificates.
pub const MOST_BYTES: usize = 256 * 1024;
/// 128: an issuer that changes its key every day and publishes old ones for a quarter of a year.
const MOST_KEYS: usize = 128;
/// What aws-lc accepts, in bytes of the modulus.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 2048 / 8..=8192 / 8;

/// A set of keys with at least one that can be used.
pub struct KeySet {
    keys: Vec<Key>,
    /// Why keys were left out, for the log.
    pub left_out: Vec<String>,
    /// Differs from that of every other set of this process.
    pub serial: u64,
}

pub(crate) struct Key {
    /// `None`: it is tried for every token.
    kid: Option<Box<str>>,
    pub(crate) algorithms: &'static [Algorithm],
    pub(crate) public: DecodingKey,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKeySet {
    #[error("it has more than {kib} KiB", kib = MOST_BYTES / 1024)]
    TooLong,
    #[error("it is not a JWK set (RFC 7517): {0}")]
    Malformed(String),
    #[error("it has more than {MOST_KEYS} keys")]
    TooMany,
    #[error("it has no key")]
    Empty,
    #[error("none of its keys can verify tokens; the first one {0}")]
    NoneUsable(String),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The parameters that matter here. Of others, a public key may have any number.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    used_for: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// # Errors
    /// The text is no set of keys, or has none that can be used.
    pub fn read(text: &[u8]) -> Result<Self, BadKeySet> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        if text.len() > MOST_BYTES {
            return Err(BadKeySet::TooLong);
        }
        let Set { keys: written } = serde_json::from_slice(text)
            .map_err(|error| BadKeySet::Malformed(shortened(&error.to_string())))?;
        if written.len() > MOST_KEYS {
            return Err(BadKeySet::TooMany);
        }
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for key in written {
            match Key::read(key) {
                Ok(key) => keys.push(key),
                Err(why) => left_out.push(why),
            }
        }
        match (keys.is_empty(), left_out.first()) {
            (false, _) => Ok(Self { keys, left_out, serial: SERIAL.fetch_add(1, Ordering::Relaxed) }),
            (true, Some(why)) => Err(BadKeySet::NoneUsable(why.clone())),
            (true, None) => Err(BadKeySet::Empty),
        }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether a key has this name.
    pub(crate) fn names(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// The keys that may have signed a token with this `kid`. `None`: the token names none.
    pub(crate) fn of<'a>(&'a self, kid: Option<&'a str>) -> impl Iterator<Item = &'a Key> {
        let may_be = move |key: &&Key| match (kid, &key.kid) {
            (Some(wanted), Some(kid)) => wanted == &**kid,
            (None, _) | (_, None) => true,
        };
        self.keys.iter().filter(may_be)
    }
}

impl Key {
    /// The error is a predicate: "has no `n`".
    fn read(written: Value) -> Result<Self, String> {
        let jwk: Jwk = serde_json::from_value(written)
            .map_err(|error| format!("is malformed: {}", shortened(&error.to_string())))?;
        if jwk.used_for.as_deref().is_some_and(|used_for| used_for != "sig") {
            return Err("is not for signatures (`use`)".to_owned());
        }
        if jwk.key_ops.as_ref().is_some_and(|all| !all.iter().any(|op| op == "verify")) {
            return Err("is not for verification (`key_ops`)".to_owned());
        }
        let (possible, public) = jwk.public()?;
        let algorithms = match jwk.alg.as_deref() {
            None => possible,
            Some(named) => {
                let of = possible.iter().position(|algorithm| spells(*algorithm, named));
                let only = of.and_then(|nth| possible.get(nth..=nth));
                only.ok_or_else(|| {
                    format!("has an `alg` that is not supported for its kind: {}", shortened(named))
                })?
            }
        };
        Ok(Self { kid: jwk.kid.map(Into::into), algorithms, public })
    }
}

impl Jwk {
    /// The key, and the algorithms that its kind allows.
    fn public(&self) -> Result<(&'static [Algorithm], DecodingKey), String> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (modulus, exponent) = (bytes("n", self.n.as_ref())?, bytes("e", self.e.as_ref())?);
                if !RSA_BYTES.contains(&modulus.len()) {
                    return Err(format!("has {} bits, and RSA keys have 2048 to 8192", modulus.len() * 8));
                }
                let key = RsaPublicKeyComponents { n: &modulus, e: &exponent };
                // aws-lc looks at this only when it verifies
                let is_odd = modulus.last().is_some_and(|byte| byte % 2 == 1);
                if !is_odd || key.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).is_err() {
                    return Err(UNSOUND.to_owned());
                }
                Ok((RSA, DecodingKey::from_rsa_raw_components(&modulus, &exponent)))
            }
            ("EC", Some("P-256")) => Ok((&[Algorithm::ES256], self.point(&ECDSA_P256_SHA256_FIXED, 32)?)),
            ("EC", Some("P-384")) => Ok((&[Algorithm::ES384], self.point(&ECDSA_P384_SHA384_FIXED, 48)?)),
            ("OKP", Some("Ed25519")) => {
                Ok((&[Algorithm::EdDSA], DecodingKey::from_ed_der(&exactly("x", self.x.as_ref(), 32)?)))
            }
            ("oct", _) => Err("is symmetric".to_owned()),
            (kind, curve) => Err(format!(
                "is of a kind that is not supported: {} {}",
                shortened(kind),
                shortened(curve.unwrap_or_default())
            )),
        }
    }

    /// A point of a curve whose coordinates have so many bytes.
    fn point(&self, of: &'static EcdsaVerificationAlgorithm, length: usize) -> Result<DecodingKey, String> {
        let (x, y) = (exactly("x", self.x.as_ref(), length)?, exactly("y", self.y.as_ref(), length)?);
        let point = [&[0x04], &x[..], &y[..]].concat();
        let parsed = ParsedPublicKey::new(of, &point).map_err(|_rejected| UNSOUND.to_owned());
        parsed.map(|_sound| DecodingKey::from_ec_der(&point))
    }
}

const UNSOUND: &str = "can verify nothing, because its numbers are no public key";

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Whether the text is a name of the algorithm (RFC 7518, 3.1; RFC 8037, 3.1; RFC 9864, 2.2).
pub(crate) fn spells(algorithm: Algorithm, text: &str) -> bool {
    let names: &[&str] = match algorithm {
        Algorithm::RS256 => &["RS256"],
        Algorithm::RS384 => &["RS384"],
        Algorithm::RS512 => &["RS512"],
        Algorithm::PS256 => &["PS256"],
        Algorithm::PS384 => &["PS384"],
        Algorithm::PS512 => &["PS512"],
        Algorithm::ES256 => &["ES256"],
        Algorithm::ES384 => &["ES384"],
        Algorithm::EdDSA => &["EdDSA", "Ed25519"],
        _ => &[], // the symmetric ones
    };
    names.contains(&text)
}

fn bytes(name: &str, text: Option<&String>) -> Result<Vec<u8>, String> {
    let text = text.ok_or_else(|| format!("has no `{name}`"))?;
    let bytes =
        URL_SAFE_NO_PAD.decode(text).map_err(|_error| format!("has a `{name}` that is not base64url"))?;
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    Ok(if matches!(name, "n" | "e") { bytes.get(start..).unwrap_or_default().to_vec() } else { bytes })
}

fn exactly(name: &str, text: Option<&String>, length: usize) -> Result<Vec<u8>, String> {
    let bytes = bytes(name, text)?;
    match bytes.len() == length {
        true => Ok(bytes),
        false => Err(format!("has an `{name}` of {} bytes where its curve has {length}", bytes.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &str) -> Result<KeySet, BadKeySet> {
        KeySet::read(format!("{{\"keys\":[{keys}]}}").as_bytes())
    }

    /// RFC 7517, A.1; its example of an elliptic curve is on P-256.
    const EC: &str = r#""kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM""#;

    #[test]
    fn a_key_says_for_which_algorithms_it_is() {
        let algorithms = |key: &str| read(key).map(|set| set.keys[0].algorithms.to_vec());
        assert_eq!(algorithms(&format!("{{{EC}}}")), Ok(vec![Algorithm::ES256]));
        assert_eq!(
            algorithms(&format!("{{{EC},\"use\":\"sig\",\"alg\":\"ES256\"}}")),
            Ok(vec![Algorithm::ES256])
        );
        let n = URL_SAFE_NO_PAD.encode([0xa5; 256]);
        let rsa = |more: &str| format!("{{\"kty\":\"RSA\",\"n\":\"{n}\",\"e\":\"AQAB\"{more}}}");
        assert_eq!(algorithms(&rsa("")).map(|all| all.len()), Ok(6));
        assert_eq!(algorithms(&rsa(",\"alg\":\"PS384\"")), Ok(vec![Algorithm::PS384]));
        for (key, expected) in [
            (rsa(",\"alg\":\"HS256\""), "has an `alg` that is not supported for its kind: HS256"),
            (rsa(",\"alg\":\"ES256\""), "for its kind: ES256"),
            (rsa(",\"alg\":\"none\""), "for its kind: none"),
            (rsa(",\"use\":\"enc\""), "is not for signatures"),
            (rsa(",\"key_ops\":[\"sign\"]"), "is not for verification"),
            (format!("{{\"kty\":\"RSA\",\"n\":\"{}\",\"e\":\"AQAB\"}}", &n[..172]), "has 1032 bits"),
            ("{\"kty\":\"RSA\",\"e\":\"AQAB\"}".to_owned(), "has no `n`"),
            (format!("{{{EC},\"alg\":\"ES384\"}}"), "for its kind: ES384"),
            (format!("{{{}}}", EC.replace("P-256", "P-521")), "not supported: EC P-521"),
            (
                format!("{{{}}}", EC.replace("P-256", "P-384")),
                "has an `x` of 32 bytes where its curve has 48",
            ),
            (format!("{{{}}}", EC.replace("IFyM", "IFz")), "has a `y` that is not base64url"),
            ("{\"kty\":\"oct\",\"k\":\"AAAA\"}".to_owned(), "is symmetric"),
            ("{\"kty\":\"oct\",\"k\":\"AAAA\",\"alg\":\"HS256\"}".to_owned(), "is symmetric"),
            (format!("{{{}}}", EC.replace("4Etl6SRW", "4Etl6SRX")), "its numbers are no public key"),
            (
                format!(
                    "{{\"kty\":\"RSA\",\"n\":\"{}\",\"e\":\"AQAB\"}}",
                    URL_SAFE_NO_PAD.encode([0xa4; 256])
                ),
                "its numbers are no public key",
            ),
            ("7".to_owned(), "is malformed"),
        ] {
            let why = read(&key).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(why.contains(expected), "{key}: {why}");
        }
    }

    #[test]
    fn keys_that_cannot_be_used_are_left_out_and_a_set_without_others_is_refused() {
        let set = read(&format!("{{\"kty\":\"oct\",\"k\":\"AAAA\"}},{{{EC},\"kid\":\"a\"}}")).expect("a set");
        assert_eq!((set.len(), set.left_out.len()), (1, 1));
        assert_eq!(read("").err(), Some(BadKeySet::Empty));
        assert_eq!(read(&vec!["7"; MOST_KEYS + 1].join(",")).err(), Some(BadKeySet::TooMany));
        assert!(matches!(KeySet::read(b"{}").err(), Some(BadKeySet::Malformed(_))));
        let why = read(&format!("{{{EC},\"key_ops\":\"{}\"}}", "x".repeat(200_000)));
        assert!(why.err().is_some_and(|why| why.to_string().len() < 200), "it is logged");
        let why = KeySet::read(format!("{{\"keys\":\"{}\"}}", "x".repeat(200_000)).as_bytes());
        assert!(why.err().is_some_and(|why| why.to_string().len() < 200), "it is logged");
        assert!(matches!(KeySet::read(b"<html>").err(), Some(BadKeySet::Malformed(_))));
        assert_eq!(KeySet::read(&[b' '; MOST_BYTES + 1]).err(), Some(BadKeySet::TooLong));
        let other = read(&format!("{{{EC}}}")).expect("a set");
        assert_ne!(set.serial, other.serial);
        assert_eq!(set.of(Some("a")).count(), 1);
        assert_eq!(set.of(Some("b")).count(), 0);
        assert_eq!((set.of(None).count(), other.of(Some("b")).count()), (1, 1));
    }
}
