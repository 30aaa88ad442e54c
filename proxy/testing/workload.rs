//! The identity from a SPIFFE Workload API: the start before the agent, rotations under requests, agents that leave, bad
//! answers, and trust bundles that come and go.

use std::sync::Arc;

use pillion_grpc::connection::Io;
use pillion_testkit::Scratch;
use pillion_testkit::agent::{Agent, Answer, Issued, Svid, der};
use pillion_tls::client::Purpose;
use pillion_tls::identity::issue::Ca;
use pillion_tls::identity::parse;
use proptest::prelude::*;
use tokio::time::{Instant, timeout};

use super::backend::OK;
use super::mesh::{
    A, ORDERS, Pair, Sidecar, Watch, application_at, caller, identity, parse as read, pass, secs,
};
use crate::app::WorkloadSource;
use crate::workload::News;

const AT: &str = "10.1.0.1:15006";
const API: &str = "identity: { workload_api: unix:///run/agent.sock }\n";

fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

/// The SVID of an account by this CA.
fn svid(ca: &Ca, account: &str) -> Svid {
    let pem = ca.issue(&id(account).parse().expect("an identity"), &[], secs(86_400)).expect("issued");
    Svid::from_pem(&id(account), &pem.certificate, &pem.key, &pem.bundle)
}

/// A sidecar with an agent, driven as the keeper drives it.
struct Driven {
    sidecar: Sidecar,
    source: WorkloadSource,
}

impl Driven {
    fn start(pair: &Pair, agent: &Agent, yaml: &str) -> Self {
        let sidecar = pair.mesh.sidecar(yaml, None);
        let agent = agent.clone();
        let mut source = WorkloadSource::new(Arc::new(move |socket| {
            assert_eq!(socket.to_str(), Some("/run/agent.sock"));
            let dialled = agent.connect().map(|io| Box::new(io) as Box<dyn Io>);
            Box::pin(async { dialled })
        }));
        source.follow(&read(yaml));
        Self { sidecar, source }
    }

    /// The sidecar of `orders`, before its application at [`A`].
    fn orders(pair: &Pair, agent: &Agent) -> Self {
        Self::start(pair, agent, &(application_at(AT, &format!("app: {A}")) + API))
    }

    async fn heard(&mut self) -> News {
        timeout(secs(3600), self.source.next()).await.expect("news")
    }

    /// Waits for an identity and puts it to use.
    async fn is_issued(&mut self) {
        match self.heard().await {
            News::Issued(credentials) => self.sidecar.rotate(*credentials).expect("good credentials"),
            other => unreachable!("{other:?}"),
        }
    }

    /// Waits for a failure, and returns its text.
    async fn fails(&mut self) -> String {
        match self.heard().await {
            News::Failed(why) => why.to_string(),
            other => unreachable!("{other:?}"),
        }
    }

    /// Whether nothing is heard for a while.
    async fn is_silent(&mut self, seconds: u64) -> bool {
        timeout(secs(seconds), self.source.next()).await.is_err()
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_agent_the_sidecar_waits_and_refuses_and_serves_as_soon_as_one_comes() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let agent = Agent::new(svid(&pair.ca, "orders"));
    agent.leave();
    let mut orders = Driven::orders(&pair, &agent);
    let awaited = orders.sidecar.controller.awaits().expect("no identity yet");
    assert!(awaited.contains("unix:///run/agent.sock has not answered yet"), "{awaited}");
    let why = orders.fails().await;
    assert!(why.contains("cannot connect to the socket") && why.contains("the agent must run"), "{why}");
    assert!(orders.is_silent(600).await, "the failure was told");
    let mut plain = orders.sidecar.client().await;
    drop(plain.try_send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await);
    let answer = plain.message().await;
    assert!(answer.is_none_or(|answer| answer.status_and_reason().0 == 403) && app.hits() == 0);

    agent.come_back();
    let watch = Watch::start();
    orders.is_issued().await;
    assert!(watch.seconds() <= 10, "the longest pause");
    assert!(orders.sidecar.controller.awaits().is_none());
    assert_eq!(pair.peer(AT, Purpose::Http1).await.get("/").await.status_and_reason(), (200, None));
}

#[tokio::test(start_paused = true)]
async fn each_rotation_is_in_use_at_once_and_no_request_fails() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let agent = Agent::new(svid(&pair.ca, "orders"));
    let callers = Agent::new(svid(&pair.ca, "web"));
    let mut orders = Driven::orders(&pair, &agent);
    let mut web =
        Driven::start(&pair, &callers, &(caller(&format!("endpoints: [\"{AT}\"], {ORDERS}")) + API));
    orders.is_issued().await;
    web.is_issued().await;
    let mut client = web.sidecar.client().await;
    let generation = orders.sidecar.controller.generation();
    for round in 1..=20 {
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
        agent.say(svid(&pair.ca, "orders"));
        orders.is_issued().await;
        if round % 3 == 0 {
            callers.say(svid(&pair.ca, "web"));
            web.is_issued().await;
        }
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
        assert_eq!(orders.sidecar.controller.generation(), generation + round);
    }
    assert_eq!((agent.calls(), callers.calls()), (1, 1), "one call each");
    let shown = app.requests().into_iter().filter_map(|asked| {
        let told =
            asked.header("x-forwarded-client-cert")?.split(';').find(|part| part.starts_with("Hash="))?;
        Some(told.to_owned())
    });
    let shown: std::collections::HashSet<_> = shown.collect();
    assert_eq!(shown.len(), 1 + 6, "each certificate of the caller was in use");

    let other = Ca::generate("cluster.local").expect("a CA");
    agent.say(svid(&other, "orders"));
    orders.is_issued().await;
    assert_eq!(client.get("/").await.status(), Some(502), "the caller does not trust the new certificate");
    callers.say(svid(&other, "web"));
    web.is_issued().await;
    assert_eq!(client.get("/").await.status_and_reason(), (200, None), "both have the new bundle in use");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_restarts_is_no_news_and_one_that_stays_away_is() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let agent = Agent::new(svid(&pair.ca, "orders"));
    let mut orders = Driven::orders(&pair, &agent);
    orders.is_issued().await;
    let generation = orders.sidecar.controller.generation();

    agent.leave();
    agent.come_back();
    agent.called(1).await;
    assert!(orders.is_silent(3600).await, "the same identity is issued again");
    assert_eq!(agent.calls(), 2);

    agent.leave();
    let why = orders.fails().await;
    assert!(why.contains("cannot connect"), "{why}");
    assert!(orders.is_silent(3600).await);
    assert_eq!(pair.peer(AT, Purpose::Http1).await.get("/").await.status_and_reason(), (200, None));
    agent.come_back();
    assert!(matches!(orders.heard().await, News::Same));
    assert_eq!(orders.sidecar.controller.generation(), generation, "sessions are kept");

    agent.leave();
    agent.say(svid(&pair.ca, "orders"));
    agent.come_back();
    orders.is_issued().await;
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_and_have_a_bound_and_begin_anew_after_an_answer() {
    let pair = Pair::new();
    let agent = Agent::new(Answer::Status(14, "starting"));
    let mut orders = Driven::orders(&pair, &agent);
    let why = orders.fails().await;
    assert!(why.contains("broke off (Unavailable: \"starting\")"), "{why}");
    assert!(orders.is_silent(100).await);
    assert!((11..=30).contains(&agent.calls()), "{}", agent.calls());
    let before = agent.calls();
    assert!(orders.is_silent(100).await);
    assert!((10..=21).contains(&(agent.calls() - before)), "a pause of 5 to 10 s");
    agent.say(svid(&pair.ca, "orders"));
    orders.is_issued().await;
    agent.leave();
    agent.come_back();
    let (began, before) = (Instant::now(), agent.calls());
    agent.called(before).await;
    assert!(began.elapsed() <= secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_is_told_once_with_what_to_do_and_made_again() {
    for (code, said, words) in [
        (
            7,
            "no identity issued",
            &["no identity is registered", "no identity issued", "spire-server entry create"],
        ),
        (
            3,
            "security header missing",
            &["call is refused (InvalidArgument", "socket of a SPIFFE Workload API"],
        ),
        (12, "unknown service", &["call is refused (Unimplemented", "socket of a SPIFFE Workload API"]),
    ] as [(u32, &str, &[&str]); 3]
    {
        let (pair, agent) = (Pair::new(), Agent::new(Answer::Status(code, said)));
        let mut orders = Driven::orders(&pair, &agent);
        let why = orders.fails().await;
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
        assert!(orders.is_silent(60).await && agent.calls() > 3);
        agent.say(svid(&pair.ca, "orders"));
        orders.is_issued().await;
        agent.say(Answer::Status(code, said));
        if code == 7 {
            assert!(
                orders.fails().await.contains("no identity is registered"),
                "the registration was removed"
            );
        }
        assert!(orders.sidecar.controller.awaits().is_none(), "the identity stays");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_nothing_is_left_after_half_a_minute() {
    let pair = Pair::new();
    let agent = Agent::new(Answer::Nothing);
    let mut orders = Driven::orders(&pair, &agent);
    let watch = Watch::start();
    let why = orders.fails().await;
    assert!(why.contains("no answer within 30 s"), "{why}");
    assert_eq!(watch.seconds(), 30);
    agent.say(svid(&pair.ca, "orders"));
    orders.is_issued().await;
}

/// What makes an answer bad, and words of the reason.
fn bad(pair: &Pair) -> Vec<(&'static str, Answer, &'static str)> {
    let good = svid(&pair.ca, "orders");
    let with = |change: &dyn Fn(&mut Svid)| {
        let mut svid = good.clone();
        change(&mut svid);
        Answer::from(svid)
    };
    let elsewhere = Ca::generate("elsewhere.test").expect("a CA");
    let other_domain = "spiffe://elsewhere.test/web".parse().expect("an identity");
    let foreign = elsewhere.issue(&other_domain, &[], secs(3600)).expect("issued");
    let foreign = Svid::from_pem(other_domain.as_str(), &foreign.certificate, &foreign.key, &foreign.bundle);
    let federated = |key: &str, der: Vec<u8>| {
        let mut issued = Issued::from(good.clone());
        issued.federated_bundles.insert(key.to_owned(), der);
        Answer::from(issued)
    };
    let cut = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    vec![
        ("no message", Answer::Bytes(vec![0xff, 0xff, 0xff]), "broke off (Internal"),
        ("too long", Answer::Bytes(vec![0; 5 * 1024 * 1024]), "is refused: it is longer than 4 MiB"),
        ("no SVID", Issued::default().into(), "has no SVID"),
        ("no ID", with(&|svid| svid.spiffe_id.clear()), "lacks spiffe_id"),
        ("no chain", with(&|svid| svid.x509_svid.clear()), "lacks x509_svid,"),
        ("no key", with(&|svid| svid.x509_svid_key.clear()), "lacks x509_svid_key"),
        ("no bundle", with(&|svid| svid.bundle.clear()), "lacks bundle"),
        ("bad ID", with(&|svid| svid.spiffe_id = "https://a".into()), "is not a SPIFFE ID"),
        ("another ID", with(&|svid| svid.spiffe_id = id("web")), "its certificate is of"),
        (
            "cut chain",
            with(&|svid| svid.x509_svid = cut(&svid.x509_svid)),
            "certificate 1 in x509_svid cannot be read",
        ),
        ("bytes after the chain", with(&|svid| svid.x509_svid.push(0)), "certificate 2 in x509_svid"),
        ("a CA", with(&|svid| svid.x509_svid = svid.bundle.clone()), "x509_svid is a CA's"),
        (
            "cut key",
            with(&|svid| svid.x509_svid_key = cut(&svid.x509_svid_key)),
            "the key in x509_svid_key cannot",
        ),
        (
            "another's key",
            with(&|own| own.x509_svid_key = svid(&pair.ca, "orders").x509_svid_key),
            "does not belong to the first certificate",
        ),
        (
            "cut bundle",
            with(&|svid| svid.bundle = cut(&svid.bundle)),
            "certificate 1 in bundle cannot be read",
        ),
        ("a leaf as CA", with(&|svid| svid.bundle = svid.x509_svid.clone()), "is not a CA's"),
        (
            "two domains",
            Issued { svids: vec![good.clone(), foreign], ..Issued::default() }.into(),
            "two trust domains",
        ),
        ("bad domain", federated("spiffe://Elsewhere", good.bundle.clone()), "is not a trust domain"),
        (
            "empty federated bundle",
            federated("spiffe://elsewhere.test", Vec::new()),
            "elsewhere.test] is empty",
        ),
        (
            "cut federated bundle",
            federated("spiffe://elsewhere.test", cut(&good.bundle)),
            "certificate 1 in fed",
        ),
        (
            "no list",
            Issued { crl: vec![vec![1, 2]], ..good.clone().into() }.into(),
            "revocation list crl is refused",
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_bad_answer_is_refused_with_its_reason_and_the_identity_in_use_serves_on() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let agent = Agent::new(svid(&pair.ca, "orders"));
    let mut orders = Driven::orders(&pair, &agent);
    orders.is_issued().await;
    for (name, answer, words) in bad(&pair) {
        let generation = orders.sidecar.controller.generation();
        agent.say(answer);
        let why = orders.fails().await;
        assert!(why.contains(words), "{name}: {why}");
        assert!(orders.is_silent(60).await, "{name}: told once");
        assert_eq!(orders.sidecar.controller.generation(), generation, "{name}");
        assert_eq!(
            pair.peer(AT, Purpose::Http1).await.get("/").await.status_and_reason(),
            (200, None),
            "{name}"
        );
        agent.say(svid(&pair.ca, "orders"));
        orders.is_issued().await;
    }
    agent.say(Answer::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let why = orders.fails().await;
    assert!(why.contains("broke off"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn the_first_of_several_svids_is_the_identity_and_keys_are_in_no_message() {
    let pair = Pair::new();
    let agent = Agent::new(Issued {
        svids: vec![svid(&pair.ca, "orders"), svid(&pair.ca, "web")],
        ..Issued::default()
    });
    let mut orders = Driven::orders(&pair, &agent);
    match orders.heard().await {
        News::Issued(credentials) => {
            assert_eq!(credentials.id.as_str(), id("orders"));
            assert!(!format!("{credentials:?}").contains("key"));
        }
        other => unreachable!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_trust_domain_that_is_configured_must_be_that_of_the_answer() {
    let pair = Pair::new();
    let agent = Agent::new(svid(&pair.ca, "orders"));
    let yaml = application_at(AT, &format!("app: {A}"))
        + "identity: { workload_api: unix:///run/agent.sock, trust_domain: elsewhere }\n";
    let mut orders = Driven::start(&pair, &agent, &yaml);
    let why = orders.fails().await;
    assert!(why.contains("identity.trust_domain says \"elsewhere\""), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_service_of_another_trust_domain_waits_for_its_bundle_alone() {
    let (pair, partner) =
        (Pair::new(), Pair { ca: Ca::generate("partner.example").expect("a CA"), ..Pair::new() });
    let app = pair.mesh.answering(A, OK);
    let far = "spiffe://partner.example/billing";
    let pem = partner.ca.issue(&far.parse().expect("an identity"), &[], secs(3600)).expect("issued");
    let own = pem.credentials().expect("credentials");
    let federated = own.federated_with("cluster.local", "ca".as_ref(), pair.ca.certificate_pem().as_bytes());
    let _billing = pair.application_as("10.1.0.9:15006", A, federated.expect("a bundle"));
    let _orders = pair.application(AT, A);

    let near = svid(&pair.ca, "web");
    let agent = Agent::new(near.clone());
    let services = format!(
        "endpoints: [\"{AT}\"], {ORDERS}, listen: 10.2.0.1:80 }}\n  billing: {{ listen: 10.2.0.2:80, \
                            endpoints: [\"10.1.0.9:15006\"], tls: \"{far}\""
    );
    let mut web = Driven::start(&pair, &agent, &(caller(&services) + API));
    web.is_issued().await;
    let ask = async |to: &str| {
        let io =
            pair.mesh.memory.connect(to.parse().expect("an address")).await.expect("the sidecar listens");
        super::peer::Peer::new(io).get("/").await
    };
    assert_eq!(ask("10.2.0.1:80").await.status_and_reason(), (200, None));
    let waits = ask("10.2.0.2:80").await;
    assert!(waits.body.contains("has issued no trust bundle of partner.example"), "{}", waits.body);

    let mut with = Issued::from(near.clone());
    with.federated_bundles.insert("spiffe://partner.example".into(), der(partner.ca.certificate_pem()));
    agent.say(with);
    web.is_issued().await;
    assert_eq!(ask("10.2.0.2:80").await.status_and_reason(), (200, None));
    agent.say(near);
    web.is_issued().await;
    assert_ne!(
        ask("10.2.0.2:80").await.status_and_reason().1,
        None,
        "what an answer lacks is no longer trusted"
    );
    assert_eq!(ask("10.2.0.1:80").await.status_and_reason(), (200, None));
    assert_eq!(app.hits(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_a_list_of_the_answer_revokes_is_refused() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let own = svid(&pair.ca, "orders");
    let agent = Agent::new(own.clone());
    let mut orders = Driven::orders(&pair, &agent);
    orders.is_issued().await;
    let web = identity(&pair.ca, "web");
    let serial = parse(&web.chain()[0]).expect("a certificate").raw_serial().to_vec();
    let callers = pair.caller_as(&format!("endpoints: [\"{AT}\"], {ORDERS}, retry: off"), web);
    let mut client = callers.client().await;
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    let tomorrow = time::OffsetDateTime::now_utc() + secs(86_400);
    let list = der(&pair.ca.revoke(&[serial], tomorrow).expect("a list"));
    agent.say(Issued { crl: vec![list], ..own.into() });
    orders.is_issued().await;
    assert_ne!(client.get("/").await.status_and_reason(), (200, None));
}

#[tokio::test(start_paused = true)]
async fn a_reload_goes_over_from_files_to_an_agent_and_back() {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let scratch = Scratch::new();
    let pem = pair.ca.issue(&id("orders").parse().expect("an identity"), &[], secs(3600)).expect("issued");
    for (name, text) in [("tls.crt", &pem.certificate), ("tls.key", &pem.key), ("ca.crt", &pem.bundle)] {
        scratch.write(name, text);
    }
    let base = application_at(AT, &format!("app: {A}"));
    let files = format!("{base}identity: {{ directory: \"{}\" }}\n", scratch.path("").display());
    let api = format!("{base}{API}");
    let agent = Agent::new(svid(&pair.ca, "orders"));
    agent.leave();
    let mut orders = Driven::start(&pair, &agent, &files);
    let own = |driven: &Driven| driven.sidecar.controller.own_certificate();
    let of_files = own(&orders);

    orders.sidecar.reload(&api).expect("a good file");
    orders.source.follow(&read(&api));
    assert!(orders.fails().await.contains("cannot connect"));
    assert_eq!(own(&orders), of_files, "until the agent has answered");
    assert_eq!(pair.peer(AT, Purpose::Http1).await.get("/").await.status_and_reason(), (200, None));
    agent.come_back();
    orders.is_issued().await;
    assert_ne!(own(&orders), of_files);

    orders.sidecar.reload(&files).expect("a good file");
    orders.source.follow(&read(&files));
    assert_eq!(own(&orders), of_files);
    agent.say(svid(&pair.ca, "orders"));
    assert!(orders.is_silent(60).await, "the agent is not followed any more");
    assert!(!orders.sidecar.look_at_identity().expect("good files"));
}

#[tokio::test(start_paused = true)]
async fn a_running_sidecar_without_an_identity_does_not_wait_for_one() {
    let pair = Pair::new();
    let base = application_at(AT, &format!("app: {A}"));
    let mut sidecar = pair.mesh.sidecar(&base, None);
    let refused = sidecar.reload(&format!("{base}{API}")).expect_err("refused").to_string();
    assert!(refused.contains("takes a restart"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_could_not_be_put_to_use_are_offered_again() {
    let pair = Pair::new();
    let agent = Agent::new(svid(&pair.ca, "orders"));
    let mut orders = Driven::orders(&pair, &agent);
    let News::Issued(credentials) = orders.heard().await else { unreachable!("an identity") };
    let watch = Watch::start();
    orders.source.put_back(credentials);
    assert!(matches!(orders.heard().await, News::Issued(_)));
    assert_eq!(watch.seconds(), 10);
    pass(60).await;
    assert!(orders.is_silent(60).await);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Damaged answers, and arbitrary bytes.
    #[test]
    fn no_answer_panics_and_the_identity_in_use_stays(
        noise in prop::collection::vec(any::<u8>(), 0..64),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        use pillion_grpc::prost::Message as _;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let pair = Pair::new();
            let agent = Agent::new(svid(&pair.ca, "orders"));
            let mut orders = Driven::orders(&pair, &agent);
            orders.is_issued().await;
            let mut bytes = noise.clone();
            if !places.is_empty() {
                bytes = Issued::from(svid(&pair.ca, "orders")).encode_to_vec();
                for (place, byte) in places {
                    let at = place.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            agent.say(Answer::Bytes(bytes));
            match orders.heard().await {
                News::Issued(credentials) => assert_eq!(credentials.id.as_str(), id("orders")),
                News::Failed(_) => assert!(orders.sidecar.controller.awaits().is_none()),
                News::Same => {}
            }
        });
    }
}
