//! Labels of services: their limits and their endpoints.

vocabulary! {
    /// The limits of a service's circuit breaker.
    LimitLabel as "limit" {
        Connections = "connections", ConnectionsPerEndpoint = "connections_per_endpoint", Pending = "pending", Requests = "requests", Retries = "retries",
    }

    EndpointState as "state" { Healthy = "healthy", Unhealthy = "unhealthy", Ejected = "ejected", Draining = "draining" }

    /// The condition of `outlier_detection` that ejected an endpoint.
    EjectionCause as "cause" {
        ConsecutiveErrors = "consecutive_errors", ErrorRate = "error_rate", GatewayErrors = "gateway_errors", ConnectFailures = "connect_failures",
    }
}
