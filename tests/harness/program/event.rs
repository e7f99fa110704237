//! The program's log: one JSON object a line.
//!
//! Invariant: a missing or malformed field fails the test.

use std::net::SocketAddr;

use serde_json::{Map, Value};

/// One line of the log.
#[derive(Clone, Debug)]
pub struct Event {
    /// `INFO` and so on.
    pub level: String,
    /// The message.
    pub message: String,
    fields: Map<String, Value>,
}

impl Event {
    /// Parses a line; `None` if it is no event.
    pub fn parse(line: &str) -> Option<Self> {
        let mut value: Value = serde_json::from_str(line).ok()?;
        let level = value.get("level")?.as_str()?.to_owned();
        let Value::Object(fields) = value.get_mut("fields")?.take() else {
            return None;
        };
        let message = fields.get("message")?.as_str()?.to_owned();
        Some(Self { level, message, fields })
    }

    /// A field as text.
    pub fn text(&self, key: &str) -> String {
        match self.fields.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => panic!("no field {key}: {self:?}"),
        }
    }

    /// A numeric field.
    pub fn number(&self, key: &str) -> u64 {
        let text = self.text(key);
        text.parse().unwrap_or_else(|_| panic!("{key} is not a number: {self:?}"))
    }

    fn address(&self, key: &str) -> SocketAddr {
        let text = self.text(key);
        text.parse().unwrap_or_else(|_| panic!("{key} is not an address: {self:?}"))
    }
}

/// The `session` event of a connection that has ended.
#[derive(Clone, Debug)]
pub struct Session {
    /// Client address.
    pub client: SocketAddr,
    /// Server address.
    pub backend: SocketAddr,
    /// Datapath at the end of the connection.
    pub datapath: String,
    /// Bytes from client to server.
    pub sent: u64,
    /// Bytes from server to client.
    pub rcvd: u64,
    /// Bytes of both directions that the kernel moved.
    pub offloaded: u64,
    /// How the connection ended: `clean`, `client reset` and so on.
    pub end: String,
}

impl Session {
    pub(super) fn of(event: &Event) -> Option<Self> {
        (event.message == "session").then(|| Self {
            client: event.address("client"),
            backend: event.address("server"),
            datapath: event.text("datapath"),
            sent: event.number("sent"),
            rcvd: event.number("rcvd"),
            offloaded: event.number("offloaded"),
            end: event.text("end"),
        })
    }
}

/// The `stopped` event: totals of a program that has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSummary {
    /// Accepted clients.
    pub connections: u64,
    /// Clients that got no server.
    pub unserved: u64,
    /// Connections that did not end cleanly.
    pub broken: u64,
    /// Bytes from clients to servers.
    pub sent: u64,
    /// Bytes from servers to clients.
    pub rcvd: u64,
}

impl StopSummary {
    pub(super) fn of(event: &Event) -> Self {
        Self {
            connections: event.number("connections"),
            unserved: event.number("unserved"),
            broken: event.number("broken"),
            sent: event.number("sent"),
            rcvd: event.number("rcvd"),
        }
    }
}
