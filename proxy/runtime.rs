//! The ground a connection stands on: workers, deadlines, drain.

pub(crate) mod deadline;
pub mod drain;
pub(crate) mod worker;
