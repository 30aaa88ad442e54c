//! The ground a connection stands on: workers, their listeners, deadlines, drain.

pub(crate) mod deadline;
pub mod drain;
pub(crate) mod ground;
pub(crate) mod limits;
pub(crate) mod listening;
pub(crate) mod memory;
pub(crate) mod strangers;
pub(crate) mod worker;
