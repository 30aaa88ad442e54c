//! HTTP that turns into something else: WebSockets and other upgrades, CONNECT; and bodies that wait to be asked for.

mod connect;
mod expect;
mod upgrade;
mod websocket;
