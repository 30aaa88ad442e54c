//! Labels of the watches of Kubernetes' API server.

vocabulary! {
    /// What the watches of Kubernetes' API server do.
    WatchState as "state" {
        /// All objects are asked for.
        Listing = "listing",
        Watching = "watching",
        /// The last question has failed, and the pause before the next one runs.
        Waiting = "waiting",
    }

    /// Why objects of Kubernetes are listed.
    ListCause as "cause" {
        Start = "start",
        /// Other services are followed.
        Services = "services",
        /// The server has forgotten what happened since the last list (410).
        Expired = "expired",
        /// The server does not accept where a watch would begin.
        Refused = "refused",
        /// What the server sent cannot be read.
        Unreadable = "unreadable",
    }
}
