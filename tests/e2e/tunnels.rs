//! HTTP connections that become tunnels (WebSockets, other upgrades, CONNECT), and `Expect: 100-continue`.

mod connect;
mod expect;
mod upgrade;
mod websocket;
