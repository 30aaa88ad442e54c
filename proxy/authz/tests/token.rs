//! Which tokens are accepted: the examples of the RFCs, and hostile tokens.

use aws_lc_rs::hmac;
use pillion_authz::keys::KeySet;
use pillion_authz::token::{LEEWAY, MOST_BYTES, Refusal, Verified, Verifier, may_be_of_newer_key};
use pillion_authz::{Asked, Engine, Facts, Headers};
use pillion_model::authorization::{
    Action, Authorization, ClaimMatch, ClaimPattern, Conditions, Jwks, Jwt, Rule,
};
use pillion_testkit::jwt::{Issuer, base64url};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;

fn jwt() -> Jwt {
    Jwt {
        issuer: "https://id.example".to_owned(),
        audiences: vec!["orders".to_owned(), "shop".to_owned()],
        jwks: Jwks::File("jwks.json".into()),
        header: Jwt::HEADER.to_owned(),
        required: true,
        forward: false,
    }
}

fn verify(token: &str, keys: &str) -> Result<Verified, Refusal> {
    let keys = KeySet::read(keys.as_bytes()).expect("a set of keys");
    Verifier::new(&jwt(), &Authorization::default()).verify(token.as_bytes(), &keys, NOW)
}

fn claims() -> Value {
    json!({ "iss": "https://id.example", "aud": "orders", "sub": "svc-a", "exp": NOW + 60 })
}

fn with(more: Value) -> Value {
    let mut claims = claims();
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

/// RFC 7515, A.2 and A.3. Their signatures are right; their claims have no audience.
#[test]
fn the_signatures_of_the_examples_are_right_and_others_are_wrong() {
    const PAYLOAD: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let rsa = json!({ "keys": [{ "kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" }] });
    let ec = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" }] });
    for (keys, header, signature) in [
        (
            rsa,
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            ec,
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ] {
        let keys = keys.to_string();
        let token = format!("{header}.{PAYLOAD}.{signature}");
        assert_eq!(verify(&token, &keys), Err(Refusal::Issuer), "the signature was judged first");
        let other = token.replace("pc19yb290Ijp0cnVlfQ", "pc19yb290IjpmYWxzZX0");
        assert_ne!(token, other);
        assert_eq!(verify(&other, &keys), Err(Refusal::Signature));
    }
    // RFC 7519, 3.1: HMAC
    let hmac = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    assert_eq!(verify(hmac, &Issuer::es256().jwks()), Err(Refusal::Algorithm));
}

#[test]
fn tokens_of_every_kind_of_key_are_accepted_and_only_by_their_own_key() {
    let all = [Issuer::es256(), Issuer::ed25519(), Issuer::rsa()];
    for (nth, issuer) in all.iter().enumerate() {
        let token = issuer.token(&claims());
        assert!(verify(&token, &issuer.jwks()).is_ok(), "{}", issuer.algorithm());
        let other = &all[(nth + 1) % all.len()];
        assert_eq!(verify(&token, &other.jwks()), Err(Refusal::Algorithm));
        let set = json!({ "keys": all.iter().map(|issuer| issuer.jwk(None)).collect::<Vec<_>>() });
        assert!(verify(&token, &set.to_string()).is_ok(), "{}", issuer.algorithm());
    }
    assert_eq!(verify(&Issuer::es256().token(&claims()), &all[0].jwks()), Err(Refusal::Signature));
    let [.., rsa] = &all;
    let probabilistic = rsa.signed("{\"alg\":\"PS512\"}", &claims().to_string());
    assert!(verify(&probabilistic, &rsa.jwks()).is_ok());
    let mut only = rsa.jwk(None);
    only["alg"] = "RS256".into();
    assert_eq!(verify(&probabilistic, &json!({ "keys": [only] }).to_string()), Err(Refusal::Algorithm));
    let named = all[1].signed("{\"alg\":\"Ed25519\"}", &claims().to_string());
    assert!(verify(&named, &all[1].jwks()).is_ok(), "RFC 9864");
}

#[test]
fn a_key_is_found_by_its_name_or_among_few() {
    let (a, b) = (Issuer::es256(), Issuer::es256());
    let signed =
        |by: &Issuer, kid: &str| by.signed(&format!("{{\"alg\":\"ES256\"{kid}}}"), &claims().to_string());
    let set = json!({ "keys": [a.jwk(Some("a")), b.jwk(Some("b"))] }).to_string();
    assert!(verify(&signed(&a, ",\"kid\":\"a\""), &set).is_ok());
    assert!(verify(&signed(&b, ""), &set).is_ok(), "each of few keys is tried");
    assert_eq!(verify(&signed(&a, ",\"kid\":\"b\""), &set), Err(Refusal::Signature));
    for kid in ["c", "", "../../dev/null", "' OR 1=1 --", "a\\u0000", "A"] {
        let token = signed(&a, &format!(",\"kid\":\"{kid}\""));
        assert_eq!(verify(&token, &set), Err(Refusal::UnknownKey), "{kid}");
    }
    for kid in ["7", "null", "[\"a\"]", "{}"] {
        let token = signed(&a, &format!(",\"kid\":{kid}"));
        assert!(matches!(verify(&token, &set), Err(Refusal::Header(_))), "{kid}");
    }
    let many: Vec<Value> = (0..5).map(|_| Issuer::es256().jwk(None)).collect();
    assert_eq!(verify(&signed(&a, ""), &json!({ "keys": many }).to_string()), Err(Refusal::TooManyKeys));
}

#[test]
fn only_tokens_that_give_access_are_accepted_by_their_kind() {
    let issuer = Issuer::es256();
    let of = |typ: &str| {
        let token = issuer.signed(&format!("{{\"alg\":\"ES256\",\"typ\":{typ}}}"), &claims().to_string());
        verify(&token, &issuer.jwks()).map(|_claims| ())
    };
    for typ in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "application/jwt", "JOSE"] {
        assert_eq!(of(&format!("\"{typ}\"")), Ok(()), "{typ}");
    }
    for typ in [
        "dpop+jwt",
        "logout+jwt",
        "secevent+jwt",
        "token-introspection+jwt",
        "application/x+jwt",
        "",
        "at+jwt ",
        "text/jwt",
    ] {
        assert_eq!(of(&format!("\"{typ}\"")), Err(Refusal::Kind), "{typ}");
    }
    for typ in ["null", "7", "[\"JWT\"]"] {
        assert_eq!(of(typ), Err(Refusal::Kind), "{typ}");
    }
    for cnf in [json!({ "x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2" }), json!({}), json!(null)]
    {
        let token = issuer.token(&with(json!({ "cnf": cnf })));
        assert_eq!(verify(&token, &issuer.jwks()), Err(Refusal::Bound), "{cnf}");
    }
}

#[test]
fn a_token_may_be_of_a_newer_key_unless_it_names_one_that_is_known() {
    let (old, new) = (Issuer::es256(), Issuer::es256());
    for (set, kid, expected) in [
        (json!({ "keys": [old.jwk(None)] }), "", true),
        (json!({ "keys": [old.jwk(None)] }), ",\"kid\":\"b\"", true),
        (json!({ "keys": [old.jwk(Some("a"))] }), "", true),
        (json!({ "keys": [old.jwk(Some("a"))] }), ",\"kid\":\"b\"", true),
        (json!({ "keys": [old.jwk(Some("a"))] }), ",\"kid\":\"a\"", false),
        (json!({ "keys": [old.jwk(Some("a")), old.jwk(None)] }), ",\"kid\":\"a\"", false),
    ] {
        let token = new.signed(&format!("{{\"alg\":\"ES256\"{kid}}}"), &claims().to_string());
        let keys = KeySet::read(set.to_string().as_bytes()).expect("a set of keys");
        let why = verify(&token, &set.to_string()).expect_err("another key");
        assert_eq!(may_be_of_newer_key(&why, token.as_bytes(), &keys), expected, "{set} {kid} {why}");
        assert!(!may_be_of_newer_key(&Refusal::Expired, token.as_bytes(), &keys));
    }
}

#[test]
fn the_issuer_the_audience_and_the_time_must_fit() {
    let issuer = Issuer::es256();
    for (more, expected) in [
        (json!({}), None),
        (json!({ "aud": ["other", "shop"] }), None),
        (json!({ "aud": "other" }), Some(Refusal::Audience)),
        (json!({ "aud": "Orders" }), Some(Refusal::Audience)),
        (json!({ "aud": [] }), Some(Refusal::Audience)),
        (json!({ "aud": [["orders"]] }), Some(Refusal::Audience)),
        (json!({ "aud": null }), Some(Refusal::Lacks("aud"))),
        (json!({ "aud": { "orders": true } }), Some(Refusal::Lacks("aud"))),
        (json!({ "iss": "https://id.example/" }), Some(Refusal::Issuer)),
        (json!({ "iss": ["https://id.example"] }), Some(Refusal::Lacks("iss"))),
        (json!({ "iss": null }), Some(Refusal::Lacks("iss"))),
        (json!({ "exp": NOW }), None),
        (json!({ "exp": NOW - LEEWAY + 1 }), None),
        (json!({ "exp": NOW - LEEWAY }), Some(Refusal::Expired)),
        (json!({ "exp": 0 }), Some(Refusal::Expired)),
        (json!({ "exp": NOW as f64 + 0.5 }), None),
        (json!({ "exp": u64::MAX }), None),
        (json!({ "exp": -1 }), Some(Refusal::Lacks("exp"))),
        (json!({ "exp": 1e300 }), Some(Refusal::Lacks("exp"))),
        (json!({ "exp": (NOW + 60).to_string() }), Some(Refusal::Lacks("exp"))),
        (json!({ "exp": null }), Some(Refusal::Lacks("exp"))),
        (json!({ "nbf": NOW + LEEWAY }), None),
        (json!({ "nbf": NOW + LEEWAY + 1 }), Some(Refusal::TooEarly)),
        (json!({ "nbf": u64::MAX }), Some(Refusal::TooEarly)),
        (json!({ "nbf": "soon" }), Some(Refusal::Lacks("nbf"))),
    ] {
        assert_eq!(verify(&issuer.token(&with(more.clone())), &issuer.jwks()).err(), expected, "{more}");
    }
    for missing in ["exp", "iss", "aud"] {
        let mut claims = claims();
        claims.as_object_mut().expect("an object").remove(missing);
        let token = issuer.token(&claims);
        assert_eq!(verify(&token, &issuer.jwks()).err(), Some(Refusal::Lacks(missing)), "{missing}");
    }
}

/// Tokens that some library has accepted.
#[test]
fn hostile_tokens_are_refused() {
    let issuer = Issuer::es256();
    let (keys, good) = (issuer.jwks(), issuer.token(&claims()));
    assert!(verify(&good, &keys).is_ok());
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
    let signed = |header: &str| issuer.signed(header, &claims().to_string());
    let unsigned = |alg: &str| format!("{}.{payload}.", base64url(format!("{{\"alg\":\"{alg}\"}}")));

    // the algorithm
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256", "RS256", "es256", "ES256 ", "ES384"] {
        let alg_alone = signed(&format!("{{\"alg\":\"{alg}\"}}"));
        for token in [unsigned(alg), alg_alone] {
            assert_eq!(verify(&token, &keys), Err(Refusal::Algorithm), "{alg} {token}");
        }
    }
    assert_eq!(verify(&signed("{}"), &keys), Err(Refusal::Algorithm));
    assert!(matches!(verify(&signed("{\"alg\":[\"ES256\"]}"), &keys), Err(Refusal::Header(_))));
    let public = issuer.jwk(None);
    for secret in
        [keys.clone(), public.to_string(), public["x"].as_str().unwrap_or_default().to_owned(), String::new()]
    {
        let message = format!("{}.{payload}", base64url("{\"alg\":\"HS256\"}"));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let token = format!("{message}.{}", base64url(hmac::sign(&key, message.as_bytes())));
        assert_eq!(verify(&token, &keys), Err(Refusal::Algorithm), "the public key is no secret");
    }

    // the signature
    for bad in [
        base64url([0; 64]),
        base64url([]),
        base64url([0xff; 64]),
        base64url([1; 65]),
        signature[1..].to_owned(),
    ] {
        let refusal = verify(&format!("{header}.{payload}.{bad}"), &keys).err();
        assert!(matches!(refusal, Some(Refusal::Signature | Refusal::Form)), "{bad} {refusal:?}");
    }

    // the form
    for bad in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        header.to_owned(),
        format!("{header}.{payload}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!("{good}=="),
        format!("{header}=.{payload}.{signature}"),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        good.replace('.', ".\n"),
        good.replace('.', ","),
        format!("{header}.{payload}.{}", signature.replace(['-', '_'], "+")) + "+",
        format!("{good},{good}"),
    ] {
        let refusal = verify(&bad, &keys).err();
        assert!(matches!(refusal, Some(Refusal::Form | Refusal::Header(_))), "{bad:?} {refusal:?}");
    }
    let last = signature.chars().last().expect("a character");
    let table = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = table.chars().nth(table.find(last).expect("base64url") + 1).expect("its low bits are zero");
    let other = format!("{}{next}", &good[..good.len() - 1]);
    assert_eq!(verify(&other, &keys), Err(Refusal::Form), "the same bytes, in another spelling");
    let long = issuer.token(&with(json!({ "x": "x".repeat(MOST_BYTES) })));
    assert_eq!(verify(&long, &keys), Err(Refusal::TooLong));

    // what the header asks for
    for (header, expected) in [
        ("{\"alg\":\"ES256\",\"crit\":[\"exp\"]}", Refusal::Extension("crit")),
        ("{\"alg\":\"ES256\",\"crit\":[]}", Refusal::Extension("crit")),
        ("{\"alg\":\"ES256\",\"b64\":false,\"crit\":[\"b64\"]}", Refusal::Extension("crit")),
        ("{\"alg\":\"ES256\",\"b64\":false}", Refusal::Extension("b64")),
    ] {
        assert_eq!(verify(&signed(header), &keys), Err(expected), "{header}");
    }
    let thief = Issuer::es256();
    for header in [
        json!({ "alg": "ES256", "jwk": thief.jwk(None) }),
        json!({ "alg": "ES256", "jku": "https://evil.example/jwks.json" }),
        json!({ "alg": "ES256", "x5u": "https://evil.example/cert.pem", "x5c": ["AAAA"] }),
    ] {
        let token = thief.signed(&header.to_string(), &claims().to_string());
        assert_eq!(verify(&token, &keys), Err(Refusal::Signature), "{header}");
    }

    // JSON
    for header in [
        "",
        "[]",
        "7",
        "null",
        "\"ES256\"",
        "{\"alg\":\"ES256\"",
        "{\"alg\":\"none\",\"alg\":\"ES256\"}",
        "{\"alg\":\"ES256\"} {}",
    ] {
        let refusal = verify(&signed(header), &keys).err();
        assert!(matches!(refusal, Some(Refusal::Header(_))), "{header} {refusal:?}");
    }
    let own = claims().to_string();
    let twice = own.replace("{", "{\"iss\":\"https://evil.example\",");
    let nested = own.replace("{", "{\"a\":{\"b\":1,\"b\":2},");
    let deep = own.replace("{", &format!("{{\"a\":{}{},", "[".repeat(1000), "]".repeat(1000)));
    for bad in ["", "7", "[]", "null", &twice, &nested, &deep, "{\"a\":1e999}", "\u{0}", &own[1..]] {
        let refusal = verify(&issuer.signed("{\"alg\":\"ES256\"}", bad), &keys).err();
        assert!(matches!(refusal, Some(Refusal::Claims(_) | Refusal::Lacks(_))), "{bad:.60} {refusal:?}");
    }
    assert!(matches!(verify(&issuer.signed("{\"alg\":\"ES256\"}", &twice), &keys), Err(Refusal::Claims(_))));
}

struct NoHeaders;

impl Headers for NoHeaders {
    fn values(&self, _name: &str, _each: &mut dyn FnMut(&[u8], bool)) {}
}

/// Whether a rule with this condition allows a request with these claims.
fn fits(name: &str, values: &[&str], more: Value) -> Result<bool, Refusal> {
    let values = values.iter().map(|text| ClaimPattern::new(text).expect("a pattern")).collect();
    let when =
        Conditions { claims: vec![ClaimMatch { name: name.to_owned(), values }], ..Conditions::default() };
    let rule = Rule { name: "a".to_owned(), action: Action::Allow, when, not: None };
    let rules = Authorization { rules: vec![rule], ..Authorization::default() };
    let issuer = Issuer::es256();
    let keys = KeySet::read(issuer.jwks().as_bytes()).expect("a set of keys");
    let verified = Verifier::new(&jwt(), &rules).verify(issuer.token(&with(more)).as_bytes(), &keys, NOW)?;
    let request =
        Asked { method: "GET", path: None, host: None, headers: &NoHeaders, claims: Some(&verified.claims) };
    let source = "10.0.0.1".parse().expect("an address");
    let facts = Facts { peer: None, source, port: 80, request: Some(request) };
    Ok(Engine::new(&rules).judge(&facts).action == Action::Allow)
}

#[test]
fn claims_fit_by_their_text_or_by_a_member_of_a_list() {
    for (name, values, claims, expected) in [
        ("sub", &["svc-*"][..], json!({}), true),
        ("sub", &["svc-*"], json!({ "sub": "user-a" }), false),
        ("sub", &["other", "svc-a"], json!({}), true),
        ("groups", &["admin"], json!({}), false),
        ("groups", &["admin"], json!({ "groups": ["user", "admin"] }), true),
        (
            "groups",
            &["admin"],
            json!({ "groups": ["administrators", ["admin"], { "admin": 1 }, null] }),
            false,
        ),
        ("groups", &["admin"], json!({ "groups": "admin" }), true),
        ("groups", &["admin"], json!({ "groups": "user admin" }), false),
        ("groups", &["*"], json!({ "groups": [] }), false),
        ("groups", &["*"], json!({ "groups": null }), false),
        ("groups", &["*"], json!({ "groups": {} }), false),
        ("groups", &["*"], json!({ "groups": "" }), true),
        ("scope", &["read"], json!({ "scope": "write  read" }), true),
        ("scope", &["write read"], json!({ "scope": "write read" }), false),
        ("/scope", &["read"], json!({ "scope": "write read" }), true),
        ("/scp", &["write read"], json!({ "scp": "write read" }), false),
        ("scp", &["read"], json!({ "scp": ["read"] }), true),
        ("level", &["3"], json!({ "level": 3 }), true),
        ("level", &["3"], json!({ "level": "3" }), true),
        ("level", &["3"], json!({ "level": 3.5 }), false),
        ("level", &["3.5"], json!({ "level": 3.5 }), true),
        ("level", &["-3"], json!({ "level": -3 }), true),
        ("email_verified", &["true"], json!({ "email_verified": true }), true),
        ("email_verified", &["true"], json!({ "email_verified": false }), false),
        ("https://id.example/roles", &["a"], json!({ "https://id.example/roles": ["a"] }), true),
        ("/realm_access/roles", &["a"], json!({ "realm_access": { "roles": ["a"] } }), true),
        ("/realm_access/roles", &["a"], json!({ "/realm_access/roles": ["a"] }), false),
        ("realm_access.roles", &["a"], json!({ "realm_access": { "roles": ["a"] } }), false),
        ("/a~1b", &["c"], json!({ "a/b": "c" }), true),
    ] {
        assert_eq!(fits(name, values, claims.clone()), Ok(expected), "{name} {values:?} {claims}");
    }
    let list = |length| json!({ "groups": vec!["a"; length] });
    assert_eq!(fits("groups", &["a"], list(256)), Ok(true));
    assert!(matches!(fits("groups", &["a"], list(257)), Err(Refusal::TooMany(_))));
    assert_eq!(fits("sub", &["svc-a"], list(257)), Ok(true), "no rule asks for it");
}

proptest! {
    #[test]
    fn no_bytes_make_a_token_panic(
        token in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[A-Za-z0-9_=-]{0,20}(\\.[A-Za-z0-9_=-]{0,20}){0,4}".prop_map(String::into_bytes),
            ("(\\{|\\}|\"alg\"|:|\"ES256\"|,|\"kid\"|\\[|\\]|1|e9|\"){0,12}", "(\\{|\\}|\"exp\"|:|\"aud\"|,|\\[|\\]|1|e9){0,12}")
                .prop_map(|(header, claims)| format!("{}.{}.AA", base64url(header), base64url(claims)).into_bytes()),
        ],
        keys in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let ours = KeySet::read(b"{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}");
        let verifier = Verifier::new(&jwt(), &Authorization::default());
        prop_assert!(verifier.verify(&token, &ours.expect("a set"), NOW).is_err());
        drop(KeySet::read(&keys));
    }

    /// A token with one changed character proves nothing.
    #[test]
    fn a_changed_token_is_refused(place in 0_usize..200, byte in prop::sample::select(b"ABab01-_.=".to_vec())) {
        let issuer = Issuer::ed25519();
        let mut token = issuer.token(&claims()).into_bytes();
        let place = place % token.len();
        prop_assume!(token[place] != byte);
        token[place] = byte;
        let token = String::from_utf8(token).expect("text");
        prop_assert!(verify(&token, &issuer.jwks()).is_err());
    }
}
