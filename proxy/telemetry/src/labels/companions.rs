//! Labels of the companions of the application.

vocabulary! {
    /// A kind of companion of the application.
    #[derive(PartialOrd, Ord)]
    CompanionKind as "companion" { Logs = "logs", Sync = "sync" }

    /// What became of a version for the file of a `sync`.
    SyncOutcome as "outcome" {
        /// It is in its place.
        Applied = "applied",
        /// Its check refused it.
        Refused = "refused",
        /// It could not be written or checked; it is tried again.
        Failed = "failed",
        /// The source does not have the file any more, and the last version stays.
        Deleted = "deleted",
        /// It is in its place, and the application could not be told.
        Untold = "untold",
    }

    /// What became of a record of a shipped file.
    LogOutcome as "outcome" {
        /// The sink has taken it.
        Delivered = "delivered",
        /// The sink has refused it for good.
        Refused = "refused",
        /// It was sent once more.
        Retried = "retried",
    }
}
