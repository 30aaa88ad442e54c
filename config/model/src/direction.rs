//! The direction of traffic, seen from the application.

/// Whether requests go to the application or come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    /// Traffic from other workloads to the application.
    Inbound,
    /// Traffic from the application to other workloads.
    Outbound,
}

impl Direction {
    /// Both directions.
    pub const ALL: &[Self] = &[Self::Inbound, Self::Outbound];

    /// The word of metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}
