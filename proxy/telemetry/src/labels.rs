//! The values of labels, and the label sets made of them.
//!
//! A fixed set of values is an enum; any other value is a [`Symbol`]. Both take a few bytes, so that a label set is
//! hashed and compared without reading a string. Paths, user agents and names that a peer chooses are never labels.

use std::hash::Hash;

use super::symbols::{Symbol, Symbols};
pub use authorization::{AuthorizationMode, CheckOutcome, Decision, JwksOutcome, TokenOutcome};
pub use companions::{CompanionKind, LogOutcome, SyncOutcome};
pub use connections::{
    ConnectionOutcome, DetectionVerdict, DnsOutcome, Flow, HandshakeOutcome, Protocol, Tls,
};
pub use kubernetes::{ListCause, WatchState};
use pillion_model::Direction;
pub use process::{CertificateUse, ReloadOutcome, Shed, SpanOutcome};
pub(super) use requests::OTHER_STATUS;
pub use requests::{CacheOutcome, EndpointLabels, MethodLabel, RequestLabels, RetryOutcome, TryOutcome};
pub use services::{EjectionCause, EndpointState, LimitLabel};

/// One label: its name and its value.
pub trait Label: Copy + Eq + Hash + Send + Sync + 'static {
    const NAME: &'static str;

    fn value(self, symbols: &Symbols) -> String;

    /// This label with its free-form value replaced.
    #[must_use]
    fn other(self) -> Self {
        self
    }
}

/// All labels of one series. Two sets with the same exported values must be equal, unless [`Self::MAY_COINCIDE`].
pub trait Labels: Copy + Eq + Hash + Send + Sync + 'static {
    /// Two sets may have the same exported values. Their series are exported as one.
    const MAY_COINCIDE: bool = false;

    fn names() -> Vec<&'static str>;

    /// The values in the order of [`Self::names`].
    fn values(self, symbols: &Symbols) -> Vec<String>;

    /// This set with every free-form value replaced by `other`. New sets are counted here beyond the bound.
    #[must_use]
    fn other(self) -> Self;

    /// A coarser set, for when even the sets of [`Self::other`] are too many. Only a few of these may exist.
    #[must_use]
    fn rest(self) -> Self {
        self.other()
    }
}

macro_rules! label_sets {
    ($($set:ident: $index:tt),+) => {
        impl<$($set: Label),+> Labels for ($($set,)+) {
            fn names() -> Vec<&'static str> {
                vec![$($set::NAME),+]
            }
            fn values(self, symbols: &Symbols) -> Vec<String> {
                vec![$(self.$index.value(symbols)),+]
            }
            fn other(self) -> Self {
                ($(self.$index.other(),)+)
            }
        }
    };
}
label_sets!(A: 0);
label_sets!(A: 0, B: 1);
label_sets!(A: 0, B: 1, C: 2);
label_sets!(A: 0, B: 1, C: 2, D: 3);
label_sets!(A: 0, B: 1, C: 2, D: 3, E: 4);

/// The label set of a family with only one series.
impl Labels for () {
    fn names() -> Vec<&'static str> {
        Vec::new()
    }
    fn values(self, _: &Symbols) -> Vec<String> {
        Vec::new()
    }
    fn other(self) -> Self {}
}

/// Declares fixed sets of values: each one's enum, its words, and the label.
macro_rules! vocabulary {
    ($($(#[$doc:meta])* $name:ident as $label:literal { $($(#[$word_doc:meta])* $word:ident = $text:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$word_doc])* $word),+ }

        impl $name {
            #[allow(dead_code)] // the whole vocabulary; not every one is walked through
            pub const ALL: &[Self] = &[$(Self::$word),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$word => $text),+ }
            }
        }

        impl $crate::labels::Label for $name {
            const NAME: &'static str = $label;

            fn value(self, _: &$crate::symbols::Symbols) -> String {
                self.as_str().to_owned()
            }
        }
    )+};
}

mod authorization;
mod companions;
mod connections;
mod kubernetes;
mod process;
mod requests;
mod services;

impl Label for Direction {
    const NAME: &'static str = "direction";

    fn value(self, _: &Symbols) -> String {
        self.as_str().to_owned()
    }
}

/// Labels whose value is a name of the configuration.
macro_rules! named {
    ($($(#[$doc:meta])* $label:ident as $name:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $label(pub Symbol);

        impl Label for $label {
            const NAME: &'static str = $name;

            fn value(self, symbols: &Symbols) -> String {
                symbols.name(self.0).as_ref().to_owned()
            }

            fn other(self) -> Self {
                Self(Symbol::OTHER)
            }
        }
    )+};
}

named! {
    /// A service.
    Service as "service";
    /// The name of a companion.
    NameLabel as "name";
    /// The rule of authorization that decided.
    RuleLabel as "rule";
    /// A route.
    RouteLabel as "route";
    /// A source of the log shipper.
    SourceLabel as "source";
    /// A sink of the log shipper.
    SinkLabel as "sink";
}
