//! The direction of traffic, seen from the application.

/// Whether requests go to the application or come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From others to the application.
    Inbound,
    /// From the application to others.
    Outbound,
}

impl Direction {
    /// Both.
    pub const ALL: &[Self] = &[Self::Inbound, Self::Outbound];

    /// The word of metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}
