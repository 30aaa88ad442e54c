//! The compiled `inbound.authorization`, with the counters of its rules.
//!
//! [`pillion_authz`] decides. Deliberately absent: how a request is read and answered (`layers::route`).

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use super::authorizer::Authorizer;
use super::tokens::{Keys, Tokens};
use pillion_authz::{Engine, Facts, Misfit, Verdict};
use pillion_base::error::Error;
use pillion_model::authorization::{self as model, Action, EncodedSlash, ExtAuthz, Mode, Rule};
use pillion_model::{Reason, SpiffeId};
use pillion_telemetry::{AuthorizationMode, Decision, Metrics, Symbol, family::IntCounter};

pub struct Authorization {
    /// What it was compiled from, so that a reload keeps it while nothing changes.
    pub of: model::Authorization,
    engine: Engine,
    rules: Box<[Decider]>,
    default: Decider,
    bad_path: Decider,
    opaque: Decider,
    jwt: Decider,
    outside: Decider,
    /// `None`: no token is read.
    pub tokens: Option<Tokens>,
    /// `None`: rules alone judge.
    pub authorizer: Option<Arc<Authorizer>>,
    metrics: Arc<Metrics>,
    /// The names under which it counts.
    pub names: Arc<HashSet<Symbol>>,
}

/// A rule, or what decides without one, as the log and the metrics name it.
struct Decider {
    name: Symbol,
    /// One for each decision; each appears with its first use.
    counters: [OnceLock<IntCounter>; Decision::ALL.len()],
}

/// What was decided, for the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    pub decision: Decision,
    pub rule: Symbol,
}

/// What the rules say of a request.
#[derive(Debug, Clone, Copy)]
pub struct Judged(Verdict);

/// A decision, and the error of what is refused.
pub type Judgement = (Decided, Result<(), Error>);

/// An opaque connection to the application.
#[derive(Clone, Copy)]
pub struct OpaqueConnection<'a> {
    pub peer: Option<&'a SpiffeId>,
    pub source: IpAddr,
    /// The application's port.
    pub port: u16,
    /// The configuration says that the port carries opaque bytes; they were not detected.
    pub is_declared: bool,
}

impl Authorization {
    /// `keys`: those of the issuer of `jwt`.
    pub fn new(
        of: &model::Authorization,
        keys: Option<Arc<Keys>>,
        authorizer: Option<Arc<Authorizer>>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let decider = |name: &str| Decider { name: metrics.intern(name), counters: Default::default() };
        let rules: Box<[Decider]> = of.rules.iter().map(|rule| decider(&rule.name)).collect();
        let named = [Rule::DEFAULT, Rule::BAD_PATH, Rule::OPAQUE, Rule::JWT, ExtAuthz::NAME];
        let [default, bad_path, opaque, jwt, outside] = named.map(decider);
        let others = [&default, &bad_path, &opaque, &jwt, &outside];
        let tokens = of.jwt.as_ref().zip(keys).map(|(jwt, keys)| Tokens::new(jwt, of, keys, metrics));
        Self {
            names: Arc::new(rules.iter().chain(others).map(|decider| decider.name).collect()),
            engine: Engine::new(of),
            rules,
            default,
            bad_path,
            opaque,
            jwt,
            outside,
            tokens,
            authorizer,
            metrics: metrics.clone(),
            of: of.clone(),
        }
    }

    /// Whether the paths of requests for this port are judged, by rules or by the external authorizer.
    pub fn judges_paths(&self, port: u16) -> bool {
        self.authorizer.is_some() || self.engine.names_paths(port)
    }

    pub const fn encoded_slash(&self) -> EncodedSlash {
        self.of.encoded_slash
    }

    pub fn is_enforced(&self) -> bool {
        self.of.mode == Mode::Enforce
    }

    /// Judges a request by the rules.
    pub fn judge(&self, facts: &Facts<'_>) -> Judged {
        Judged(self.engine.judge(facts))
    }

    /// The authorizer that must judge a request after the rules.
    pub fn authorizer_after(&self, judged: Judged) -> Option<&Arc<Authorizer>> {
        self.authorizer.as_ref().filter(|_| judged.0.action == Action::Allow)
    }

    /// Counts the decision of the rules, which is the last one.
    pub fn decided(&self, Judged(verdict): Judged) -> Judgement {
        let (decided, is_refused) = self.count(self.decider(verdict), verdict.action);
        (decided, if is_refused { Err(self.refusal(verdict)) } else { Ok(()) })
    }

    /// Counts a request whose path two readers could see differently.
    pub fn bad_path(&self, why: impl std::fmt::Display) -> Judgement {
        let (decided, is_refused) = self.count(&self.bad_path, Action::Deny);
        let refusal = || Error::new(Reason::BadRequest, format!("authorization judges paths, and {why}"));
        (decided, if is_refused { Err(refusal()) } else { Ok(()) })
    }

    /// Counts a request whose token is missing or bad, which is refused with `why`.
    pub fn bad_token(&self, why: Error) -> Judgement {
        let (decided, is_refused) = self.count(&self.jwt, Action::Deny);
        (decided, if is_refused { Err(why) } else { Ok(()) })
    }

    /// Counts a request that the external authorizer denies, or that it could not judge. It is refused with `why`.
    pub fn denied_outside(&self, why: Error) -> Judgement {
        let (decided, is_refused) = self.count(&self.outside, Action::Deny);
        (decided, if is_refused { Err(why) } else { Ok(()) })
    }

    /// Judges an opaque connection, and counts the decision.
    pub fn opaque(&self, connection: &OpaqueConnection<'_>) -> Judgement {
        let (decider, verdict) = self.judge_opaque(connection);
        let (decided, is_refused) = self.count(decider, verdict.action);
        let refusal = || match verdict.rule {
            None if std::ptr::eq(decider, &self.opaque) => Error::new(Reason::AuthzDenied, UNREADABLE),
            _ => self.refusal(verdict),
        };
        (decided, if is_refused { Err(refusal()) } else { Ok(()) })
    }

    /// What decides on a request, by its name, and the decision. Nothing is counted.
    pub fn explain(&self, facts: &Facts<'_>) -> (String, Verdict) {
        let verdict = self.engine.judge(facts);
        (self.name_of(self.decider(verdict)), verdict)
    }

    /// The same for an opaque connection.
    pub fn explain_opaque(&self, connection: &OpaqueConnection<'_>) -> (String, Verdict) {
        let (decider, verdict) = self.judge_opaque(connection);
        (self.name_of(decider), verdict)
    }

    /// For each rule, the first condition that does not fit.
    pub fn misfits<'a>(&'a self, facts: &Facts<'_>) -> impl Iterator<Item = Option<Misfit<'a>>> {
        self.engine.misfits(facts)
    }

    fn name_of(&self, decider: &Decider) -> String {
        self.metrics.name(decider.name).to_string()
    }

    /// Whether such a connection passes. Nothing is counted.
    pub fn passes_opaque(&self, connection: &OpaqueConnection<'_>) -> bool {
        !self.is_enforced() || self.judge_opaque(connection).1.action == Action::Allow
    }

    fn judge_opaque(&self, of: &OpaqueConnection<'_>) -> (&Decider, Verdict) {
        let OpaqueConnection { peer, source, port, is_declared } = *of;
        let needs_token = self.of.jwt.as_ref().is_some_and(|jwt| jwt.required);
        let needs_request = needs_token || self.authorizer.is_some();
        if !is_declared && (needs_request || self.engine.has_rules_for_http(port)) {
            return (&self.opaque, Verdict { action: Action::Deny, rule: None });
        }
        let verdict = self.engine.judge(&Facts { peer, source, port, request: None });
        (self.decider(verdict), verdict)
    }

    fn decider(&self, verdict: Verdict) -> &Decider {
        verdict.rule.and_then(|nth| self.rules.get(nth)).unwrap_or(&self.default)
    }

    /// The second value: whether it is refused.
    fn count(&self, decider: &Decider, action: Action) -> (Decided, bool) {
        let (decision, mode) = match (action, self.of.mode) {
            (Action::Allow, Mode::Enforce) => (Decision::Allowed, AuthorizationMode::Enforce),
            (Action::Allow, Mode::Audit) => (Decision::Allowed, AuthorizationMode::Audit),
            (Action::Deny, Mode::Enforce) => (Decision::Denied, AuthorizationMode::Enforce),
            (Action::Deny, Mode::Audit) => (Decision::WouldDeny, AuthorizationMode::Audit),
        };
        let rule = decider.name;
        if let Some(counter) = decider.counters.get(decision as usize) {
            counter.get_or_init(|| self.metrics.authorization(decision, rule, mode)).inc();
        }
        (Decided { decision, rule }, decision == Decision::Denied)
    }

    fn refusal(&self, verdict: Verdict) -> Error {
        let named = verdict.rule.and_then(|nth| self.of.rules.get(nth));
        let detail: Cow<'static, str> = match named {
            Some(rule) => format!("denied by the rule \"{}\" of inbound.authorization", rule.name).into(),
            None => "no rule of inbound.authorization matches, and its default is deny".into(),
        };
        Error::new(Reason::AuthzDenied, detail)
    }
}

const UNREADABLE: &str = "these bytes are not HTTP, and authorization rules for HTTP requests apply to this port: \
                          declare the port with `protocol: tcp` if it carries other bytes";
