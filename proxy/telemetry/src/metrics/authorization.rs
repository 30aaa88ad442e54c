//! What is counted of authorization, of tokens and of the keys for them.

use super::Metrics;
use crate::family::IntCounter;
use crate::labels::{AuthorizationMode, CheckOutcome, Decision, JwksOutcome, RuleLabel, TokenOutcome};
use crate::symbols::Symbol;

impl Metrics {
    /// The counter of what authorization decides by a rule. Keep the handle.
    pub fn authorization(&self, decision: Decision, rule: Symbol, mode: AuthorizationMode) -> IntCounter {
        self.families.authorization.of((decision, RuleLabel(rule), mode))
    }

    /// Keep the handle.
    pub fn tokens(&self, outcome: TokenOutcome) -> IntCounter {
        self.families.tokens.of((outcome,))
    }

    pub fn checks(&self, outcome: CheckOutcome) -> IntCounter {
        self.families.checks.of((outcome,))
    }

    pub fn jwks_loads(&self, outcome: JwksOutcome) -> IntCounter {
        self.families.jwks_loads.of((outcome,))
    }
}
